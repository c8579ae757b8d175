"""YuNet: faces and their five landmarks, in one or two passes by the size of the picture."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_service.settings import DetectionSettings
from edge_service.vision.decode import Pixels
from edge_service.vision.faces import Face
from edge_service.vision.sessions import Session

_STRIDES: Final = (8, 16, 32)
_SIDE_MULTIPLE: Final = 32
_MAX_CANDIDATES: Final = 5000

# No lying or upside-down face scored as high: of 1,018 pictures of LFW turned in all ways the highest had 0.892.
_PLAINLY_UPRIGHT: Final = 0.915
_UPRIGHT_MARGIN: Final = 0.01
_CUT_OUT_SIDE: Final = 192

Rows = NDArray[np.float32]  # (n, 15): box, five landmarks, score


class FaceDetector:
    """Finds faces.

    The first pass looks at the picture at no more than ``first_pass_side``: 13 ms on two cores for any size of picture.
    Small faces in a large picture vanish there, so a second pass looks at it larger when the first found none, or when
    every face is wanted; faces of both passes are merged.

    Args:
        session: YuNet, with dynamic height and width, BGR 0 to 255.
        settings: thresholds and sides.
    """

    def __init__(self, session: Session, settings: DetectionSettings) -> None:
        self._session = session
        self._settings = settings
        self._input = session.input_names[0]
        self._heads = {name: position for position, name in enumerate(session.output_names)}

    def detect(self, picture: Pixels, *, every_face: bool = False) -> list[Face]:
        """The faces of a picture, largest first.

        Args:
            picture: (h, w, 3) uint8 RGB.
            every_face: look twice even when the first look finds a face.
        """
        first, second = self._settings.first_pass_side, self._settings.second_pass_side
        longest = max(picture.shape[:2])
        rows = self._look(picture, first)
        if longest > first and (every_face or not len(rows)):
            rows = self._merge([rows, self._look(picture, second)])
        faces = [Face(row[:4].copy(), row[4:14].reshape(5, 2).copy(), float(row[14])) for row in rows]
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def is_upright(self, picture: Pixels, face: Face) -> bool:
        """Whether the face is the right way up.

        YuNet also finds faces that lie or stand on their head, with landmarks that are not theirs, and its score alone
        does not tell them. So where that is not a plain yes, the face is cut out and looked at in all four ways; the
        right way up has the highest score. Some 16 ms on two cores, for the faces that need it.

        Args:
            picture: (h, w, 3) uint8 RGB.
            face: found in it.
        """
        if face.score >= _PLAINLY_UPRIGHT:
            return True
        cut = _cut_out(picture, face)
        scores = [max((float(row[14]) for row in self._infer(_turned(cut, turns))), default=0.0) for turns in range(4)]
        return scores[0] + _UPRIGHT_MARGIN >= max(scores[1:])

    def _look(self, picture: Pixels, side: int) -> Rows:
        """One pass at no more than this side; rows in pixels of the picture."""
        height, width = picture.shape[:2]
        scale = min(1.0, side / max(height, width))
        seen = picture
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            seen = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        rows = self._infer(seen)
        # By the real ratio of each side: rounding to whole pixels makes them differ a little.
        ratio = np.array([width / seen.shape[1], height / seen.shape[0]], dtype=np.float32)
        rows[:, :14] *= np.tile(ratio, 7)
        return rows

    def _infer(self, seen: Pixels) -> Rows:
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
        return self._merge(found)

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

    def _merge(self, parts: list[Rows]) -> Rows:
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


def _cut_out(picture: Pixels, face: Face) -> Pixels:
    """A square around the face, twice as wide, at no more than 192 pixels."""
    left, top, width, height = (float(value) for value in face.box)
    half = max(width, height)
    x, y = left + width / 2, top + height / 2
    rows = slice(max(0, int(y - half)), max(1, int(y + half)))
    columns = slice(max(0, int(x - half)), max(1, int(x + half)))
    cut = picture[rows, columns]
    scale = min(1.0, _CUT_OUT_SIDE / max(cut.shape[:2]))
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _turned(picture: Pixels, quarter_turns: int) -> Pixels:
    return np.ascontiguousarray(np.rot90(picture, quarter_turns))
