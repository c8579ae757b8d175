"""Subjects and their templates. A subject is made by its first template; templates are never returned."""

from __future__ import annotations

from fastapi import Request, Response, status

from cloud_service.deps import (
    MAY_ENROLL,
    MAY_ENROLL_OR_MANAGE,
    MAY_MANAGE,
    SLOT,
    AfterSubject,
    GalleryInPath,
    Limit,
    ServicesDep,
    SubjectInPath,
    TemplateInPath,
)
from shared.http.auth import Caller
from shared.http.rate_limits import may_compare
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import EnrollAnswer, EnrollRequest
from shared.wire.common import Erased, Page, SubjectDetail, SubjectInfo

router = api_router("/v1/galleries/{gallery}/subjects", "subjects")
templates = api_router("/v1/galleries/{gallery}/subjects/{subject}/templates", "templates")


@router.get("", response_model=Page[SubjectInfo], dependencies=[MAY_MANAGE, SLOT])
def list_subjects(
    gallery: GalleryInPath, services: ServicesDep, limit: Limit = 100, after: AfterSubject = None
) -> Page[SubjectInfo]:
    """List the subjects of a gallery.

    In the order of names, page by page.
    """
    return services.listing.subjects(gallery, after, limit)


@router.get("/{subject}", response_model=SubjectDetail, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def get_subject(gallery: GalleryInPath, subject: SubjectInPath, services: ServicesDep) -> SubjectDetail:
    """Get a subject.

    Returns the ids of its templates.
    """
    return services.listing.subject(gallery, subject)


@router.delete("/{subject}", response_model=Erased, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT], responses=PENDING)
def delete_subject(
    gallery: GalleryInPath, subject: SubjectInPath, caller: Caller, services: ServicesDep, response: Response
) -> Erased:
    """Erase a subject.

    Erases all of its templates.
    """
    return erasure_answer(services.store.erase_subject(gallery, subject, caller.id), response)


@templates.post("", response_model=EnrollAnswer, status_code=status.HTTP_201_CREATED, dependencies=[MAY_ENROLL, SLOT])
def enroll_templates(
    request: Request,
    gallery: GalleryInPath,
    subject: SubjectInPath,
    body: EnrollRequest,
    services: ServicesDep,
    caller: Caller,
) -> EnrollAnswer:
    """Enroll templates of a subject.

    Stores all or none. Idempotent: a template id that the subject has is left as it is.
    """
    answer = services.store.enroll(gallery, subject, body.templates, caller.id)
    if may_compare(request, len(body.templates)):
        return answer
    untold = [template.model_copy(update={"agrees": None}) for template in answer.templates]
    return answer.model_copy(update={"templates": untold})


@templates.delete("/{template}", response_model=Erased, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT], responses=PENDING)
def delete_template(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    template: TemplateInPath,
    caller: Caller,
    services: ServicesDep,
    response: Response,
) -> Erased:
    """Erase a template.

    Erases the subject too with its last template.
    """
    return erasure_answer(services.store.erase_subject(gallery, subject, caller.id, template), response)
