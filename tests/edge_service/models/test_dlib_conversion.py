"""dlib's own format is read exactly, and its network computes what dlib computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from edge_service.models.convert import to_runnable
from edge_service.models.dlib_file import NotDlib, read_network
from edge_service.models.fetch import fetch_source
from edge_service.models.manifest import ConvertedFile, load_manifest
from edge_service.models.store import locate
from shared.errors import SetupError
from tests.edge_service.models import dlib_writer
from tests.edge_service.models.dlib_writer import SIDE, tiny_network
from tests.support.tiny_model import named_sources

# The first eight values that dlib 20.0.1 gives for `pattern`.
DLIBS_OWN = [-0.086728, 0.094598, 0.04044, -0.029441, -0.070018, -0.062311, -0.035337, -0.00565]
DLIBS_LENGTH = 1.259259


def contract(side: int = SIDE, dim: int = 5) -> ConvertedFile:
    document = {
        "file": "tiny.onnx",
        "sha256": "0" * 64,
        "size": 1,
        "input": {
            "name": "face",
            "dtype": "float32",
            "layout": "NCHW",
            "shape": ["batch", 3, side, side],
            "channel_order": "RGB",
            "value_range": [0, 255],
            "side_multiple_of": None,
        },
        "outputs": [{"name": "embedding", "shape": ["batch", dim]}],
        "note": "a test",
    }
    return ConvertedFile.model_validate_json(json.dumps(document))


def picture(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def pattern() -> np.ndarray:
    """`(150, 150, 3) uint8`, the same everywhere."""
    y, x, channel = np.indices((150, 150, 3))
    return ((x * x + 3 * y * y + 40 * channel * x) // 64 % 256).astype(np.uint8)


def planes(*pictures: np.ndarray) -> np.ndarray:
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32)


def test_a_network_is_read_with_its_layers_in_the_order_in_which_they_run() -> None:
    network = read_network(tiny_network(picture())[0])
    kinds = [layer.kind for layer in network.layers]
    block = ["mark", "con_4", "affine_", "relu_", "con_4", "affine_"]
    halving = [*block, "mark", "mark", "avg_pool_2", "add_prev_", "relu_"]
    stem = ["con_4", "affine_", "relu_", "max_pool_2"]
    assert kinds == [*stem, *block, "add_prev_", "relu_", *halving, *halving, "avg_pool_2", "fc_2"]
    assert (network.side, network.mean) == (SIDE, dlib_writer.MEAN)


def test_the_converted_network_computes_what_the_layers_say() -> None:
    shown = [picture(seed) for seed in (1, 2)]
    source = tiny_network(shown[0])[0]
    model = to_runnable(source, contract(), "dlib")
    assert model == to_runnable(source, contract(), "dlib")
    (found,) = ReferenceEvaluator(model).run(None, {"face": planes(*shown)})
    np.testing.assert_allclose(found, [tiny_network(each)[1] for each in shown], rtol=1e-4, atol=1e-5)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"face": planes(*shown)})[0], found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keep", [0, 1, 20, 60, 300, 2000, -1])
def test_a_file_that_is_cut_off_is_refused(keep: int) -> None:
    source = tiny_network(picture())[0][:keep]
    with pytest.raises(
        SetupError, match=r"^The model for tiny\.onnx is not a dlib network that .*: .* expected|cut off"
    ):
        to_runnable(source, contract(), "dlib")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"relu_", b"rely_"),
        (b"loss_metric_2", b"loss_metric_3"),
        (b"max_pool_2", b"avg_pool_2"),
        (b"110", b"1x0"),
        (b"fc_2", b"fc_3"),
        (b"add_prev_", b"mul_prev_"),
    ],
)
def test_a_file_that_says_something_else_is_refused(old: bytes, new: bytes) -> None:
    source = tiny_network(picture())[0]
    changed = source.replace(old, new, 1)
    assert changed != source
    if old == b"max_pool_2":
        assert to_runnable(changed, contract(), "dlib") != to_runnable(source, contract(), "dlib")
        return
    with pytest.raises(NotDlib):
        read_network(changed)


def test_a_file_that_goes_on_is_refused() -> None:
    with pytest.raises(NotDlib):
        read_network(tiny_network(picture())[0] + b"\x01\x01")


def test_a_contract_of_another_shape_is_refused() -> None:
    with pytest.raises(SetupError, match=r"tiny\.onnx cannot be converted"):
        to_runnable(tiny_network(picture())[0], contract(dim=6), "dlib")


@pytest.fixture(scope="session")
def real(models_folder: Path) -> ort.InferenceSession:
    try:
        found = locate("face-embedder", models_folder, name="dlib_resnet29")
    except SetupError as missing:
        pytest.skip(missing.detail)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    return ort.InferenceSession(found.read(), options, providers=["CPUExecutionProvider"])


def test_the_embedder_gives_what_dlib_gives(real: ort.InferenceSession) -> None:
    (found,) = real.run(None, {"face": planes(pattern(), pattern()[:, ::-1])})
    assert found.shape == (2, 128)
    np.testing.assert_allclose(found[0, :8], DLIBS_OWN, atol=2e-6)
    assert np.linalg.norm(found[0]) == pytest.approx(DLIBS_LENGTH, abs=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_converting_the_published_file_again_gives_the_same_bytes(
    real: ort.InferenceSession, models_folder: Path
) -> None:
    entry = load_manifest().for_role("face-embedder", "dlib_resnet29")
    kept = models_folder / entry.source.file
    if not kept.exists():
        kept.write_bytes(fetch_source(entry, on_event=lambda _: None, **named_sources()))
    made = to_runnable(kept.read_bytes(), entry.converted, entry.source.format)
    assert made == (models_folder / entry.converted.file).read_bytes()
    assert len(made) == entry.converted.size
