"""The second alignment: by landmarks found on the aligned face, where the first ones were far off."""

from __future__ import annotations

import contextvars
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_service.models.store import locate
from edge_service.settings import DetectionSettings, EdgeSettings, InferenceSettings
from edge_service.vision.align import ARCFACE
from edge_service.vision.decode import Pixels
from edge_service.vision.embed import DLIB, EMBEDDERS
from edge_service.vision.reader import AlignedFace, FaceReader
from edge_service.vision.realign import realign
from edge_service.vision.sessions import OrtSession
from edge_service.vision.yunet import YuNet
from shared.http.request_context import Caller, CallerGone, set_caller
from shared.metrics import Metrics
from tests.support.edge import SAMPLES, sample


@pytest.fixture(scope="module")
def network(models_folder: Path) -> YuNet:
    return YuNet(OrtSession(locate("face-detector", models_folder), InferenceSettings()), DetectionSettings())


@pytest.fixture(scope="module")
def faces(reader: FaceReader) -> list[AlignedFace]:
    """One face of each sample picture."""
    return [reader.read(sample(name)).faces[0] for name in SAMPLES]


def moved(face: Pixels, degrees: float, scale: float, right: float, down: float) -> Pixels:
    """A face that was aligned by other landmarks."""
    matrix = cv2.getRotationMatrix2D((56, 56), degrees, scale)
    matrix[:, 2] += right, down
    return np.asarray(cv2.warpAffine(face, matrix, (112, 112), flags=cv2.INTER_LINEAR), dtype=np.uint8)


def apart(reader: FaceReader, one: list[Pixels], other: list[Pixels]) -> float:
    """Degrees between the embeddings of faces, the mean."""
    cosines = np.vecdot(reader.embedder.embed(one).unit, reader.embedder.embed(other).unit)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).mean())


@pytest.mark.parametrize("change", [(-20, 1, 0, 0), (0, 0.85, 0, 0), (0, 1, 8, -6), (15, 0.9, 6, -4)])
def test_a_face_whose_first_landmarks_were_far_off_is_aligned_anew(
    reader: FaceReader, network: YuNet, faces: list[AlignedFace], change: tuple[float, float, float, float]
) -> None:
    straight = [realign(face.aligned, network) for face in faces]
    off = [moved(face, *change) for face in straight]
    again = [realign(face, network) for face in off]
    assert not any(one is other for one, other in zip(off, again, strict=True))
    assert all(face.shape == (112, 112, 3) and face.dtype == np.uint8 for face in again)
    assert apart(reader, straight, again) < 0.75 * apart(reader, straight, off)


@pytest.mark.parametrize("change", [(0, 1, 0, 0), (0, 1.02, 0, 0), (1, 1, 1, -1)])
def test_a_face_that_is_aligned_well_stays_as_it_is(
    network: YuNet, faces: list[AlignedFace], change: tuple[float, float, float, float]
) -> None:
    for face in faces:
        straight = moved(realign(moved(face.aligned, 15, 0.9, 6, -4), network), *change)
        assert realign(straight, network) is straight


def test_what_shows_no_face_stays_as_it_is(network: YuNet) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    for nothing in (np.zeros((112, 112, 3), np.uint8), np.full((112, 112, 3), 200, np.uint8), noise):
        assert realign(nothing, network) is nothing


@pytest.mark.parametrize("change", [(0, 1, 40, 0), (0, 1, 0, 35), (75, 1, 0, 0), (90, 1, 0, 0), (0, 0.5, 0, 0)])
def test_a_face_that_lies_elsewhere_is_not_followed(
    network: YuNet, faces: list[AlignedFace], change: tuple[float, float, float, float]
) -> None:
    for face in faces:
        straight = realign(face.aligned, network)
        elsewhere = moved(straight, *change)
        assert realign(elsewhere, network) is elsewhere


def test_the_edge_embeds_what_was_aligned_twice_unless_it_is_set_otherwise(
    reader: FaceReader, network: YuNet, faces: list[AlignedFace], tmp_path: Path
) -> None:
    settings = EdgeSettings(home=tmp_path, detection=DetectionSettings(align_twice=False))
    once = FaceReader(settings, Metrics("edge"))
    aligned = [face.aligned for face in faces]
    twice = [realign(face, network) for face in aligned]
    np.testing.assert_allclose(once.embed(faces).unit, reader.embedder.embed(aligned).unit, atol=1e-5)
    np.testing.assert_allclose(reader.embed(faces).unit, reader.embedder.embed(twice).unit, atol=1e-5)
    assert apart(reader, aligned, twice) > 1
    assert once.pin == reader.pin, "it belongs to no contract"


def test_faces_that_were_read_keep_their_first_alignment(reader: FaceReader, faces: list[AlignedFace]) -> None:
    before = [face.aligned.copy() for face in faces]
    reader.embed(faces)
    assert all(np.array_equal(face.aligned, kept) for face, kept in zip(faces, before, strict=True))


def test_an_embedder_for_which_it_was_not_measured_goes_without() -> None:
    assert not DLIB.align_twice, "measure it first"
    assert all(spec.alignment is ARCFACE for spec in EMBEDDERS.values() if spec.align_twice)


def test_no_further_face_is_aligned_for_a_caller_who_has_gone(reader: FaceReader, faces: list[AlignedFace]) -> None:
    caller = Caller("someone")
    caller.leave()

    def request() -> None:
        set_caller(caller)
        reader.embed(faces)

    with pytest.raises(CallerGone):
        contextvars.copy_context().run(request)
