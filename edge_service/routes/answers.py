"""Builds the parts of answers: faces, qualities, thresholds."""

from __future__ import annotations

from typing import Final, Literal

from edge_service.protection.profiles.files import DefaultThreshold
from edge_service.vision.quality import objections
from edge_service.vision.reader import AlignedFace, PictureFaces
from shared.names import QualityFilter
from shared.wire.cloud import IdentifyAnswer
from shared.wire.common import Threshold, VerifyAnswer
from shared.wire.edge import AppliedThreshold, Box, DetectedFace, Landmarks, Point, Quality

# Clockwise, as EXIF and image editors count, from quarter turns counterclockwise, as NumPy does.
_ROTATIONS: Final[tuple[Literal[0, 90, 180, 270], ...]] = (0, 270, 180, 90)


def quality_of(found: AlignedFace, level: QualityFilter = "none") -> Quality:
    """The quality of a face, with the reasons for which a level refuses it."""
    return Quality(**found.quality.model_dump(), reasons=objections(found.quality, level))


def applied_threshold(
    answer: VerifyAnswer | IdentifyAnswer, default: DefaultThreshold, *, of_gallery: bool = True
) -> AppliedThreshold:
    """The threshold of a decision: the default, or a gallery's, which its creator may have chosen."""
    same = Threshold(cosine=answer.threshold, fmr=answer.fmr_at_threshold) == default.threshold
    return AppliedThreshold(
        threshold=answer.threshold,
        threshold_from="gallery" if of_gallery else default.chosen_by,
        reference_fmr=answer.fmr_at_threshold,
        fmr_measured_on=default.measured_on if same else "operator",
    )


def box_of(found: AlignedFace) -> Box:
    """The box of a face."""
    x, y, width, height = (float(value) for value in found.face.box)
    return Box(x=x, y=y, width=width, height=height)


def face_of(found: AlignedFace, level: QualityFilter) -> DetectedFace:
    """A face with box, landmarks and quality."""
    points = [Point(x=float(x), y=float(y)) for x, y in found.face.landmarks]
    return DetectedFace(
        box=box_of(found),
        landmarks=Landmarks(**dict(zip(Landmarks.model_fields, points, strict=True))),
        quality=quality_of(found, level),
    )


def rotation_of(picture: PictureFaces) -> Literal[0, 90, 180, 270]:
    """Degrees clockwise by which a picture has to be rotated to be upright."""
    return _ROTATIONS[picture.quarter_turns]
