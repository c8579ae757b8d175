"""Faces are found where the first pass misses them: close up, in a picture that lies on its side, and in a crowd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_service.settings import DetectionSettings
from edge_service.vision.detect import FaceDetector, _reduced
from edge_service.vision.reader import FaceReader, single_face
from lab.data.lfw import Lfw
from lab.evaluation.detection import composite, detectors, tally
from shared.errors import FaceRefused
from tests.support.edge import SAMPLES, encoded, pasted, pixels

Picture = np.ndarray[Any, np.dtype[np.uint8]]
# One core needs some 85 ns for each pixel of the network's input.
MOST_PIXELS = 16_500_000


class CountingSession:
    """A session that adds up the pixels it is shown."""

    def __init__(self, reader: FaceReader) -> None:
        self._session = reader.detector._network._session
        self.input_names, self.output_names = self._session.input_names, self._session.output_names
        self.pixels = 0

    def run(self, inputs: Any) -> Any:
        [blob] = inputs.values()
        self.pixels += blob.shape[2] * blob.shape[3]
        return self._session.run(inputs)


@pytest.fixture
def counted(reader: FaceReader) -> CountingSession:
    return CountingSession(reader)


def close_up(name: str, width: int, height: int) -> Picture:
    """A sample's face, cut inside its box, in place of a whole picture."""
    left, top, right, bottom = {
        "biden/standing.jpg": (456, 216, 685, 536),
        "collins/portrait.png": (187, 74, 259, 166),
        "obama/portrait.jpg": (395, 124, 586, 387),
    }[name]
    image = Image.fromarray(pixels(name)).crop((left, top, right, bottom))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(1000, 1250), (1279, 961), (2560, 1920), (6000, 700)])
def test_no_pixel_is_passed_over_where_a_picture_is_reduced(size: tuple[int, int]) -> None:
    """Black and white in turn are gray at a distance; a reduction that takes every second pixel leaves 127.5."""
    width, height = size
    board = (np.indices((height, width)).sum(axis=0) % 2 * 255).astype(np.uint8)
    reduced = _reduced(np.repeat(board[:, :, None], 3, axis=2), 640)
    assert max(reduced.shape[:2]) == 640
    assert abs(reduced.shape[0] * width - reduced.shape[1] * height) <= max(size)
    assert np.abs(reduced.astype(int) - 127.5).mean() < 40


@pytest.mark.parametrize("name", ["biden/standing.jpg", "collins/portrait.png", "obama/portrait.jpg"])
@pytest.mark.parametrize("size", [(468, 640), (1170, 1600)], ids=["640 px", "1600 px"])
def test_a_face_that_fills_the_picture_is_found(reader: FaceReader, name: str, size: tuple[int, int]) -> None:
    [face] = reader.detector.detect(close_up(name, *size))
    assert face.upright
    assert min(face.box[2] / size[0], face.box[3] / size[1]) > 0.7


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_photo_that_lies_on_a_side_is_taken_as_if_it_stood(reader: FaceReader, name: str, quarter_turns: int) -> None:
    upright = pixels(name)
    upright_face = single_face(reader.read(encoded(upright, "JPEG")), "medium")
    read = reader.read(encoded(np.ascontiguousarray(np.rot90(upright, quarter_turns)), "JPEG"))
    face = single_face(read, "medium")
    assert read.quarter_turns == (4 - quarter_turns) % 4
    one, other = reader.embed([upright_face, face]).unit
    # A turned picture is looked at larger, so that its landmarks differ a little. Two photos of a person: about 0.63.
    assert one @ other > 0.85


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_face_is_where_it_is_in_the_picture_as_sent(reader: FaceReader, quarter_turns: int) -> None:
    upright = pixels("collins/portrait.png")
    [expected] = reader.detector.detect(upright)
    [face] = reader.detector.detect(np.ascontiguousarray(np.rot90(upright, quarter_turns)))
    points = expected.landmarks
    for _ in range(quarter_turns):
        points = np.stack([points[:, 1], 511 - points[:, 0]], axis=1)
    np.testing.assert_allclose(face.landmarks, points, atol=3)
    left, top, width, height = face.box
    assert (points >= (left, top)).all()
    assert (points <= (left + width, top + height)).all()


def test_a_face_that_lies_beside_one_that_stands_is_turned_away(reader: FaceReader) -> None:
    head = pixels("collins/portrait.png")[:300, 60:360]
    picture = pasted(head, 700, 320, (10, 10))
    picture[10:310, 380:680] = head[::-1, ::-1]
    read = reader.read(encoded(picture), every_face=True)
    assert read.quarter_turns == 0
    assert [found.quality.upright for found in sorted(read.faces, key=lambda found: found.face.box[0])] == [True, False]


def test_a_face_on_a_poster_does_not_hide_the_one_that_fills_the_picture(reader: FaceReader) -> None:
    picture = close_up("obama/portrait.jpg", 936, 1280).copy()
    poster = cv2.resize(pixels("collins/portrait.png")[30:230, 130:330], (180, 180))
    picture[:180, -180:] = poster
    found = reader.detector.find(picture)
    assert found.total == 2
    assert [face.box[3] > 800 for face in found.faces] == [True, False]


def test_without_the_further_search_two_passes_are_all(reader: FaceReader, counted: CountingSession) -> None:
    detector = FaceDetector(counted, DetectionSettings(search_further=False))
    assert detector.detect(close_up("obama/portrait.jpg", 468, 640)) == []
    assert counted.pixels == 480 * 640


@pytest.mark.parametrize("kind", ["nobody", "a crowd", "a crowd upside down"])
def test_no_picture_costs_much_to_search(counted: CountingSession, kind: str) -> None:
    picture = np.full((4000, 4000, 3), 90, np.uint8)
    if kind != "nobody":
        head = cv2.resize(pixels("collins/portrait.png")[20:220, 120:320], (200, 200), interpolation=cv2.INTER_AREA)
        picture = np.tile(head, (20, 20, 1))
    found = FaceDetector(counted, DetectionSettings()).find(
        picture[::-1] if "down" in kind else picture, every_face=True
    )
    assert counted.pixels < MOST_PIXELS
    assert len(found.faces) <= 200


def test_a_crowd_is_counted_and_its_largest_faces_are_examined(reader: FaceReader) -> None:
    head = cv2.resize(pixels("collins/portrait.png")[20:220, 120:320], (100, 100), interpolation=cv2.INTER_AREA)
    read = reader.read(encoded(np.tile(head, (18, 12, 1)), "JPEG"), every_face=True)
    assert read.faces_found == 216
    assert len(read.faces) == 200


def test_nobody_upright_is_reported_as_before(reader: FaceReader) -> None:
    with pytest.raises(FaceRefused) as refused:
        single_face(reader.read(encoded(np.full((900, 700, 3), 90, np.uint8))), "low")
    assert refused.value.reason == "no_face"


@pytest.mark.slow(reason="detects faces in many pictures")
def test_few_faces_of_any_size_and_turn_are_missed() -> None:
    folder = os.environ.get("PATRONUS_FACE_DATA")
    if not folder:
        pytest.skip("PATRONUS_FACE_DATA names no folder with lfw112.tar")
    lfw, rng, both = Lfw(Path(folder)), np.random.default_rng(3), detectors()
    made = [composite(crop, rng) for crop in lfw.faces(lfw.names()[::1100])]
    found = [[one.is_found(way) for way in tally(both, one.pixels).found] for one in made]
    before, now = np.sum(found, axis=0)
    assert before < len(made) / 2
    assert now >= len(made) - 1
