"""``patronus protect --key``: under the key of a system of one's own; and progress where there is no terminal."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from edge_service.cli.output import Output
from patronus_face import ContractMismatch, Key, Protector
from shared.processes.progress_lines import ProgressLines
from tests.edge_service.cli.patronus_command import whole_command
from tests.support.patronus_profile import units


@pytest.fixture
def protect(tmp_path: Path) -> Callable[..., Result]:
    """The command over these embeddings, at a user who never started an edge."""

    def run(rows: np.ndarray, *arguments: object) -> Result:
        np.savez(tmp_path / "in.npz", embeddings=rows)
        command = ["protect", tmp_path / "in.npz", tmp_path / "out.npz", "--force", *arguments]
        home = {"PATRONUS_HOME": str(tmp_path / "home")}
        return CliRunner().invoke(whole_command(), [str(part) for part in command], env=home)

    return run


def templates(folder: Path) -> np.ndarray:
    with np.load(folder / "out.npz", allow_pickle=False) as file:
        return file["templates"]


def test_it_makes_the_templates_of_the_library(protect: Callable[..., Result], tmp_path: Path) -> None:
    rows, path = units(2100), tmp_path / "acme.key"
    ended = protect(rows, "--key", path)
    assert ended.exit_code == 0, ended.output
    assert "2100 sealed templates under the profile default-2" in ended.stdout
    assert "a new key. Keep a backup" in ended.stderr
    made = templates(tmp_path)
    np.testing.assert_array_equal(made, Protector.open("default-2", key=Key.load(path)).protect(rows))
    again = protect(rows, "--key", path)
    assert "a new key" not in again.stderr
    np.testing.assert_array_equal(templates(tmp_path), made)
    assert not (tmp_path / "home").exists()


def test_the_dimension_of_a_seal_is_that_of_the_file(protect: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "acme.key"
    assert protect(units(3, 512), "--key", path, "--profile", "seal", "--json").exit_code == 0
    refused = protect(units(3, 256), "--key", path, "--profile", "seal")
    assert isinstance(refused.exception, ContractMismatch)
    assert "is for embeddings of 512 values, and these have 256" in str(refused.exception)
    assert "is for the profile 'seal'" in str(protect(units(3), "--key", path).exception)


def test_a_file_that_cannot_be_read_makes_no_key(protect: Callable[..., Result], tmp_path: Path) -> None:
    refused = protect(np.ones((2, 128), np.int32), "--key", tmp_path / "acme.key")
    assert "are int32; save them as float32" in str(refused.exception)
    assert not (tmp_path / "acme.key").exists()


@pytest.mark.parametrize("also", [["--unsealed"], ["--gallery", "door"]])
def test_one_key_is_named(protect: Callable[..., Result], tmp_path: Path, also: list[str]) -> None:
    assert protect(units(1), "--key", tmp_path / "a.key", *also).exit_code == 2
    assert protect(units(1)).exit_code == 2


def test_progress_without_a_terminal_is_a_line_every_few_seconds() -> None:
    written = io.StringIO()
    with ProgressLines(Console(file=written, width=30), every_s=0.0) as progress:
        task = progress.add_task("protecting", total=20_000)
        progress.advance(task, 2_048)
        progress.update(task, completed=5_000)
    first, second = written.getvalue().splitlines()
    assert re.fullmatch(r"protecting: 2,048 of 20,000, [0-9,]+ a second", first)
    assert second.startswith("protecting: 5,000 of 20,000, ")


def test_progress_of_little_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(as_json=True).progress() as progress:
        assert isinstance(progress, ProgressLines)
        progress.advance(progress.add_task("protecting", total=2), 2)
    assert capsys.readouterr() == ("", "")


def test_results_of_a_key_file_are_json(protect: Callable[..., Result], tmp_path: Path) -> None:
    ended = protect(units(3), "--key", tmp_path / "acme.key", "--json")
    assert json.loads(ended.stdout) == {"protected": 3, "unperturbed": 0, "profile": "default-2", "sealed": True}
