"""Finds a face's landmarks once more, on the aligned face, and aligns it by these if the first ones were far off."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from edge_service.vision.align import ARCFACE, TEMPLATE, align, similarity_transform
from edge_service.vision.decode import Pixels
from edge_service.vision.yunet import YuNet

# The detector sees the aligned face at twice its size, with room around it. Landmarks found at its own size were worth
# a quarter of these; at three times its size a pass takes twice as long.
_SCALE: Final = 2
_ROOM: Final = 80  # pixels on each side, black
# The face is aligned anew if that moves the five points by more than this (root mean square, pixels). Smaller moves are
# the detector's own noise: following them all cost LFW, which is aligned well, 1.4 points of TAR (docs/decisions/0032).
_LEAST_MOVE: Final = 5.0
# A larger move than this is another face, or none: of 1,500 pictures the largest was 17.
_MOST_MOVE: Final = 20.0


def realign(aligned: Pixels, network: YuNet) -> Pixels:
    """The face, aligned anew if its first landmarks were far off.

    Args:
        aligned: (112, 112, 3) uint8 RGB, on the template ``ARCFACE``.
        network: the detector.

    Returns:
        (112, 112, 3) uint8 RGB; mostly the same face.
    """
    seen = cv2.resize(aligned, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_CUBIC)
    seen = cv2.copyMakeBorder(seen, _ROOM, _ROOM, _ROOM, _ROOM, cv2.BORDER_CONSTANT)
    rows = network.faces(np.asarray(seen, dtype=np.uint8))
    if not len(rows):
        return aligned
    largest = rows[np.argmax(rows[:, 2] * rows[:, 3])]
    # By the centers of pixels: enlarged, pixel 0 covers 0 and 1.
    landmarks = (largest[4:14].reshape(5, 2) - _ROOM + 0.5) / _SCALE - 0.5
    try:
        change = similarity_transform(landmarks)
    except ValueError:  # all at one point
        return aligned
    moves = TEMPLATE @ change[:, :2].T + change[:, 2] - TEMPLATE
    move = float(np.sqrt((moves**2).sum(axis=1).mean()))
    return align(aligned, landmarks, ARCFACE) if _LEAST_MOVE < move <= _MOST_MOVE else aligned
