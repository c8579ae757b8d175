"""Measures the quality of a face, and says what to do about a poor one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_service.vision.decode import Pixels
from edge_service.vision.detect import Face
from shared.names import QualityFilter
from shared.wire.edge import FaceQuality, RefusalReason

ADVICE: Final[dict[RefusalReason, str]] = {
    "no_face": "No face was found; send a picture in which one face is seen whole, upright and well lit.",
    "several_faces": "More than one face was found; send a picture of one person, or crop it.",
    "too_small": "The face has too few pixels; come closer or send the picture at its full size.",
    "blurred": "The face is blurred; hold still, wipe the lens, or focus on the face.",
    "turned_away": "The face is turned away or tilted; look toward the camera, and send the picture upright.",
    "too_dark": "The face is too dark; turn toward the light.",
}


@dataclass(frozen=True, slots=True)
class _Limits:
    face_size_px: float
    sharpness: float
    brightness: float
    nose_offset: float


# Limits of each level, from what degraded pictures cost in matching on LFW (docs/quality.md): at low TAR at tau falls
# to about 95 %, at medium to about 98 %; high is well before either.
_LEVELS: Final[dict[QualityFilter, _Limits]] = {
    "low": _Limits(face_size_px=28, sharpness=0.005, brightness=12, nose_offset=1.0),
    "medium": _Limits(face_size_px=40, sharpness=0.012, brightness=30, nose_offset=0.8),
    "high": _Limits(face_size_px=64, sharpness=0.03, brightness=50, nose_offset=0.5),
}
# Enrollment is done once and with care, so a poor picture is worth another try; a probe is taken as it comes.
_AUTO: Final[dict[str, QualityFilter]] = {"enroll": "medium", "probe": "low"}


def level_for(chosen: QualityFilter, use: Literal["enroll", "probe"]) -> QualityFilter:
    """Resolves ``auto`` for this use."""
    return _AUTO[use] if chosen == "auto" else chosen


def measure(face: Face, aligned: Pixels) -> FaceQuality:
    """Measures a face.

    Sharpness and the offset of the nose have no unit. Sharpness is over the variance of gray levels, so that a dim
    picture is not taken for a blurred one. The landmarks and the embedding of a face that is not upright are worthless.

    Args:
        face: where it was found.
        aligned: (112, 112, 3) uint8 RGB.
    """
    grey = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)
    inner = grey[24:104, 24:88]  # brow to chin, cheek to cheek: without hair and background
    return FaceQuality(
        face_size_px=float(min(face.box[2], face.box[3])),
        sharpness=float(cv2.Laplacian(inner, cv2.CV_64F).var()) / max(float(inner.var()), 1.0),
        brightness=float(inner.mean()),
        nose_offset=_nose_offset(face.landmarks),
        detector_score=min(1.0, max(0.0, face.score)),
        upright=face.upright,
    )


def objections(quality: FaceQuality, level: QualityFilter) -> list[RefusalReason]:
    """Reasons for which a level, other than ``auto``, refuses a face; empty if it is good."""
    if level == "none":
        return []
    limits = _LEVELS[level]
    poor: dict[RefusalReason, bool] = {
        "too_small": quality.face_size_px < limits.face_size_px,
        "too_dark": quality.brightness < limits.brightness,
        "turned_away": quality.nose_offset > limits.nose_offset or not quality.upright,
        "blurred": quality.sharpness < limits.sharpness,
    }
    return [reason for reason, is_so in poor.items() if is_so]


def _nose_offset(landmarks: NDArray[np.float32]) -> float:
    """How far the nose is from the middle of eyes and mouth, along the line of the eyes; 1: half of their distance."""
    right_eye, left_eye, nose, right_mouth, left_mouth = landmarks.astype(np.float64)
    across = left_eye - right_eye
    half = float(np.linalg.norm(across)) / 2
    if half == 0:
        return 1.0
    middle = (right_eye + left_eye + right_mouth + left_mouth) / 4
    return abs(float(np.dot(nose - middle, across))) / (2 * half * half)
