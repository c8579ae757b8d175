"""Builds the parts of answers: faces, qualities, thresholds."""

from __future__ import annotations

from typing import Final, Literal

from edge_service.gallery_contexts import GalleryContext
from edge_service.protection.profiles.files import DefaultThreshold
from edge_service.protection.profiles.purpose import is_of_curves
from edge_service.protection.served_profiles import ServedProfiles
from edge_service.subjects.enrollment import EnrollResult
from edge_service.vision.quality import objections
from edge_service.vision.reader import AlignedFace, PictureFaces
from shared.names import QualityFilter
from shared.wire.cloud import IdentifyAnswer
from shared.wire.common import VerifyAnswer
from shared.wire.edge import (
    AnotherPicture,
    AppliedThreshold,
    Box,
    DetectedFace,
    FmrMeasuredOn,
    GalleryDecision,
    Landmarks,
    Point,
    Quality,
)

# Clockwise, as EXIF and image editors count, from quarter turns counterclockwise, as NumPy does.
_ROTATIONS: Final[tuple[Literal[0, 90, 180, 270], ...]] = (0, 270, 180, 90)


def quality_of(found: AlignedFace, level: QualityFilter = "none") -> Quality:
    """The quality of a face, with the reasons for which a level refuses it."""
    return Quality(**found.quality.model_dump(), reasons=objections(found.quality, level))


def own_threshold(default: DefaultThreshold) -> AppliedThreshold:
    """The threshold of a decision without a gallery."""
    return AppliedThreshold(
        threshold=default.threshold.cosine,
        threshold_from=default.chosen_by,
        reference_fmr=default.threshold.fmr,
        fmr_measured_on=default.measured_on,
    )


def gallery_decision(
    answer: VerifyAnswer | IdentifyAnswer, gallery: GalleryContext, profiles: ServedProfiles
) -> GalleryDecision:
    """How a gallery decided: as its profile was measured, or by a threshold or exponents that somebody else chose."""
    profile = gallery.protector.profile
    default = profiles.measured_threshold(profile)
    measured_on: FmrMeasuredOn = "operator"
    if default is not None:
        same = gallery.threshold == default.threshold and answer.threshold == default.threshold.cosine
        # What is known of the gallery may be some seconds older than the answer. Under `best` the answer's rate is
        # another.
        same = same and (answer.score_rule == "best" or answer.fmr_at_threshold == default.threshold.fmr)
        covered = profiles.score_calibration(profile).covers(gallery.score)
        if same and covered:
            measured_on = default.measured_on
        elif (
            covered
            and answer.score_rule == "mean"
            and is_of_curves(profile.document, answer.threshold, answer.fmr_at_threshold)
        ):
            measured_on = "profile_curves"
    return GalleryDecision(
        threshold=answer.threshold,
        threshold_from="gallery",
        reference_fmr=answer.fmr_at_threshold,
        fmr_measured_on=measured_on,
        score_rule=answer.score_rule,
    )


def another_picture(enrolled: EnrollResult) -> AnotherPicture | None:
    """What one more picture of a subject is worth; None where it is not known."""
    if enrolled.gain is None:
        return None
    now, with_one_more = enrolled.gain
    return AnotherPicture(accepted_now=now, accepted_with_one_more=with_one_more)


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
