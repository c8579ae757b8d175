"""Sets of faces that somebody else aligned: put onto the edge's template, and their black borders filled.

Such sets differ. Some stand on the template for 96 x 112 pixels with a strip added at one side, as LFW often does, some
were cut out close before they were aligned, so that a third of each picture is black, as UTKFace was. An embedder is
not itself on the former, and decoders learn to draw black on the latter. Both are seen on a sample and mended for the
set as a whole; what single faces have is left to them.

Filled borders are for decoders only. Matching is measured with the borders left black: once their borders are filled,
SFace takes two adults of UTKFace for each other 18 times as often (0.9 % against 0.05 %). With black borders it does so
as often as when the edge itself finds and aligns the faces.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_service.models.store import locate
from edge_service.settings import DetectionSettings, InferenceSettings
from edge_service.vision.align import TEMPLATE
from edge_service.vision.decode import Pixels
from edge_service.vision.detect import FaceDetector
from edge_service.vision.sessions import OrtSession

# How many faces of a set are looked at.
SAMPLE: Final = 100
# Fewer faces found than this, or a smaller share of the sample, tell nothing.
_FEWEST_FOUND: Final = 10
_LEAST_FOUND: Final = 0.5
# Pixels; a smaller shift of the whole set is the detector's own.
_LEAST_SHIFT: Final = 3
# Pixels; a larger one is no other template, and moving would leave little of a face.
_MOST_SHIFT: Final = 20
# Share of a picture that is border in the middle of the sample, from which on borders are filled.
_LEAST_BORDER: Final = 0.05
_BLACK: Final = 8  # of 255: JPEG leaves its traces
_BLURRED: Final = 2  # pixels beside the border that are half black
_ROOM: Final = 32  # pixels added on each side: the detector looks for faces with room around them

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mending:
    """What is done to every face of a set.

    Attributes:
        right: pixels by which it is moved to the right, negative to the left.
        down: the same downwards.
        fills: whether its black border is filled.
    """

    right: int = 0
    down: int = 0
    fills: bool = False

    def __call__(self, face: Pixels) -> Pixels:
        """(112, 112, 3) uint8 to the same, mended; what moves in, and the border, are as the nearest pixel."""
        made = filled(face) if self.fills else face
        return moved(made, self.right, self.down) if self.right or self.down else made

    def __str__(self) -> str:
        said = [f"moved by {self.right}, {self.down} pixels onto the template"] if self.right or self.down else []
        return ", ".join(said + (["black borders filled"] if self.fills else []))


def mending_of(faces: Iterable[Pixels], *, fills: bool = True) -> Mending:
    """Finds on a sample how a set is to be mended.

    Args:
        faces: some (112, 112, 3) uint8 RGB.
        fills: whether black borders may be filled.
    """
    sample = list(faces)
    if len(sample) < _FEWEST_FOUND:
        return Mending()
    shifts = _shifts(sample)
    right = down = 0
    if len(shifts) < max(_FEWEST_FOUND, _LEAST_FOUND * len(sample)):
        _log.warning("%d of %d faces looked at were found: are these aligned faces?", len(shifts), len(sample))
    else:
        right, down = np.rint(np.median(shifts, axis=0)).astype(int).tolist()
    border = float(np.median([border_of(face).mean() for face in sample]))
    far = np.hypot(right, down) >= _LEAST_SHIFT
    if np.hypot(right, down) > _MOST_SHIFT:
        _log.warning("faces lie %d, %d pixels beside the template, too far to be moved: align them anew", right, down)
        far = False
    return Mending(right if far else 0, down if far else 0, fills and border >= _LEAST_BORDER)


def border_of(face: Pixels) -> NDArray[np.bool_]:
    """Which pixels are black and joined to the outside: (h, w) bool."""
    black = np.pad(face.max(axis=2) <= _BLACK, 1, constant_values=True).astype(np.uint8)
    _, label = cv2.connectedComponents(black, connectivity=4)
    return np.asarray(label == label[0, 0])[1:-1, 1:-1]


def filled(face: Pixels) -> Pixels:
    """The face with each pixel of its black border as the nearest pixel inside; all black, it is left alone."""
    border = border_of(face).astype(np.uint8)
    if not border.any():
        return face
    wide = cv2.dilate(border, np.ones((2 * _BLURRED + 1,) * 2, np.uint8))
    if wide.all():
        return face
    _, nearest = cv2.distanceTransformWithLabels(wide, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    inside = wide == 0
    colour = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colour[nearest[inside]] = face[inside]
    return np.ascontiguousarray(colour[nearest])


def moved(face: Pixels, right: int, down: int) -> Pixels:
    """The face moved; what moves in is as the edge that it moved away from."""
    matrix = np.array([[1, 0, right], [0, 1, down]], dtype=np.float64)
    height, width = face.shape[:2]
    out = cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.uint8)


def with_room(face: Pixels) -> Pixels:
    """A face crop in a frame of its own border's colors."""
    return np.asarray(cv2.copyMakeBorder(face, *(_ROOM,) * 4, cv2.BORDER_REPLICATE), dtype=np.uint8)


def _shifts(sample: list[Pixels]) -> NDArray[np.float64]:
    """By how much each face that is found would have to move: (m, 2) pixels."""
    # Two passes alone: a face found only after a rotation is not aligned.
    detector = FaceDetector(
        OrtSession(locate("face-detector"), InferenceSettings(threads=1)), DetectionSettings(search_further=False)
    )
    found = []
    for face in sample:
        faces = detector.detect(with_room(face))
        if faces:
            found.append((TEMPLATE - (faces[0].landmarks - _ROOM)).mean(axis=0))
    return np.array(found).reshape(-1, 2)
