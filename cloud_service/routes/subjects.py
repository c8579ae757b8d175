"""Subjects: listed, looked at, erased. A subject is made by its first template."""

from __future__ import annotations

from fastapi import Response

from cloud_service.deps import (
    MAY_ENROLL_OR_MANAGE,
    MAY_MANAGE,
    PLACE,
    AfterSubject,
    GalleryInPath,
    Limit,
    ListingDep,
    StoreDep,
    SubjectInPath,
)
from shared.http.auth import Caller
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.common import Erased, Page, SubjectDetail, SubjectInfo

router = api_router("/v1/galleries/{gallery}/subjects", "subjects")


@router.get("", response_model=Page[SubjectInfo], dependencies=[MAY_MANAGE, PLACE])
def list_subjects(
    gallery: GalleryInPath, listing: ListingDep, limit: Limit = 100, after: AfterSubject = None
) -> Page[SubjectInfo]:
    """The subjects of a gallery."""
    return listing.subjects(gallery, after, limit)


@router.get("/{subject}", response_model=SubjectDetail, dependencies=[MAY_ENROLL_OR_MANAGE, PLACE])
def get_subject(gallery: GalleryInPath, subject: SubjectInPath, listing: ListingDep) -> SubjectDetail:
    """A subject and the ids of its templates."""
    return listing.subject(gallery, subject)


@router.delete("/{subject}", response_model=Erased, dependencies=[MAY_ENROLL_OR_MANAGE, PLACE], responses=PENDING)
def erase_subject(
    gallery: GalleryInPath, subject: SubjectInPath, caller: Caller, store: StoreDep, response: Response
) -> Erased:
    """Erases a subject and all of its templates."""
    return erasure_answer(store.erase_subject(gallery, subject, caller.id), response)
