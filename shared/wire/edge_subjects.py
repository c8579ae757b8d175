"""Requests and answers of the edge about subjects that are enrolled: moved, reported, and found twice."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from shared.names import GalleryName, SubjectName
from shared.strict_types import Moment
from shared.wire.common import Duplicates, Receipt, Similarity, StrictWire, Wire
from shared.wire.edge import FaceInfo


class Rename(StrictWire):
    """Another name for a subject."""

    to: SubjectName = Field(description="a name that no subject of the gallery has")


class Merge(StrictWire):
    """The subject that another one becomes part of."""

    into: SubjectName = Field(description="a subject of the gallery, which is the same person")


class MoveFace(StrictWire):
    """The subject that a face is moved to."""

    to: SubjectName = Field(description="a subject of the gallery, or a new one")


class Moved(Wire):
    """What was moved. It is committed, and matches under the other name from now on."""

    subject: SubjectName = Field(description="the subject that has the faces now")
    faces: int = Field(ge=1, description="how many faces were moved")
    faces_enrolled: int = Field(ge=1, description="how many faces that subject has now")
    emptied: bool = Field(description="whether the subject that they were moved from has no face left and is gone")
    receipt: Receipt


class ReportedFace(FaceInfo):
    """An enrolled face, and what is stored of it."""

    template: list[float] = Field(repr=False, description="the protected template: a unit vector")


class SubjectEvent(Wire):
    """An entry of the cloud's audit log about a subject."""

    receipt: Receipt
    action: str
    details: dict[str, Any]


class SubjectReport(Wire):
    """All that is held about a subject."""

    gallery: GalleryName
    subject: SubjectName
    created_at: Moment
    expires_at: Moment | None = Field(description="its own expiry; null: only by the gallery's retention")
    faces: list[ReportedFace]
    events: list[SubjectEvent] = Field(description="oldest first")


class MatchingPair(Wire):
    """Two subjects that match each other: perhaps one person under two names."""

    subject: SubjectName
    other: SubjectName
    similarity: Similarity


class GalleryDuplicates(Duplicates):
    """The pairs that match, best first.

    A pair may be on two pages, on each subject's: with the score of its faces against the other's, of which the higher
    one counts.
    """

    items: list[MatchingPair]
