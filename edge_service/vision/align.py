"""Turns, scales and shifts a face onto the template that the embedder was trained on."""

from __future__ import annotations

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


def similarity_transform(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
    """The turn, scale and shift that bring the landmarks closest to the template, in least squares.

    With points as complex numbers, w = a z + b has the solution a = sum(conj(z') w') / sum(|z'|^2) over centred points;
    the same optimum as Umeyama (PAMI 1991) where no reflection is allowed.

    Args:
        landmarks: (5, 2) pixels.

    Returns:
        (2, 3) float64, for ``cv2.warpAffine``.

    Raises:
        ValueError: the landmarks are all at one place.
    """
    source = landmarks.astype(np.float64)
    z = source[:, 0] + 1j * source[:, 1]
    w = TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
    centred = z - z.mean()
    spread = float(np.sum(np.abs(centred) ** 2))
    if not spread > 0:
        raise ValueError("the landmarks are all at one place")
    a = np.sum(np.conj(centred) * (w - w.mean())) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(picture: Pixels, landmarks: NDArray[np.float32]) -> Pixels:
    """The face, upright at 112 x 112.

    Args:
        picture: (h, w, 3) uint8 RGB.
        landmarks: (5, 2) pixels.

    Returns:
        (112, 112, 3) uint8 RGB; black where the face reaches over the picture's edge.

    Raises:
        ValueError: the landmarks are all at one place.
    """
    warped = cv2.warpAffine(picture, similarity_transform(landmarks), (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    return np.asarray(warped, dtype=np.uint8)
