"""Templates: enrolled and erased, never returned."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Response, status

from cloud_service.deps import (
    MAY_ENROLL,
    MAY_ENROLL_OR_MANAGE,
    PLACE,
    GalleryInPath,
    StoreDep,
    SubjectInPath,
    TemplateInPath,
)
from cloud_service.record.replies import Once
from shared.http.auth import Caller
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import EnrollAnswer, EnrollRequest
from shared.wire.common import Erased

router = api_router("/v1/galleries/{gallery}/subjects/{subject}/templates", "templates")

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=128,
        pattern=r"^[\x21-\x7e]+$",
        description="chosen by the sender, a new one for each request: sent again with it, the request is done once",
    ),
]


@router.post("", response_model=EnrollAnswer, status_code=status.HTTP_201_CREATED, dependencies=[MAY_ENROLL, PLACE])
def enroll(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    request: EnrollRequest,
    store: StoreDep,
    caller: Caller,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> EnrollAnswer:
    """Stores templates of a subject, all or none; harmless when repeated."""
    if idempotency_key is None:
        return store.enroll(gallery, subject, request.templates, caller.id)
    once = Once.of(caller.id, idempotency_key, "enroll", gallery, subject, request.model_dump_json())
    answer, replayed = store.enroll_once(gallery, subject, request.templates, caller.id, once)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return answer


@router.delete("/{template}", response_model=Erased, dependencies=[MAY_ENROLL_OR_MANAGE, PLACE], responses=PENDING)
def erase_template(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    template: TemplateInPath,
    caller: Caller,
    store: StoreDep,
    response: Response,
) -> Erased:
    """Erases a template, and its subject with the last one."""
    return erasure_answer(store.erase_template(gallery, subject, template, caller.id), response)
