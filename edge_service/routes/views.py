"""Faces as they are answered."""

from __future__ import annotations

from dataclasses import asdict

from edge_service.vision.quality import objections
from edge_service.vision.reader import FoundFace
from shared.wire.edge import Box, DetectedFace, Landmarks, Point, Quality, QualityFilter


def quality_of(found: FoundFace, level: QualityFilter = "none") -> Quality:
    """The quality of a face, with what a level objects to."""
    return Quality(**asdict(found.quality), reasons=objections(found.quality, level))


def box_of(found: FoundFace) -> Box:
    """Where a face is."""
    x, y, width, height = (float(value) for value in found.face.box)
    return Box(x=x, y=y, width=width, height=height)


def face_of(found: FoundFace, level: QualityFilter) -> DetectedFace:
    """A face with box, landmarks and quality."""
    points = [Point(x=float(x), y=float(y)) for x, y in found.face.landmarks]
    return DetectedFace(
        box=box_of(found),
        landmarks=Landmarks(**dict(zip(Landmarks.model_fields, points, strict=True))),
        quality=quality_of(found, level),
    )
