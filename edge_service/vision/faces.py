"""What the steps of vision hand to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face found in a picture, in pixels of that picture.

    Attributes:
        box: (4,) float32: left, top, width, height; may reach over the picture's edge.
        landmarks: (5, 2) float32, x and y of right eye, left eye, nose, right and left corner of the mouth,
            left and right being the subject's own.
        score: the detector's confidence, 0 to 1.
        quarter_turns: quarter turns counterclockwise after which the face was found, 0 to 3. Box and landmarks are
            those of the picture before it was turned.
        upright: whether the face is the right way up after those turns.
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
