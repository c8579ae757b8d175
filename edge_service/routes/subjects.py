"""Subjects of a gallery, and their enrolled faces."""

from __future__ import annotations

from fastapi import Request, Response
from starlette.status import HTTP_201_CREATED

from edge_service.deps import (
    AfterSubjectQuery,
    FacePath,
    GalleryPath,
    LimitQuery,
    MayEnroll,
    MayErase,
    MayManage,
    QualityQuery,
    ServicesDep,
    SubjectPath,
    picture_body,
)
from edge_service.routes.answers import another_picture, quality_of
from edge_service.settings import PictureLimits
from edge_service.uploads import read_pictures
from shared.http.rate_limits import may_compare
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.common import Erased, Page, SubjectInfo
from shared.wire.edge import EnrolledFace, EnrollFacesAnswer, FaceInfo, SubjectFaces

router = api_router("/v1/galleries/{gallery}/subjects", "subjects")


@router.post(
    "/{subject}/faces",
    dependencies=[MayEnroll],
    status_code=HTTP_201_CREATED,
    openapi_extra=picture_body(1, PictureLimits().max_pictures),
)
async def enroll_faces(
    request: Request,
    gallery: GalleryPath,
    subject: SubjectPath,
    services: ServicesDep,
    quality_filter: QualityQuery = None,
) -> EnrollFacesAnswer:
    """Enroll a subject from pictures.

    Stores one face of each picture: all or none. Equal pictures of a subject are stored once.
    """
    limits = services.settings.pictures
    pictures = await read_pictures(request, limits, at_most=limits.max_pictures)
    enrolled, read = await services.recognition.enroll(gallery, subject, pictures, quality_filter)
    told = may_compare(request, len(pictures))
    faces = [
        EnrolledFace(
            id=info.id,
            picture=position,
            stored=info.stored,
            agrees=info.agrees if told else None,
            faces_found=face.faces_found,
            quality=quality_of(face),
        )
        for position, (info, face) in enumerate(zip(enrolled.templates, read, strict=True))
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
    gallery: GalleryPath, services: ServicesDep, limit: LimitQuery = 100, after: AfterSubjectQuery = None
) -> Page[SubjectInfo]:
    """List the subjects of a gallery.

    In the order of names, page by page.
    """
    return await services.cloud.subjects(gallery, limit, after)


@router.get("/{subject}", dependencies=[MayErase])
async def get_subject(gallery: GalleryPath, subject: SubjectPath, services: ServicesDep) -> SubjectFaces:
    """Get a subject.

    Returns the ids of its enrolled faces.
    """
    found = await services.cloud.subject(gallery, subject)
    faces = [FaceInfo(id=template.id, created_at=template.created_at) for template in found.templates]
    return SubjectFaces(subject=found.subject, created_at=found.created_at, faces=faces)


@router.delete("/{subject}", dependencies=[MayErase], responses=PENDING)
async def delete_subject(
    gallery: GalleryPath, subject: SubjectPath, services: ServicesDep, response: Response
) -> Erased:
    """Erase a subject.

    Erases all of its faces.
    """
    return erasure_answer(await services.cloud.erase(gallery, subject), response)


@router.delete("/{subject}/faces/{face}", dependencies=[MayErase], responses=PENDING)
async def delete_face(
    gallery: GalleryPath, subject: SubjectPath, face: FacePath, services: ServicesDep, response: Response
) -> Erased:
    """Erase a face.

    Erases one enrolled face, and the subject with its last face.
    """
    return erasure_answer(await services.cloud.erase(gallery, subject, face), response)
