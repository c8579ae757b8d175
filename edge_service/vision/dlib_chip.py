"""dlib's way to cut a face: 150 x 150 pixels, its mean face within a margin of a quarter on each side."""

from __future__ import annotations

from typing import Final

import numpy as np

from edge_service.vision.align import Alignment

_SIDE: Final = 150
_PADDING: Final = 0.25

# The five points on dlib's mean face (`get_face_chip_details`), which spans 0 to 1 each way: the means of the six
# points around each eye, the tip of the nose, the outer corners of the lips.
_MEAN_FACE: Final = np.array(
    [[0.225492, 0.215990], [0.754761, 0.215990], [0.490127, 0.515625], [0.254149, 0.780233], [0.726104, 0.780233]]
)

DLIB_CHIP: Final = Alignment("dlib-face-chip-150-0.25", _SIDE, (_MEAN_FACE + _PADDING) / (1 + 2 * _PADDING) * _SIDE)
