"""The faster graph gives what the converted one gives."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_service.models.convert import to_runnable
from edge_service.models.fast_graph import faster
from edge_service.models.manifest import load_manifest
from edge_service.models.store import locate, model_file, prepare
from shared.errors import SetupError
from tests.support.tiny_model import Tiny

CHANNELS = 5


def run(model: bytes, pixels: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: pixels})
    return np.asarray(found, np.float64)


def model_of(
    nodes: list[tuple[str, list[str], str, dict[str, Any]]], weights: dict[str, np.ndarray], rank: int = 4
) -> bytes:
    """A chain of layers on (1, 3, 12, 12) pixels; each ends in a value named after it, the last in `y`."""
    made = [helper.make_node(kind, inputs, [out], name=out, **attributes) for kind, inputs, out, attributes in nodes]
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"side_{axis}" for axis in range(rank)])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return bytes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()
    )


def chain(slopes: list[float], *, groups: int = 1, tail: str = "Conv") -> bytes:
    """Convolution, batch normalization, PReLU, and a layer behind it."""
    random = np.random.default_rng(3)
    weights = {
        "w0": random.normal(size=(CHANNELS, 3, 3, 3)),
        "w1": random.normal(size=(CHANNELS, CHANNELS // groups, 3, 3)),
        "b1": random.normal(size=CHANNELS),
        **{name: random.uniform(0.5, 2, CHANNELS) for name in ("gamma", "variance")},
        **{name: random.normal(size=CHANNELS) for name in ("beta", "mean")},
        "slopes": np.array(slopes).reshape(-1, 1, 1),
        "w2": random.normal(size=(4, CHANNELS, 1, 1)),
    }
    normalized = ["gamma", "beta", "mean", "variance"]
    last: dict[str, tuple[str, list[str], str, dict[str, Any]]] = {
        "Conv": ("Conv", ["p", "w2"], "y", {}),
        "BatchNormalization": ("BatchNormalization", ["p", *normalized], "y", {}),
        "Flatten": ("Flatten", ["p"], "y", {}),
    }
    return model_of(
        [
            ("Conv", ["x", "w0"], "c0", {"pads": [1, 1, 1, 1]}),
            ("Conv", ["c0", "w1", "b1"], "c1", {"pads": [1, 1, 1, 1], "group": groups, "strides": [2, 2]}),
            ("BatchNormalization", ["c1", *normalized], "n1", {}),
            ("PRelu", ["n1", "slopes"], "p", {}),
            last[tail],
        ],
        weights,
        rank=2 if tail == "Flatten" else 4,
    )


@pytest.mark.parametrize("tail", ["Conv", "BatchNormalization"])
@pytest.mark.parametrize("groups", [1, CHANNELS])
@pytest.mark.parametrize(
    "slopes", [[0.1, 0.2, 0.3, 0, 1], [-0.81, 0.5, 1.12, 1, 0], [1.5, 2, 3, 1.01, 9]], ids=["usual", "mixed", "over 1"]
)
def test_a_chain_is_equal(slopes: list[float], groups: int, tail: str) -> None:
    reference = chain(slopes, groups=groups, tail=tail)
    pixels = np.random.default_rng(4).normal(size=(1, 3, 12, 12)).astype(np.float32)
    expected, found = run(reference, pixels), run(faster(reference), pixels)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    kinds = {node.op_type for node in onnx.load_model_from_string(faster(reference)).graph.node}
    assert "PRelu" not in kinds


def test_a_graph_that_cannot_be_rewritten_is_refused() -> None:
    with pytest.raises(SetupError, match="cannot change signs"):
        faster(chain([1.5] * CHANNELS, tail="Flatten"))
    alone = model_of(
        [("Relu", ["x"], "r", {}), ("PRelu", ["r", "slopes"], "y", {})], {"slopes": np.full((3, 1, 1), 0.5)}
    )
    with pytest.raises(SetupError, match="follows no convolution"):
        faster(alone)


def test_slopes_of_at_most_1_need_no_change_of_signs() -> None:
    reference = chain([0.5] * CHANNELS, tail="Flatten")
    pixels = np.random.default_rng(4).normal(size=(1, 3, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(run(faster(reference), pixels), run(reference, pixels), atol=1e-4)


def test_what_two_layers_read_is_kept() -> None:
    """The normalization is one of two readers of the convolution: it stays a layer of its own."""
    normalized = ["gamma", "beta", "mean", "variance"]
    reference = model_of(
        [
            ("Conv", ["x", "w0"], "c", {}),
            ("BatchNormalization", ["c", *normalized], "n", {}),
            ("Add", ["c", "n"], "y", {}),
        ],
        {"w0": np.ones((CHANNELS, 3, 1, 1))} | dict.fromkeys(normalized, np.full(CHANNELS, 2.0)),
    )
    pixels = np.random.default_rng(4).normal(size=(1, 3, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(run(faster(reference), pixels), run(reference, pixels), atol=1e-5)


def test_the_published_embedder_is_equal(published: dict[str, onnx.ModelProto], models_folder: Path) -> None:
    entry = load_manifest().for_role("face-embedder")
    assert entry.faster is not None
    reference = to_runnable((models_folder / entry.source.file).read_bytes(), entry.converted)
    assert hashlib.sha256(reference).hexdigest() == entry.converted.sha256
    made = faster(reference)
    assert (hashlib.sha256(made).hexdigest(), len(made)) == (entry.faster.sha256, entry.faster.size)
    assert made == locate("face-embedder", models_folder).read()
    faces = np.random.default_rng(5).integers(0, 256, (4, 3, 112, 112)).astype(np.float32)
    one, other = run(reference, faces), run(made, faces)
    cosines = np.vecdot(one, other) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() >= 0.999999
    np.testing.assert_allclose(other, one, atol=1e-4)


def test_contracts_go_on_naming_the_converted_model(models_folder: Path) -> None:
    found = locate("face-embedder", models_folder)
    assert found.entry.faster is not None
    assert found.sha256 == found.entry.converted.sha256 == found.found
    assert found.run_found == found.entry.faster.sha256 != found.sha256
    assert (found.path.name, found.run_path.name) == ("sface_2021dec.onnx", "sface_2021dec.fast.onnx")


def test_a_folder_of_an_earlier_release_is_made_faster_without_a_source(
    published: dict[str, onnx.ModelProto], models_folder: Path, tmp_path: Path
) -> None:
    entry = load_manifest().for_role("face-embedder")
    manifest = load_manifest().model_copy(update={"models": (entry,)})
    reference = to_runnable((models_folder / entry.source.file).read_bytes(), entry.converted)
    (tmp_path / entry.converted.file).write_bytes(reference)
    said: list[str] = []
    assert model_file(entry, tmp_path).state == "missing"
    [ready] = prepare(manifest, tmp_path, tmp_path / "nowhere", None, said.append)
    assert ready.state == "ready"
    assert said == ["sface_2021dec.fast.onnx: making it of sface_2021dec.onnx", "sface_2021dec.onnx: ready"]
    receipt = json.loads((tmp_path / entry.receipt).read_bytes())
    assert receipt["converted_sha256"] == entry.converted.sha256
    assert receipt["run_sha256"] == ready.run_found


def test_a_faster_form_with_another_digest_is_refused(tiny: Tiny) -> None:
    tiny.entry["faster"] = {"file": "tiny.fast.onnx", "sha256": "1" * 64, "size": 1, "note": "a test"}
    assert "The model tiny.fast.onnx" in tiny.failure(tiny.given())


@pytest.mark.parametrize("content", [None, b"half"], ids=["missing", "damaged"])
@pytest.mark.parametrize("which", ["path", "run_path"])
def test_a_missing_or_damaged_file_is_named_and_made_again(tiny: Tiny, which: str, content: bytes | None) -> None:
    made = faster(to_runnable(tiny.source, tiny.manifest().models[0].converted))
    digest = hashlib.sha256(made).hexdigest()
    tiny.entry["faster"] = {"file": "tiny.fast.onnx", "sha256": digest, "size": len(made), "note": "a test"}
    [model] = tiny.prepare()
    assert (model.run_path.name, model.read()) == ("tiny.fast.onnx", made)
    path: Path = getattr(model, which)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=rf"{re.escape(path.name)} (is missing|has SHA-256 .*); run `patronus"):
        locate("face-embedder", tiny.folder, tiny.manifest())
    tiny.prepare()
    assert locate("face-embedder", tiny.folder, tiny.manifest()) == model
