"""Subjects of a gallery, and their enrolled faces."""

from __future__ import annotations

from functools import partial

from fastapi import Request, Response
from starlette.status import HTTP_200_OK, HTTP_201_CREATED

from edge_service.deps import (
    AfterSubjectQuery,
    DryRunQuery,
    FacePath,
    GalleryPath,
    LimitQuery,
    MayEnroll,
    MayErase,
    MayManage,
    OnConflictQuery,
    PrefixQuery,
    QualityQuery,
    RecordsSent,
    ServicesDep,
    SubjectPath,
    picture_body,
)
from edge_service.routes.answers import another_picture, quality_of
from edge_service.settings import PictureLimits
from edge_service.subjects.enrollment import EnrollOptions
from edge_service.uploads import read_pictures
from shared.http.rate_limits import count_comparisons, may_compare
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import StoredSubjectDetail
from shared.wire.common import Erased, Expiry, Page, SubjectInfo
from shared.wire.edge import EnrolledFace, EnrollFacesAnswer, FaceInfo, SubjectFaces
from shared.wire.edge_subjects import Merge, Moved, MoveFace, Rename, SubjectReport

router = api_router("/v1/galleries/{gallery}/subjects", "subjects")


@router.post(
    "/{subject}/faces",
    dependencies=[MayEnroll, RecordsSent],
    status_code=HTTP_201_CREATED,
    responses={HTTP_200_OK: {"model": EnrollFacesAnswer, "description": "A dry run: nothing was stored."}},
    openapi_extra=picture_body(1, PictureLimits().max_pictures),
)
async def enroll_faces(
    request: Request,
    gallery: GalleryPath,
    subject: SubjectPath,
    services: ServicesDep,
    response: Response,
    quality_filter: QualityQuery = None,
    dry_run: DryRunQuery = False,
    on_conflict: OnConflictQuery = "store",
) -> EnrollFacesAnswer:
    """Enroll a subject from pictures.

    Stores one face of each picture: all or none. Equal pictures of a subject are stored once. Tells which other
    subjects a face matches.
    """
    limits, refuse = services.settings.pictures, on_conflict == "refuse"
    if refuse:
        count_comparisons(request, 0)  # a key that may not match is refused before its pictures are read
    pictures = await read_pictures(request, limits, at_most=limits.max_pictures)
    may_tell = partial(_counted if refuse else may_compare, request)
    options = EnrollOptions(may_tell, find_others=True, dry_run=dry_run, refuse_others=refuse)
    enrolled, read = await services.recognition.enroll(gallery, subject, pictures, quality_filter, options)
    if dry_run:
        response.status_code = HTTP_200_OK
    faces = [
        EnrolledFace(
            id=stored.id,
            picture=position,
            stored=stored.stored,
            agrees=stored.agrees,
            also_matches=stored.also_matches,
            faces_found=face.faces_found,
            quality=quality_of(face),
        )
        for position, (stored, face) in enumerate(zip(enrolled.faces, read, strict=True))
    ]
    return EnrollFacesAnswer(
        subject=subject,
        faces=faces,
        faces_enrolled=enrolled.total,
        another_picture=another_picture(enrolled),
        unperturbed=enrolled.unperturbed,
    )


@router.get("", dependencies=[MayManage])
async def list_subjects(
    gallery: GalleryPath,
    services: ServicesDep,
    limit: LimitQuery = 100,
    after: AfterSubjectQuery = None,
    prefix: PrefixQuery = None,
) -> Page[SubjectInfo]:
    """List the subjects of a gallery.

    In the order of the code points of their names, page by page; all, or those whose names begin with `prefix`.
    """
    return await services.subject_lists.page(gallery, limit, after, prefix)


@router.get("/{subject}", dependencies=[MayErase])
async def get_subject(gallery: GalleryPath, subject: SubjectPath, services: ServicesDep) -> SubjectFaces:
    """Get a subject.

    Returns the ids of its enrolled faces.
    """
    return _shown(subject, await services.subjects.find(gallery, subject))


@router.delete("/{subject}", dependencies=[MayErase], responses=PENDING)
async def delete_subject(
    gallery: GalleryPath, subject: SubjectPath, services: ServicesDep, response: Response
) -> Erased:
    """Erase a subject.

    Erases all of its faces.
    """
    return erasure_answer(await services.subjects.erase(gallery, subject), response)


@router.delete("/{subject}/faces/{face}", dependencies=[MayErase], responses=PENDING)
async def delete_face(
    gallery: GalleryPath, subject: SubjectPath, face: FacePath, services: ServicesDep, response: Response
) -> Erased:
    """Erase a face.

    Erases one enrolled face, and the subject with its last face.
    """
    return erasure_answer(await services.subjects.erase(gallery, subject, face), response)


@router.post("/{subject}/rename", dependencies=[MayManage])
async def rename_subject(gallery: GalleryPath, subject: SubjectPath, wanted: Rename, services: ServicesDep) -> Moved:
    """Rename a subject.

    Refused if another subject has the name.
    """
    return await services.subjects.move(gallery, subject, wanted.to, "new")


@router.post("/{subject}/merge", dependencies=[MayManage])
async def merge_subject(gallery: GalleryPath, subject: SubjectPath, wanted: Merge, services: ServicesDep) -> Moved:
    """Merge a subject into another one.

    All of its faces become the other's, and it is gone.
    """
    return await services.subjects.move(gallery, subject, wanted.into, "existing")


@router.post("/{subject}/faces/{face}/move", dependencies=[MayManage])
async def move_face(
    gallery: GalleryPath, subject: SubjectPath, face: FacePath, wanted: MoveFace, services: ServicesDep
) -> Moved:
    """Move a face to another subject.

    The other one may be new. A subject is gone with its last face.
    """
    return await services.subjects.move(gallery, subject, wanted.to, "either", face)


@router.put("/{subject}/expiry", dependencies=[MayManage])
async def set_expiry(gallery: GalleryPath, subject: SubjectPath, expiry: Expiry, services: ServicesDep) -> SubjectFaces:
    """Set when a subject expires.

    From then on it matches nobody and is erased. The gallery's retention holds too.
    """
    return _shown(subject, await services.subjects.expire(gallery, subject, expiry))


@router.delete("/{subject}/expiry", dependencies=[MayManage])
async def remove_expiry(gallery: GalleryPath, subject: SubjectPath, services: ServicesDep) -> SubjectFaces:
    """Remove a subject's expiry.

    The gallery's retention still holds.
    """
    return _shown(subject, await services.subjects.expire(gallery, subject, None))


@router.get("/{subject}/report", dependencies=[MayManage])
async def report_subject(gallery: GalleryPath, subject: SubjectPath, services: ServicesDep) -> SubjectReport:
    """Report all that is held about a subject.

    Its faces with their dates and templates, its expiry, and the audit log's entries about it.
    """
    return await services.subjects.report(gallery, subject)


def _counted(request: Request, faces: int) -> bool:
    """Counts comparisons that are needed; refuses where the key may not make them."""
    count_comparisons(request, faces)
    return True


def _shown(subject: str, found: StoredSubjectDetail) -> SubjectFaces:
    faces = [FaceInfo(id=template.id, created_at=template.created_at) for template in found.templates]
    return SubjectFaces(subject=subject, created_at=found.created_at, expires_at=found.expires_at, faces=faces)
