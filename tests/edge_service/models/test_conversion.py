"""The conversion is exact, repeatable and true to the published models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from edge_service.models.convert import fold, to_runnable
from edge_service.models.manifest import ConvertedFile, load_manifest
from edge_service.models.store import locate
from shared.errors import SetupError
from tests.support.tiny_model import Tiny

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def runner(model: bytes) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]
    return lambda values: dict(zip(names, session.run(names, {name: values}), strict=True))


@pytest.fixture(scope="session")
def detector(models_folder: Path) -> Run:
    return runner(locate("face-detector", models_folder).read())


@pytest.fixture(scope="session")
def embedder(models_folder: Path) -> Run:
    return runner(locate("face-embedder", models_folder).read())


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """`(height, width, 3) uint8`: smooth blobs with noise, so that every layer sees more than one frequency."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(np.float32))


def converted(tiny: Tiny) -> ConvertedFile:
    return tiny.manifest().models[0].converted


def test_the_folded_model_gives_what_the_published_one_defines(tiny: Tiny) -> None:
    # ONNX's own reference implementation runs the quantised model; the input left behind needs a value there.
    values = np.random.default_rng(0).uniform(0, 255, (1, 3, 8, 8)).astype(np.float32)
    stale = np.zeros((4, 3, 1, 1), np.float32)
    reference = ReferenceEvaluator(onnx.load_model_from_string(tiny.source))
    (expected,) = reference.run(None, {"x": values, "w_before_quantising": stale})
    found = runner(to_runnable(tiny.source, converted(tiny)))(values)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_only_used_weights_the_one_input_and_no_notes_remain(tiny: Tiny) -> None:
    model = onnx.load_model_from_string(to_runnable(tiny.source, converted(tiny)))
    assert [value.name for value in model.graph.input] == ["x"]
    assert [(tensor.name, list(tensor.dims)) for tensor in model.graph.initializer] == [("w", [4, 3, 1, 1])]
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert (model.producer_name, model.graph.node[0].doc_string, len(model.metadata_props)) == ("", "", 0)


def dequantize(data: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int, block: int) -> np.ndarray:
    arrays = {"data": data, "scale": scale, "zero": zero}
    node = onnx.helper.make_node("DequantizeLinear", list(arrays), ["weights"], axis=axis, block_size=block)
    assert fold(node, arrays)
    return arrays["weights"]


@pytest.mark.parametrize(
    ("scale", "zero", "axis", "block", "expected"),
    [
        (0.5, 1, 1, 0, [[0, 0.5, 1], [1.5, 2, 2.5]]),
        ([0.5, 2], [1, 4], 0, 0, [[0, 0.5, 1], [0, 2, 4]]),
        ([1, 2, 3], [0, 0, 0], -1, 0, [[1, 4, 9], [4, 10, 18]]),
        ([[1, 2], [3, 4]], [[0, 1], [0, 0]], 1, 2, [[1, 2, 4], [12, 15, 24]]),
    ],
)
def test_weights_are_dequantised_by_tensor_axis_and_block(
    scale: Any, zero: Any, axis: int, block: int, expected: Any
) -> None:
    data = np.array([[1, 2, 3], [4, 5, 6]], np.int8)
    found = dequantize(data, np.array(scale, np.float32), np.array(zero, np.int8), axis, block)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_the_full_range_of_eight_bits_does_not_overflow() -> None:
    low, high = np.array([-128], np.int8), np.array([127], np.int8)
    assert dequantize(low, np.array([2], np.float32), high, 0, 0).tolist() == [-510.0]


def test_weights_of_another_type_are_refused() -> None:
    with pytest.raises(SetupError, match="int32"):
        dequantize(np.zeros(2, np.int32), np.ones(1, np.float32), np.zeros(1, np.int32), 0, 0)


def test_a_model_with_other_names_than_the_contract_is_refused(tiny: Tiny) -> None:
    tiny.entry["converted"]["input"]["name"] = "pixels"
    with pytest.raises(SetupError, match="input names are x where the manifest has pixels"):
        to_runnable(tiny.source, converted(tiny))


@pytest.mark.parametrize("shape", [["batch", 5, "height", "width"], ["batch", 4]])
def test_a_contract_whose_shapes_cannot_be_is_refused(tiny: Tiny, shape: list[int | str]) -> None:
    tiny.entry["converted"]["outputs"][0]["shape"] = shape
    with pytest.raises(SetupError, match=r"tiny\.onnx cannot be converted"):
        to_runnable(tiny.source, converted(tiny))


def test_quantised_weights_that_would_stay_are_refused(tiny: Tiny) -> None:
    model = onnx.load_model_from_string(tiny.source)
    model.graph.node[0].op_type = "Cast"
    del model.graph.node[0].input[1:]
    with pytest.raises(SetupError, match="keeps quantised weights"):
        to_runnable(model.SerializeToString(), converted(tiny))


def test_bytes_that_are_no_model_are_refused(tiny: Tiny) -> None:
    with pytest.raises(SetupError, match="cannot be converted"):
        to_runnable(b"not a model", converted(tiny))


def test_without_onnx_the_extra_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edge_service.models.convert")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "extra 'models'" in tiny.failure(tiny.given())


def test_converting_the_published_models_again_gives_the_same_bytes(
    published: dict[str, onnx.ModelProto], models_folder: Path
) -> None:
    for entry in load_manifest().wanted():
        source = (models_folder / entry.source.file).read_bytes()
        assert to_runnable(source, entry.converted) == (models_folder / entry.converted.file).read_bytes()
        assert (models_folder / entry.converted.file).stat().st_size == entry.converted.size


def test_a_batch_of_faces_gives_what_each_face_gives_alone(embedder: Run) -> None:
    faces = np.concatenate([planes(picture(112, 112, seed)) for seed in range(3)])
    together = embedder(faces)["fc1"]
    alone = np.concatenate([embedder(face[None])["fc1"] for face in faces])
    assert together.shape == (3, 128)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_the_embedder_agrees_with_opencv(embedder: Run, published: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    # OpenCV 5 refuses the inputs left behind, so they alone are taken out; the weights stay quantised.
    model = onnx.ModelProto()
    model.CopyFrom(published["face-embedder"])
    del model.graph.input[1:]
    onnx.save(model, tmp_path / "published.onnx")
    opencv = cv2.FaceRecognizerSF.create(str(tmp_path / "published.onnx"), "")
    for seed in range(5):
        bgr = picture(112, 112, seed)
        ours = embedder(planes(bgr[:, :, ::-1]))["fc1"][0]
        theirs = opencv.feature(bgr)[0]
        assert float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)) >= 0.99999


@pytest.mark.parametrize(("width", "height"), [(320, 320), (640, 480), (1920, 1088), (96, 32)])
def test_the_detector_has_a_row_a_cell_and_agrees_with_opencv_at_any_size(
    detector: Run, published: dict[str, onnx.ModelProto], models_folder: Path, width: int, height: int
) -> None:
    pixels = planes(picture(height, width, 3))
    ours = detector(pixels)
    net = cv2.dnn.readNetFromONNX(str(models_folder / load_manifest().for_role("face-detector").source.file))
    net.setInput(pixels)
    theirs = dict(zip(ours, net.forward(list(ours)), strict=True))
    for name, found in ours.items():
        stride = int(name.rpartition("_")[2])
        assert found.shape[:2] == (1, (height // stride) * (width // stride))
        np.testing.assert_allclose(found, theirs[name].reshape(found.shape), atol=1e-4, err_msg=name)
