"""Embedders run as the edge runs them, and what they give is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_service.models.store import locate
from edge_service.settings import InferenceSettings
from edge_service.vision.embed import Embedder
from edge_service.vision.sessions import OrtSession
from lab.data.embedders import embed_images, open_encoder, unit
from lab.data.images import FaceImages
from shared.errors import SetupError


def _images(count: int = 20, digest: str = "a" * 64) -> FaceImages:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)
    names = np.array([f"face{at}" for at in range(count)], dtype=object)
    return FaceImages(names, np.full(count, None, dtype=object), pixels, digest)


def _own(folder: Path, values: np.ndarray | None = None, takes: int = 112, **result: object) -> Path:
    """An embedder that gives the mean of each channel times a matrix."""
    matrix = np.eye(3, 4, dtype=np.float32) if values is None else values
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["y"]),
        ],
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, takes, takes])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    path = folder / "own.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    if result:
        path.with_suffix(".embedder.json").write_text(json.dumps(result))
    return path


def test_a_served_embedder_gives_what_the_edge_gives(models_folder: Path) -> None:
    pixels = _images(3).pixels
    encoder = open_encoder("sface_2021dec")
    expected = Embedder(OrtSession(locate("face-embedder", models_folder), InferenceSettings())).embed(pixels)
    found = encoder.embed(pixels)
    assert np.abs(unit(found) - expected.unit).max() < 1e-6
    assert np.linalg.norm(found, axis=1) == pytest.approx(expected.norms, rel=1e-5)
    assert (encoder.dim, encoder.tau) == (128, 0.363)


def test_ones_own_embedder_gets_the_input_that_it_asks_for(tmp_path: Path) -> None:
    pixels = np.zeros((1, 112, 112, 3), np.uint8)
    pixels[...] = (10, 20, 30)
    plain = open_encoder(_own(tmp_path)).embed(pixels)
    assert plain.tolist() == [[10, 20, 30, 0]]
    result = {"side": 64, "channels": "BGR", "mean": [1, 2, 3], "scale": 0.5, "dim": 4}
    found = open_encoder(_own(tmp_path, takes=64, **result)).embed(pixels)
    assert found.tolist() == [[14.5, 9, 3.5, 0]]
    assert found.dtype == np.float32


def test_embeddings_are_made_once(tmp_path: Path) -> None:
    encoder, images = open_encoder(_own(tmp_path)), _images()
    first = embed_images(images, encoder, cache=tmp_path)
    assert np.array_equal(first, encoder.embed(images.pixels))
    gone = FaceImages(images.names, images.people, np.zeros_like(images.pixels), images.digest)
    assert np.array_equal(embed_images(gone, encoder, cache=tmp_path), first)


def test_another_set_or_preprocessing_is_embedded_anew(tmp_path: Path) -> None:
    embed_images(_images(), open_encoder(_own(tmp_path)), cache=tmp_path)
    embed_images(_images(digest="b" * 64), open_encoder(_own(tmp_path)), cache=tmp_path)
    embed_images(_images(), open_encoder(_own(tmp_path, scale=0.5)), cache=tmp_path)
    assert len(list((tmp_path / "embeddings").iterdir())) == 3


def test_an_interrupted_embedding_continues_where_it_was(tmp_path: Path) -> None:
    encoder, images = open_encoder(_own(tmp_path)), _images(600)
    whole, batches = encoder.embed(images.pixels), []

    def interrupted(pixels: np.ndarray) -> np.ndarray:
        batches.append(len(pixels))
        if len(batches) == 20:
            raise KeyboardInterrupt
        return encoder.network(pixels)

    with pytest.raises(KeyboardInterrupt):
        embed_images(images, replace(encoder, network=interrupted), cache=tmp_path)
    embed_again = replace(encoder, network=interrupted)
    found = embed_images(images, embed_again, cache=tmp_path)
    assert np.array_equal(found, whole)
    assert sum(batches[20:]) == 600 - 256  # the first part was kept
    assert len(list((tmp_path / "embeddings").iterdir())) == 1


def test_a_damaged_entry_is_made_anew(tmp_path: Path) -> None:
    encoder, images = open_encoder(_own(tmp_path)), _images()
    first = np.array(embed_images(images, encoder, cache=tmp_path))
    (entry,) = (tmp_path / "embeddings").iterdir()
    entry.write_bytes(entry.read_bytes()[:150])
    assert np.array_equal(embed_images(images, encoder, cache=tmp_path), first)


def test_another_dimension_than_was_said_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="embeddings of length 4 where 512 is said"):
        embed_images(_images(), open_encoder(_own(tmp_path, dim=512)), cache=tmp_path)
    assert not list(tmp_path.glob("embeddings/*"))


@pytest.mark.parametrize(("value", "result"), [(np.nan, "not finite"), (0.0, "a zero vector")])
def test_what_is_not_an_embedding_is_told_with_the_faces_name(value: float, result: str, tmp_path: Path) -> None:
    encoder = open_encoder(_own(tmp_path, np.full((3, 4), value, np.float32)))
    with pytest.raises(SetupError, match=f"{result} for face0"):
        embed_images(_images(), encoder, cache=tmp_path)


def test_the_face_that_is_named_is_the_bad_one(tmp_path: Path) -> None:
    images = _images()
    images.pixels[17] = 0
    with pytest.raises(SetupError, match="zero vector for face17"):
        embed_images(images, open_encoder(_own(tmp_path)), cache=tmp_path)


def test_a_wrong_side_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not take an input"):
        open_encoder(_own(tmp_path, takes=64)).embed(_images(1).pixels)


@pytest.mark.parametrize("result", [{"side": 1}, {"colour": "RGB"}, {"alignment": "none"}])
def test_a_json_that_is_not_valid_is_told(result: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=f"not valid at {next(iter(result))}"):
        open_encoder(_own(tmp_path, **result))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SetupError, match="name one of sface_2021dec"):
        open_encoder("facenet")
