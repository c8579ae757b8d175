"""Runs the face detector YuNet: pixels in, rows of faces out."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_service.settings import DetectionSettings
from edge_service.vision.decode import Pixels
from edge_service.vision.sessions import OrtSession

_STRIDES: Final = (8, 16, 32)
_SIDE_MULTIPLE: Final = 32
_MAX_CANDIDATES: Final = 5000

Rows = NDArray[np.float32]  # (n, 15): box (left, top, width, height), five landmarks (x, y), score


class YuNet:
    """Runs the network and decodes its output.

    Args:
        session: YuNet, with dynamic height and width, BGR 0 to 255.
        settings: thresholds.
    """

    def __init__(self, session: OrtSession, settings: DetectionSettings) -> None:
        self._session = session
        self._settings = settings
        self._input = session.input_names[0]
        self._heads = {name: position for position, name in enumerate(session.output_names)}

    def faces(self, seen: Pixels) -> Rows:
        """The faces of (h, w, 3) uint8 RGB pixels, in pixels of these; one row a face."""
        height, width = seen.shape[:2]
        padded_height = -(-height // _SIDE_MULTIPLE) * _SIDE_MULTIPLE
        padded_width = -(-width // _SIDE_MULTIPLE) * _SIDE_MULTIPLE
        blob = np.zeros((1, 3, padded_height, padded_width), dtype=np.float32)
        blob[0, :, :height, :width] = seen[:, :, ::-1].transpose(2, 0, 1)
        outputs = self._session.run({self._input: blob})
        found = []
        for stride in _STRIDES:
            cls, obj, box, points = (
                outputs[self._heads[f"{head}_{stride}"]][0] for head in ("cls", "obj", "bbox", "kps")
            )
            found.append(self._decode_stride(stride, padded_width // stride, cls, obj, box, points))
        return self.merge(found)

    def merge(self, parts: list[Rows]) -> Rows:
        """Non-maximum suppression over all rows."""
        rows = np.concatenate(parts)
        if not len(rows):
            return rows
        kept = cv2.dnn.NMSBoxes(
            rows[:, :4].tolist(),
            rows[:, 14].tolist(),
            self._settings.score_threshold,
            self._settings.nms_threshold,
            top_k=_MAX_CANDIDATES,
        )
        return rows[np.asarray(kept, dtype=np.int64).reshape(-1)]

    def _decode_stride(self, stride: int, columns: int, cls: Rows, obj: Rows, box: Rows, points: Rows) -> Rows:
        """Rows over the threshold at one stride; the formulas are those of OpenCV's FaceDetectorYN."""
        score = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        kept = np.flatnonzero(score >= self._settings.score_threshold)
        cell = np.stack([kept % columns, kept // columns], axis=1).astype(np.float32)
        center = (cell + box[kept, :2]) * stride
        size = np.exp(box[kept, 2:4]) * stride
        landmarks = (points[kept].reshape(-1, 5, 2) + cell[:, None, :]) * stride
        return np.concatenate(
            [center - size / 2, size, landmarks.reshape(-1, 10), score[kept, None]], axis=1, dtype=np.float32
        )
