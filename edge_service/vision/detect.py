"""Finds faces by several passes over a picture, until one finds a face the right way up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_service.settings import DetectionSettings
from edge_service.vision.decode import Pixels
from edge_service.vision.sessions import OrtSession
from edge_service.vision.yunet import Rows, YuNet
from shared.wire.edge import MAX_FACES

# No lying or upside-down face scored as high: of 1,018 pictures of LFW in all rotations the highest had 0.892. In
# passes at less than 640 pixels upside-down faces reached 0.924, so there the score alone does not decide.
_CERTAINLY_UPRIGHT: Final = 0.915
_UPRIGHT_MARGIN: Final = 0.01
# Two rotations whose scores are closer than this are scored again, at half the size. Otherwise 2 upside-down faces of
# 400 were taken for upright.
_UNSURE: Final = 0.05
# Sides of a crop, in pixels, and how many crops may have the largest side, so that a crowd costs no more than 0.3 s of
# one core. At 64 pixels, too, all of 31 upright and 29 lying faces were classified right.
_CROP_SIDES: Final = (192, 160, 128, 96, 64)
_LARGE_CROPS: Final = 8
# Faces, largest first, that decide whether another pass is needed, and whether a rotation is the right one.
_FACES_TO_STOP: Final = 4
# Faces, largest first, that decide whether the picture is rotated.
_FACES_TO_ROTATE: Final = 24

# YuNet misses 1 in 6 of the faces that are taller than about 500 pixels in what it is given. At 160 pixels it finds
# those that fill the picture, down to a fifth of its side, in 2.5 ms of one core.
_CLOSE_UP_SIDE: Final = 160
# A face may fill the picture although the first pass found another one, such as a face on a poster behind it. It is
# searched for where the faces found are smaller than the first share of the picture's longest side, and taken where it
# is larger than the second.
_SMALL_SHARE: Final = 0.1
_CLOSE_UP_SHARE: Final = 0.4
# Sides of the passes over a rotated picture: at 320 faces are found from a tenth of the longest side on, at 1280 those
# of 5 % of the height in a picture of 16 : 9. At 960, 2 of 400 faces were missed.
_ROTATED_SIDES: Final = (320, 1280)
# Most pictures without an orientation lie on one of their sides; few are upside down.
_ROTATIONS: Final = (1, 3, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face found in a picture, in pixels of that picture.

    Attributes:
        box: (4,) float32: left, top, width, height; may reach over the picture's edge.
        landmarks: (5, 2) float32, x and y of right eye, left eye, nose, right and left corner of the mouth,
            left and right being the subject's own.
        score: the detector's confidence, 0 to 1.
        quarter_turns: quarter turns counterclockwise after which the face was found, 0 to 3. Box and landmarks are
            those of the picture before its rotation.
        upright: whether the face is the right way up after that rotation.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float
    quarter_turns: int = 0
    upright: bool = True

    @property
    def area(self) -> float:
        """The area of the box, in pixels."""
        return float(self.box[2] * self.box[3])


@dataclass(frozen=True, slots=True)
class Detection:
    """The faces of a picture.

    Attributes:
        faces: at most ``MAX_FACES``, largest first.
        total: how many faces were found.
        quarter_turns: quarter turns counterclockwise that make the picture upright, 0 to 3.
    """

    faces: list[Face]
    total: int
    quarter_turns: int = 0

    @property
    def any_upright(self) -> bool:
        """Whether a face is the right way up."""
        return any(face.upright for face in self.faces)


class FaceDetector:
    """Finds faces.

    An ordinary picture takes one pass, at ``first_pass_side`` pixels. Where that finds no face that is the right way
    up, more passes follow:

    1. at 160 pixels, for a face that fills the picture;
    2. at ``second_pass_side``, for small faces in a large picture;
    3. at 320 and 1,280 pixels, over the picture rotated by 90, 270 and 180 degrees.

    Args:
        session: YuNet, with dynamic height and width, BGR 0 to 255.
        settings: thresholds, sides, and whether to search further than the first two passes.
    """

    def __init__(self, session: OrtSession, settings: DetectionSettings) -> None:
        self._settings = settings
        self._network = YuNet(session, settings)

    def detect(self, picture: Pixels, *, every_face: bool = False) -> list[Face]:
        """The faces of a picture, largest first, at most ``MAX_FACES``; see ``find``."""
        return self.find(picture, every_face=every_face).faces

    def find(self, picture: Pixels, *, every_face: bool = False) -> Detection:
        """Finds the faces of a picture.

        Args:
            picture: (h, w, 3) uint8 RGB.
            every_face: also search for small faces when the first pass finds a face.
        """
        search = _Search(self._network, picture)
        first, second = self._settings.first_pass_side, self._settings.second_pass_side
        further = self._settings.search_further
        view = _reduced(picture, first)
        rows = search.run_pass(view)
        if further and _may_miss_a_close_up(search.examine(rows, at_most=_FACES_TO_STOP), picture):
            rows = self._network.merge([rows, search.close_ups(view)])
        done = search.examine(rows, at_most=_FACES_TO_STOP).any_upright if further else bool(len(rows))
        if max(picture.shape[:2]) > first and (every_face or not done):
            view = _reduced(picture, second)
            rows = self._network.merge([rows, search.run_pass(view)])
        if further and not search.examine(rows, at_most=_FACES_TO_ROTATE).any_upright:
            return search.rotated(view, first) or search.examine(rows)
        return search.examine(rows)


class _Search:
    """Passes over one picture, and which of its faces are the right way up."""

    def __init__(self, network: YuNet, picture: Pixels) -> None:
        self._network = network
        self._picture = picture
        self._upright: dict[tuple[bytes, int], bool] = {}  # by row and rotation: no face is examined twice

    def run_pass(self, view: Pixels, quarter_turns: int = 0) -> Rows:
        """One pass over a reduced, rotated picture; rows in pixels of the picture itself."""
        rows = self._network.faces(_rotated(view, quarter_turns))
        height, width = view.shape[:2]
        rows = _unrotated(rows, quarter_turns, width, height)
        # By the real ratio of each side: rounding to whole pixels makes them differ a little.
        ratio = [self._picture.shape[1] / width, self._picture.shape[0] / height]
        rows[:, :14] *= np.tile(np.array(ratio, dtype=np.float32), 7)
        return rows

    def close_ups(self, view: Pixels) -> Rows:
        """Rows of faces that fill much of the picture and are the right way up."""
        rows = self.run_pass(_reduced(view, _CLOSE_UP_SIDE))
        least = _CLOSE_UP_SHARE * max(self._picture.shape[:2])
        return rows[[bool(row[3] >= least and self._is_upright(row, 0, _CROP_SIDES[0])) for row in rows]]

    def rotated(self, view: Pixels, first_side: int) -> Detection | None:
        """The faces after the first rotation with one of the largest the right way up."""
        for turns in _ROTATIONS:
            close, wide = (self.run_pass(_reduced(view, side), turns) for side in _ROTATED_SIDES)
            rows = self._network.merge([close, wide])
            if not self.examine(rows, turns, at_most=_FACES_TO_STOP, trust_score=False).any_upright:
                continue
            # Landmarks as good as in an upright picture need a first pass.
            first = self._network.merge([self.run_pass(_reduced(view, first_side), turns), wide])
            found = self.examine(first, turns)
            return found if found.any_upright else self.examine(rows, turns, trust_score=False)
        return None

    def examine(
        self, rows: Rows, quarter_turns: int = 0, *, at_most: int = MAX_FACES, trust_score: bool = True
    ) -> Detection:
        """The largest faces, each with whether it is the right way up.

        Args:
            rows: found after this rotation.
            quarter_turns: counterclockwise, 0 to 3.
            at_most: how many faces are examined.
            trust_score: whether a high score is enough, as it is in passes at 640 pixels and more.
        """
        largest = sorted(rows, key=lambda row: float(row[2] * row[3]), reverse=True)[:at_most]
        keys = [(row.tobytes(), quarter_turns) for row in largest]
        new = [(key, row) for key, row in zip(keys, largest, strict=True) if key not in self._upright]
        side = _crop_side(len(new))
        for key, row in new:
            certain = trust_score and float(row[14]) >= _CERTAINLY_UPRIGHT
            self._upright[key] = certain or self._is_upright(row, quarter_turns, side)
        faces = [
            Face(row[:4].copy(), row[4:14].reshape(5, 2).copy(), float(row[14]), quarter_turns, self._upright[key])
            for key, row in zip(keys, largest, strict=True)
        ]
        return Detection(faces, len(rows), quarter_turns)

    def _is_upright(self, row: Rows, quarter_turns: int, side: int) -> bool:
        """Whether a face is the right way up after this rotation.

        YuNet also finds lying and upside-down faces, with wrong landmarks, and its score alone does not reveal them. So
        where the score leaves a doubt, a crop of the face is scored in all four rotations; the right way up has the
        highest score. That takes some 16 ms on two cores.

        A face that is not found again counts as upright in the picture as sent, and not in a rotated one.
        """
        scores = self._scores_by_rotation(row, side)
        if max(scores) > 0 and sorted(scores)[-2] > max(scores) - _UNSURE:
            scores = [sum(both) for both in zip(scores, self._scores_by_rotation(row, side // 2), strict=True)]
        if quarter_turns == 0:
            return scores[0] + _UPRIGHT_MARGIN >= max(scores[1:])
        return 0 < scores[quarter_turns] == max(scores)

    def _scores_by_rotation(self, row: Rows, side: int) -> list[float]:
        """The best score around a face after 0 to 3 quarter turns; 0 where no face is found."""
        crop = _crop(self._picture, row, side)
        found = [self._network.faces(_rotated(crop, turns)) for turns in range(4)]
        return [float(rows[:, 14].max(initial=0.0)) for rows in found]


def _may_miss_a_close_up(found: Detection, picture: Pixels) -> bool:
    """Whether all upright faces are small, so a face that fills the picture may be missed."""
    small = _SMALL_SHARE * max(picture.shape[:2])
    return all(max(face.box[2:]) < small for face in found.faces if face.upright)


def _reduced(picture: Pixels, side: int) -> Pixels:
    """The picture, scaled down to this many pixels on its longest side."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Halves are means of 2 x 2 pixels, and the rest of the way is less than a half, so that no pixel is passed over.
    # As good as OpenCV's area interpolation, and of a picture of 1000 x 1250 in a ninth of its time.
    reduced = picture
    while min(reduced.shape[1] // size[0], reduced.shape[0] // size[1]) >= 2:
        half = (reduced.shape[1] // 2, reduced.shape[0] // 2)
        reduced = np.asarray(cv2.resize(reduced, half, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return np.asarray(cv2.resize(reduced, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _crop_side(faces: int) -> int:
    """The largest side at which the crops of so many faces stay within the pixel budget."""
    most = _LARGE_CROPS * _CROP_SIDES[0] ** 2
    return next((side for side in _CROP_SIDES if faces * side**2 <= most), _CROP_SIDES[-1])


def _crop(picture: Pixels, row: Rows, side: int) -> Pixels:
    """A square around the face, twice as wide, at no more than this many pixels."""
    left, top, width, height = (float(value) for value in row[:4])
    half = max(width, height)
    # The middle may lie in the margin by which the network's input was filled up.
    x = min(max(left + width / 2, 0), picture.shape[1] - 1)
    y = min(max(top + height / 2, 0), picture.shape[0] - 1)
    rows = slice(max(0, int(y - half)), max(1, int(y + half)))
    columns = slice(max(0, int(x - half)), max(1, int(x + half)))
    return _reduced(picture[rows, columns], side)


def _rotated(picture: Pixels, quarter_turns: int) -> Pixels:
    """The picture after quarter turns counterclockwise."""
    return np.ascontiguousarray(np.rot90(picture, quarter_turns))


def _unrotated(rows: Rows, quarter_turns: int, width: int, height: int) -> Rows:
    """Rows found after quarter turns, in pixels of the unrotated picture."""
    rows = rows.copy()
    for turn in range(quarter_turns, 0, -1):
        last = (width if turn % 2 else height) - 1  # x of the last column before this quarter turn
        boxes, points = rows[:, :4].copy(), rows[:, 4:14].reshape(-1, 5, 2).copy()
        rows[:, :4] = np.stack([last - boxes[:, 1] - boxes[:, 3], boxes[:, 0], boxes[:, 3], boxes[:, 2]], axis=1)
        rows[:, 4:14] = np.stack([last - points[:, :, 1], points[:, :, 0]], axis=2).reshape(-1, 10)
    return rows
