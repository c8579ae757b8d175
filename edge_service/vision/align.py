"""Rotates, scales and shifts a face onto the template that the embedder was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_service.vision.decode import Pixels

SIDE: Final = 112

# ArcFace's five points for 112 x 112: right eye, left eye, nose, right and left corner of the mouth.
TEMPLATE: Final[NDArray[np.float64]] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The position of a face in an embedder's input.

    Attributes:
        name: as contracts have it.
        side: height and width of the aligned face in pixels.
        points: (5, 2) float64 pixels, the target of the landmarks.
    """

    name: str
    side: int
    points: NDArray[np.float64]


ARCFACE: Final = Alignment("arcface-5-points-112", SIDE, TEMPLATE)

# dlib cuts a face into 150 x 150 pixels: its mean face, which spans 0 to 1 each way, within a margin of a quarter on
# each side. The five points on it (`get_face_chip_details`) are the means of the six points around each eye, the tip of
# the nose, and the outer corners of the lips.
_DLIB_SIDE: Final = 150
_DLIB_MARGIN: Final = 0.25
_DLIB_MEAN_FACE: Final = np.array(
    [[0.225492, 0.215990], [0.754761, 0.215990], [0.490127, 0.515625], [0.254149, 0.780233], [0.726104, 0.780233]]
)
DLIB_CHIP: Final = Alignment(
    "dlib-face-chip-150-0.25", _DLIB_SIDE, (_DLIB_MEAN_FACE + _DLIB_MARGIN) / (1 + 2 * _DLIB_MARGIN) * _DLIB_SIDE
)

ALIGNMENTS: Final = {alignment.name: alignment for alignment in (ARCFACE, DLIB_CHIP)}


def similarity_transform(landmarks: NDArray[np.float32], points: NDArray[np.float64] = TEMPLATE) -> NDArray[np.float64]:
    """The least-squares rotation, scale and shift of the landmarks onto the template.

    With points as complex numbers, w = a z + b has the solution a = sum(conj(z') w') / sum(|z'|^2) over centred points;
    the same optimum as Umeyama (PAMI 1991) where no reflection is allowed.

    Args:
        landmarks: (5, 2) pixels.
        points: (5, 2) pixels, the template.

    Returns:
        (2, 3) float64, for ``cv2.warpAffine``.

    Raises:
        ValueError: the landmarks are all at one point.
    """
    source = landmarks.astype(np.float64)
    z = source[:, 0] + 1j * source[:, 1]
    w = points[:, 0] + 1j * points[:, 1]
    centred = z - z.mean()
    spread = float(np.sum(np.abs(centred) ** 2))
    if not spread > 0:
        raise ValueError("the landmarks are all at one point")
    a = np.sum(np.conj(centred) * (w - w.mean())) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(picture: Pixels, landmarks: NDArray[np.float32], alignment: Alignment = ARCFACE) -> Pixels:
    """The face, upright.

    Args:
        picture: (h, w, 3) uint8 RGB.
        landmarks: (5, 2) pixels.
        alignment: onto which template.

    Returns:
        (side, side, 3) uint8 RGB; black where the face reaches over the picture's edge.

    Raises:
        ValueError: the landmarks are all at one point.
    """
    matrix = similarity_transform(landmarks, alignment.points)
    warped = cv2.warpAffine(picture, matrix, (alignment.side, alignment.side), flags=cv2.INTER_LINEAR)
    return np.asarray(warped, dtype=np.uint8)
