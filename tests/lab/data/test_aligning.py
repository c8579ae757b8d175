"""Sets that somebody else aligned come onto the edge's template, and only those that need it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_service.settings import EdgeSettings
from edge_service.vision.decode import Pixels
from edge_service.vision.quality import level_for
from edge_service.vision.reader import FaceReader, single_face
from lab.data.alignment import Mending, border_of, filled, mending_of, moved
from lab.data.images import read_folder
from shared.metrics import Metrics

PICTURES = Path(__file__).parents[2] / "pictures"


@pytest.fixture(scope="module")
def faces() -> list[Pixels]:
    """Real faces as the edge aligns them, and each in a mirror."""
    reader = FaceReader(EdgeSettings(), Metrics("lab"))
    found = [
        single_face(reader.read(path.read_bytes()), level_for("auto", "probe")).aligned
        for path in sorted((PICTURES / "obama").iterdir())
        + sorted((PICTURES / "biden").iterdir())
        + sorted((PICTURES / "collins").iterdir())
    ]
    both = [*found, *(np.ascontiguousarray(face[:, ::-1]) for face in found)]
    assert len(both) >= 10
    return both


def _cut_out_close(face: Pixels) -> Pixels:
    made = face.copy()
    made[:30] = made[:, :9] = made[:, -9:] = 0
    return made


def test_faces_as_the_edge_aligns_them_are_left_alone(faces: list[Pixels]) -> None:
    mending = mending_of(faces)
    assert mending == Mending()
    assert mending(faces[0]) is faces[0]
    assert not str(mending)


@pytest.mark.parametrize(("right", "down"), [(8, 0), (-6, 5)])
def test_a_set_beside_the_template_is_moved_onto_it(faces: list[Pixels], right: int, down: int) -> None:
    found = mending_of([moved(face, -right, -down) for face in faces])
    assert (found.right, found.down) == (pytest.approx(right, abs=2), pytest.approx(down, abs=2))
    assert "moved by" in str(found)


def test_black_borders_are_filled_where_the_set_has_them(faces: list[Pixels]) -> None:
    assert mending_of([_cut_out_close(face) for face in faces]).fills
    few = [_cut_out_close(face) if at < 3 else face for at, face in enumerate(faces)]
    assert not mending_of(few).fills


def test_a_few_pictures_and_pictures_of_nobody_tell_nothing(faces: list[Pixels]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 112, 112, 3), dtype=np.uint8)
    assert mending_of(noise) == Mending()
    assert mending_of([moved(face, -8, 0) for face in faces[:5]]) == Mending()


def test_the_nearest_pixel_inside_fills_a_border(faces: list[Pixels]) -> None:
    face = np.maximum(faces[0], 20)
    cut = _cut_out_close(face)
    assert border_of(cut)[:30].all()
    assert not border_of(cut)[31:, 10:-10].any()
    made = filled(cut)
    assert np.array_equal(made[32:, 11:-11], face[32:, 11:-11])
    assert np.array_equal(made[10, 20:90], face[32, 20:90])
    assert made.min() >= 20
    assert filled(face) is face


def test_black_inside_a_face_and_a_black_picture_stay() -> None:
    face = np.full((112, 112, 3), 200, dtype=np.uint8)
    face[40:60, 40:60] = 0
    assert not border_of(face).any()
    assert filled(face) is face
    black = np.zeros_like(face)
    assert filled(black) is black


def test_what_moves_in_is_as_the_edge() -> None:
    face = np.random.default_rng(1).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    made = moved(face, 8, 0)
    assert np.array_equal(made[:, 8:], face[:, :-8])
    assert np.array_equal(made[:, :8], np.repeat(face[:, :1], 8, axis=1))
    assert np.array_equal(moved(face, 0, -2)[:-2], face[2:])


def test_a_folder_of_faces_beside_the_template_is_read_onto_it(faces: list[Pixels], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for at, face in enumerate(faces):
        cv2.imwrite(str(folder / f"{at:02d}.png"), cv2.cvtColor(moved(face, -8, 0), cv2.COLOR_RGB2BGR))
    found = read_folder(folder, cache=tmp_path / "cache")
    off = [np.abs(found.pixels[at].astype(int) - face)[:, 12:-12].mean() for at, face in enumerate(faces)]
    assert np.median(off) < 12
    assert np.array_equal(found.pixels[3], mending_of([moved(face, -8, 0) for face in faces])(moved(faces[3], -8, 0)))


def test_too_few_found_faces_and_faces_far_beside_the_template_move_nothing(
    faces: list[Pixels], caplog: pytest.LogCaptureFixture
) -> None:
    gray = [np.full((112, 112, 3), 128, dtype=np.uint8)] * 40
    assert mending_of([moved(face, -8, 0) for face in faces] + gray) == Mending()
    assert "are these aligned faces?" in caplog.text
    assert mending_of([moved(face, -30, 0) for face in faces]).right == 0
