"""The models commands, mounted and as `python -m edge_service.models`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_service.models.cli import app
from edge_service.models.manifest import CHECKOUT
from edge_service.models.store import locate
from shared.errors import SetupError
from tests.support.tiny_model import SOURCE, Tiny


@pytest.fixture
def manifest_file(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(tiny.document))
    monkeypatch.setenv("PATRONUS_MODEL_MANIFEST", str(path))
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def as_module(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_service.models", *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("manifest_file")
def test_list_tells_what_is_missing_and_fetch_makes_it_ready(tiny: Tiny, tmp_path: Path) -> None:
    before = invoke("list", "--folder", tiny.folder)
    assert (before.exit_code, str(before.exception)) == (1, "Not ready: tiny.onnx; run `patronus models fetch`.")
    (tmp_path / SOURCE).write_bytes(tiny.source)
    fetched = invoke("fetch", "--folder", tiny.folder, "--from", tmp_path, "--keep-source")
    assert (fetched.exit_code, fetched.stderr) == (0, "")
    assert tiny.left_behind() == ["tiny.json", "tiny.onnx", SOURCE]
    after = invoke("list", "--folder", tiny.folder)
    assert after.exit_code == 0
    assert after.stdout.split()[:3] == ["ready", "face-embedder", "tiny.onnx"]


def test_a_set_up_error_is_one_line_on_standard_error(tiny: Tiny, manifest_file: Path) -> None:
    manifest_file.write_text("{}")
    failed = as_module("fetch", "--folder", tiny.folder)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("The model manifest manifest.json is not valid")
    assert failed.stderr.count("\n") == 1


def test_an_optional_model_is_fetched_only_when_it_is_named(tiny: Tiny, manifest_file: Path, tmp_path: Path) -> None:
    tiny.entry["optional"] = True
    manifest_file.write_text(json.dumps(tiny.document))
    (tmp_path / SOURCE).write_bytes(tiny.source)
    assert invoke("fetch", "--folder", tiny.folder, "--from", tmp_path).exit_code == 0
    assert tiny.left_behind() == []
    listed = invoke("list", "--folder", tiny.folder)
    assert (listed.exit_code, listed.stdout.split()[0]) == (0, "optional")
    with pytest.raises(SetupError, match="run `patronus models fetch --embedder tiny`"):
        locate("face-embedder", tiny.folder, name="tiny")

    named = invoke("fetch", "--folder", tiny.folder, "--from", tmp_path, "--embedder", "tiny")
    assert named.exit_code == 0
    assert tiny.left_behind() == ["tiny.json", "tiny.onnx"]
    (tiny.folder / "tiny.onnx").write_bytes(b"damaged")
    assert invoke("list", "--folder", tiny.folder).exit_code == 1


def test_the_embedder_that_the_edge_is_set_to_is_the_one_that_is_fetched(
    tiny: Tiny, manifest_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.entry["optional"] = True
    manifest_file.write_text(json.dumps(tiny.document))
    (tmp_path / SOURCE).write_bytes(tiny.source)
    monkeypatch.setenv("PATRONUS_EDGE__EMBEDDER", "tiny")
    assert invoke("fetch", "--folder", tiny.folder, "--from", tmp_path).exit_code == 0
    assert "tiny.onnx" in tiny.left_behind()
