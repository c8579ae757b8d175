"""Detection, alignment and embedding give the results of OpenCV's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image

from edge_service.models.fetch import fetch_source
from edge_service.models.files import write_whole
from edge_service.models.manifest import load_manifest
from edge_service.settings import DetectionSettings
from edge_service.vision.align import TEMPLATE, align, similarity_transform
from edge_service.vision.detect import FaceDetector
from edge_service.vision.reader import FaceReader
from tests.support.edge import SAMPLES, encoded, pasted, pixels
from tests.support.tiny_model import named_sources

Picture = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="session")
def sources(models_folder: Path) -> dict[str, Path]:
    """Each role's own model as published, beside the converted ones."""
    found = {}
    for entry in load_manifest().wanted():
        path = models_folder / entry.source.file
        if not path.exists():
            write_whole(path, fetch_source(entry, on_event=lambda _: None, **named_sources()))
        found[entry.role] = path
    return found


@pytest.fixture(scope="session")
def opencv_recognizer(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    # OpenCV 5 refuses the inputs left behind in the published graph, so they alone are taken out.
    model = onnx.load(sources["face-embedder"])
    del model.graph.input[1:]
    path = tmp_path_factory.mktemp("opencv") / "published.onnx"
    onnx.save(model, path)
    return cv2.FaceRecognizerSF.create(str(path), "")


@pytest.fixture(scope="session")
def detector(reader: FaceReader) -> FaceDetector:
    return reader.detector


def opencv_faces(sources: dict[str, Path], bgr: Picture) -> Any:
    size = (bgr.shape[1], bgr.shape[0])
    theirs = cv2.FaceDetectorYN.create(str(sources["face-detector"]), "", size, 0.8, 0.3, 5000)
    return theirs.detect(bgr)[1]


def at_most_640(name: str) -> Picture:
    image = Image.fromarray(pixels(name))
    image.thumbnail((640, 640))
    return np.ascontiguousarray(image)


@pytest.mark.parametrize("name", SAMPLES)
def test_faces_are_those_that_opencv_finds(sources: dict[str, Path], detector: FaceDetector, name: str) -> None:
    rgb = at_most_640(name)
    [ours] = detector.detect(rgb)
    [theirs] = opencv_faces(sources, np.ascontiguousarray(rgb[:, :, ::-1]))
    np.testing.assert_allclose(ours.box, theirs[:4], atol=1e-2)
    np.testing.assert_allclose(ours.landmarks.ravel(), theirs[4:14], atol=1e-2)
    assert abs(ours.score - theirs[14]) < 1e-4


@pytest.mark.parametrize("name", SAMPLES)
def test_alignment_and_embedding_are_those_of_opencv(
    reader: FaceReader, opencv_recognizer: Any, detector: FaceDetector, name: str
) -> None:
    rgb = pixels(name)
    [face] = detector.detect(rgb)
    ours = align(rgb, face.landmarks)
    row = np.concatenate([face.box, face.landmarks.ravel(), [face.score]]).astype(np.float32)[None]
    theirs = opencv_recognizer.alignCrop(np.ascontiguousarray(rgb[:, :, ::-1]), row)
    difference = np.abs(ours[:, :, ::-1].astype(int) - theirs)
    assert difference.mean() < 0.01
    unit = reader.embedder.embed([np.ascontiguousarray(theirs[:, :, ::-1])]).unit[0].astype(np.float64)
    feature = opencv_recognizer.feature(theirs)[0].astype(np.float64)
    assert unit @ feature / np.linalg.norm(feature) >= 0.99999
    own = reader.embedder.embed([ours]).unit[0].astype(np.float64)
    assert own @ feature / np.linalg.norm(feature) >= 0.99999


def test_a_batch_gives_what_each_face_gives_alone(reader: FaceReader) -> None:
    faces = [found for name in SAMPLES for found in reader.read(pixels_as_png(name)).faces]
    many = (faces * 5)[:18]  # more than one batch
    together = reader.embed(many)
    alone = [reader.embed([face]) for face in faces]
    for position in range(len(many)):
        expected = alone[position % len(faces)]
        np.testing.assert_allclose(together.unit[position], expected.unit[0], atol=1e-5)
        np.testing.assert_allclose(together.norms[position], expected.norms[0], rtol=1e-4)
    assert np.abs(np.linalg.norm(together.unit.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert "0." not in repr(together), "no value of an embedding is shown"


def pixels_as_png(name: str) -> bytes:
    return encoded(at_most_640(name))


@pytest.mark.parametrize("bad", [np.zeros((1, 112, 112), np.uint8), np.zeros((1, 64, 64, 3), np.uint8),
                                 np.zeros((1, 112, 112, 3), np.float32)])  # fmt: skip
def test_what_is_no_aligned_face_is_not_embedded(reader: FaceReader, bad: Any) -> None:
    with pytest.raises(ValueError, match="112, 112, 3"):
        reader.embedder.embed(bad)


class PassRecorder:
    """A session that counts how often it was run, and at which sizes."""

    def __init__(self, session: Any) -> None:
        self.input_names, self.output_names, self._session = session.input_names, session.output_names, session
        self.sizes: list[int] = []

    def run(self, inputs: Any) -> Any:
        [blob] = inputs.values()
        self.sizes.append(max(blob.shape[2:]))
        return self._session.run(inputs)


@pytest.fixture
def recorder(detector: FaceDetector) -> PassRecorder:
    return PassRecorder(detector._network._session)


def head(side: int) -> Picture:
    """Collins' head with a face of about this many pixels."""
    cut = Image.fromarray(pixels("collins/portrait.png")[:300, 60:360])
    return np.asarray(cut.resize((300 * side // 90, 300 * side // 90), Image.Resampling.LANCZOS))


def test_a_small_face_in_a_large_picture_is_found_by_the_second_pass(recorder: PassRecorder) -> None:
    picture = pasted(head(40), 4000, 3000, (2600, 1900))
    [face] = FaceDetector(recorder, DetectionSettings()).detect(picture)
    assert recorder.sizes[:3] == [640, 160, 1920]
    assert 2600 < face.box[0] < 2734
    assert 1900 < face.box[1] < 2034
    assert 25 < face.box[2] < 55


def test_a_face_that_the_first_pass_finds_needs_no_second(recorder: PassRecorder) -> None:
    picture = pasted(head(400), 2000, 1500, (300, 100))
    detector = FaceDetector(recorder, DetectionSettings())
    assert len(detector.detect(picture)) == 1
    assert recorder.sizes == [640]
    assert len(detector.detect(picture, every_face=True)) == 1, "what both passes find is one face"
    assert recorder.sizes == [640, 640, 1920]


def test_a_picture_no_larger_than_the_first_pass_is_searched_once(recorder: PassRecorder) -> None:
    detector = FaceDetector(recorder, DetectionSettings(search_further=False))
    assert detector.detect(pasted(head(20), 640, 480), every_face=True) == []
    assert recorder.sizes == [640]


def test_every_face_is_found_largest_first(detector: FaceDetector) -> None:
    large, small = head(120), head(60)
    picture = pasted(large, 800, 450, (10, 10))
    picture[200 : 200 + len(small), 500 : 500 + len(small)] = small
    first, second = detector.detect(picture)
    assert first.area > second.area
    assert first.box[0] < 400 < second.box[0]


@pytest.mark.parametrize("picture", [
    np.full((480, 640, 3), 128, np.uint8),
    np.zeros((1, 1, 3), np.uint8),
    np.zeros((3, 5000, 3), np.uint8),
    np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8),
], ids=["grey", "one pixel", "a line", "noise"])  # fmt: skip
def test_where_nobody_is_no_face_is_found(detector: FaceDetector, picture: Picture) -> None:
    assert detector.detect(picture, every_face=True) == []


def test_alignment_undoes_any_turn_scale_and_shift() -> None:
    angle, scale, shift = 0.7, 2.5, np.array([300.0, -40.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = similarity_transform((TEMPLATE @ turn.T + shift).astype(np.float32))
    np.testing.assert_allclose(found[:, :2] @ turn, np.eye(2), atol=1e-6)
    with pytest.raises(ValueError, match="one point"):
        similarity_transform(np.ones((5, 2), np.float32))
