"""Templates: enrolled and erased, never returned."""

from __future__ import annotations

from fastapi import Response, status

from cloud_service.deps import (
    MAY_ENROLL,
    MAY_ENROLL_OR_MANAGE,
    SLOT,
    GalleryInPath,
    ServicesDep,
    SubjectInPath,
    TemplateInPath,
)
from shared.http.auth import Caller
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import EnrollAnswer, EnrollRequest
from shared.wire.common import Erased

router = api_router("/v1/galleries/{gallery}/subjects/{subject}/templates", "templates")


@router.post("", response_model=EnrollAnswer, status_code=status.HTTP_201_CREATED, dependencies=[MAY_ENROLL, SLOT])
def enroll(
    gallery: GalleryInPath, subject: SubjectInPath, body: EnrollRequest, services: ServicesDep, caller: Caller
) -> EnrollAnswer:
    """Stores templates of a subject, all or none.

    Idempotent: a template id that the subject has is left as it is.
    """
    return services.store.enroll(gallery, subject, body.templates, caller.id)


@router.delete("/{template}", response_model=Erased, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT], responses=PENDING)
def erase_template(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    template: TemplateInPath,
    caller: Caller,
    services: ServicesDep,
    response: Response,
) -> Erased:
    """Erases a template, and its subject with the last one."""
    return erasure_answer(services.store.erase_template(gallery, subject, template, caller.id), response)
