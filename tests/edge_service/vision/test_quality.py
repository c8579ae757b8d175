"""Degraded pictures are refused for their degradation; good pictures are accepted."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_service.settings import DetectionSettings
from edge_service.vision.detect import Face, FaceDetector
from edge_service.vision.quality import FaceQuality, level_for, measure, objections
from edge_service.vision.reader import FaceReader, single_face
from shared.errors import FaceRefused
from tests.support.edge import SAMPLES, encoded, pasted, pixels, sample

Picture = np.ndarray[Any, np.dtype[np.uint8]]
LEVELS = ("low", "medium", "high")


def head() -> Picture:
    return np.asarray(Image.fromarray(pixels("obama/portrait.jpg")[100:800, 100:800]))


def refused(reader: FaceReader, picture: Picture, level: str = "high") -> list[str]:
    """All reasons of the refusal, or none."""
    try:
        single_face(reader.read(encoded(picture)), level)  # type: ignore[arg-type]
    except FaceRefused as refusal:
        return list(refusal.extra.get("reasons", [refusal.reason]))
    return []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_good_picture_is_accepted_at_every_level(reader: FaceReader, name: str, level: Any) -> None:
    single_face(reader.read(sample(name)), level)


def test_a_small_face_is_too_small(reader: FaceReader) -> None:
    small = np.asarray(Image.fromarray(head()).resize((66, 66), Image.Resampling.LANCZOS))
    assert "too_small" in refused(reader, pasted(small, 320, 320, (120, 120)), "low")


def test_a_blurred_face_is_blurred(reader: FaceReader) -> None:
    assert refused(reader, cv2.GaussianBlur(head(), (0, 0), 8)) == ["blurred"]


def test_a_dark_face_is_too_dark_and_not_blurred(reader: FaceReader) -> None:
    assert refused(reader, (head() * 0.2).astype(np.uint8)) == ["too_dark"]


def test_an_empty_room_has_no_face(reader: FaceReader) -> None:
    for level in (*LEVELS, "none"):
        assert refused(reader, np.full((400, 400, 3), 120, np.uint8), level) == ["no_face"]


def test_two_faces_of_one_size_are_several_but_a_face_far_behind_is_not(reader: FaceReader) -> None:
    large = np.asarray(Image.fromarray(head()).resize((400, 400)))
    beside = pasted(large, 900, 420, (10, 10), (450, 10))
    assert refused(reader, beside, "low") == ["several_faces"]
    assert refused(reader, beside, "none") == []
    behind = pasted(large, 640, 420, (10, 10))
    tiny = np.asarray(Image.fromarray(head()).resize((130, 130)))
    behind[10:140, 450:580] = tiny
    assert len(reader.read(encoded(behind)).faces) == 2
    assert refused(reader, behind, "high") == []


def turned(nose_x: float) -> float:
    """The measured turn of a face whose nose stands here, its eyes at 40 and 72."""
    points = np.array([[40, 50], [72, 50], [nose_x, 70], [44, 90], [68, 90]], np.float32)
    face = Face(np.array([20, 20, 70, 90], np.float32), points, 0.9)
    return measure(face, np.full((112, 112, 3), 128, np.uint8)).nose_offset


def test_the_turn_grows_as_the_nose_leaves_the_middle() -> None:
    assert turned(56) == pytest.approx(0, abs=1e-6)
    assert turned(64) == pytest.approx(0.5, abs=1e-6)
    assert turned(48) == turned(64)
    assert turned(72) == pytest.approx(1, abs=1e-6)


def test_eyes_at_one_place_are_a_face_turned_away() -> None:
    points = np.array([[40, 50], [40, 50], [45, 70], [44, 90], [50, 90]], np.float32)
    found = measure(Face(np.array([20, 20, 70, 90], np.float32), points, 0.9), np.zeros((112, 112, 3), np.uint8))
    assert found.nose_offset == 1.0


GOOD = FaceQuality(face_size_px=200, sharpness=10_000, brightness=128, nose_offset=0, detector_score=0.9, upright=True)


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"face_size_px": 5.0}, "too_small"),
        ({"brightness": 2.0}, "too_dark"),
        ({"nose_offset": 1.5}, "turned_away"),
        ({"sharpness": 0.0}, "blurred"),
    ],
)
def test_each_measure_has_its_reason_at_every_level(worse: dict[str, float], reason: str) -> None:
    for level in LEVELS:
        assert objections(GOOD, level) == []
        assert objections(GOOD.model_copy(update=worse), level) == [reason]
        assert objections(GOOD.model_copy(update=worse), "none") == []


def test_what_a_lower_level_refuses_the_higher_refuse_too() -> None:
    measures = np.random.default_rng(0)
    seen = set()
    for _ in range(3000):
        quality = FaceQuality(
            face_size_px=float(measures.uniform(5, 120)),
            sharpness=float(10 ** measures.uniform(-4, 3)),
            brightness=float(measures.uniform(0, 120)),
            nose_offset=float(measures.uniform(0, 1.5)),
            detector_score=0.9,
            upright=bool(measures.integers(0, 10)),
        )
        low, medium, high = (set(objections(quality, level)) for level in LEVELS)  # type: ignore[arg-type]
        assert low <= medium <= high
        seen.add((len(low), len(medium), len(high)))
    assert any(low < medium < high for low, medium, high in seen), "the levels differ"


def test_auto_asks_more_of_an_enrollment_than_of_a_probe() -> None:
    assert LEVELS.index(level_for("auto", "enroll")) > LEVELS.index(level_for("auto", "probe"))
    assert level_for("high", "probe") == "high"


@pytest.mark.parametrize("name", SAMPLES)
def test_an_upside_down_face_is_not_taken_for_upright(reader: FaceReader, name: str) -> None:
    upside_down = np.ascontiguousarray(pixels(name)[::-1, ::-1])
    two_passes = FaceDetector(reader.detector._network._session, DetectionSettings(search_further=False))
    assert not any(face.upright for face in two_passes.detect(upside_down))
    assert all(face.quarter_turns == 2 for face in reader.detector.detect(upside_down))
