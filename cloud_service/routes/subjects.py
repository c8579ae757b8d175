"""Subjects and their templates. A subject is made by its first template."""

from __future__ import annotations

from fastapi import Request, Response, status

from cloud_service.commit import after_commit
from cloud_service.deps import (
    MAY_ENROLL,
    MAY_ENROLL_OR_MANAGE,
    MAY_MANAGE,
    SLOT,
    AfterSubject,
    ContractInHeader,
    GalleryInPath,
    NamesLimit,
    ServicesDep,
    Since,
    SubjectInPath,
    TemplateInPath,
)
from cloud_service.subjects.report import report_of
from shared.http.auth import Caller
from shared.http.rate_limits import may_compare
from shared.http.routes import PENDING, api_router, erasure_answer
from shared.wire.cloud import (
    BulkEnrollAnswer,
    BulkEnrollRequest,
    EnrollAnswer,
    EnrollRequest,
    MoveAnswer,
    MoveRequest,
    NamesPage,
    StoredDuplicates,
    StoredSubjectDetail,
    SubjectReport,
)
from shared.wire.common import Erased, Expiry, FindDuplicates

router = api_router("/v1/galleries/{gallery}", "subjects")
templates = api_router("/v1/galleries/{gallery}", "templates")

_EXPIRY = "The expiry is stored"


@router.get("/names", response_model=NamesPage, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def list_names(
    gallery: GalleryInPath,
    services: ServicesDep,
    contract: ContractInHeader = None,
    since: Since = None,
    after: AfterSubject = 0,
    limit: NamesLimit = 1000,
) -> NamesPage:
    """List the subjects of a gallery.

    By id, page by page: all, or those made or changed since a version. Keep the first page's `version`. Its `ids` say
    which of those that you have are there still. Begin again if `complete` changes from page to page.
    """
    return services.names.page(gallery, since, after, limit, contract)


@router.post("/duplicates", response_model=StoredDuplicates, dependencies=[MAY_MANAGE, SLOT])
def find_duplicates(
    gallery: GalleryInPath,
    services: ServicesDep,
    wanted: FindDuplicates | None = None,
    contract: ContractInHeader = None,
) -> StoredDuplicates:
    """Find subjects that match each other.

    Compares some subjects with all others, page by page. Changes nothing.
    """
    return services.duplicates.find(gallery, wanted or FindDuplicates(), contract)


@router.get("/subjects/{subject}", response_model=StoredSubjectDetail, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def get_subject(
    gallery: GalleryInPath, subject: SubjectInPath, services: ServicesDep, contract: ContractInHeader = None
) -> StoredSubjectDetail:
    """Get a subject.

    Returns the ids of its templates.
    """
    return services.listing.subject(gallery, subject, contract)


@router.delete(
    "/subjects/{subject}", response_model=Erased, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT], responses=PENDING
)
def delete_subject(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    caller: Caller,
    services: ServicesDep,
    response: Response,
    contract: ContractInHeader = None,
) -> Erased:
    """Erase a subject.

    Erases all of its templates.
    """
    return erasure_answer(services.store.erase_subject(gallery, subject, caller.id, contract=contract), response)


@router.post("/subjects/{subject}/move", response_model=MoveAnswer, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def move_templates(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    body: MoveRequest,
    caller: Caller,
    services: ServicesDep,
    contract: ContractInHeader = None,
) -> MoveAnswer:
    """Rename or merge a subject, or move templates.

    Moves all or none. The subject that they are moved from is erased with its last template.
    """
    return services.store.move(gallery, subject, body, caller.id, contract)


@router.put("/subjects/{subject}/expiry", response_model=StoredSubjectDetail, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT])
def set_subject_expiry(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    expiry: Expiry,
    caller: Caller,
    services: ServicesDep,
    contract: ContractInHeader = None,
) -> StoredSubjectDetail:
    """Set when a subject expires.

    From then on it matches nobody, and is erased.
    """
    services.store.set_expiry(gallery, subject, expiry.expires_at, caller.id, contract)
    with after_commit(_EXPIRY):
        return services.listing.subject(gallery, subject, contract)


@router.delete(
    "/subjects/{subject}/expiry", response_model=StoredSubjectDetail, dependencies=[MAY_ENROLL_OR_MANAGE, SLOT]
)
def remove_subject_expiry(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    caller: Caller,
    services: ServicesDep,
    contract: ContractInHeader = None,
) -> StoredSubjectDetail:
    """Remove the expiry of a subject.

    Its templates expire by the gallery's age alone. A subject that has expired stays expired.
    """
    services.store.set_expiry(gallery, subject, None, caller.id, contract)
    with after_commit(_EXPIRY):
        return services.listing.subject(gallery, subject, contract)


@router.get("/subjects/{subject}/report", response_model=SubjectReport, dependencies=[MAY_MANAGE, SLOT])
def get_subject_report(
    gallery: GalleryInPath, subject: SubjectInPath, services: ServicesDep, contract: ContractInHeader = None
) -> SubjectReport:
    """Report all that is held about a subject.

    Its templates with their dates, and the audit log's entries about it. The only operation that returns templates.
    """
    return report_of(services.store.record, gallery, subject, contract)


@templates.post(
    "/subjects/{subject}/templates",
    response_model=EnrollAnswer,
    status_code=status.HTTP_201_CREATED,
    dependencies=[MAY_ENROLL, SLOT],
)
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
    return answer if may_compare(request, len(body.templates)) else answer.untold()


@templates.post(
    "/templates",
    response_model=BulkEnrollAnswer,
    status_code=status.HTTP_201_CREATED,
    dependencies=[MAY_ENROLL, SLOT],
)
def enroll_subjects(
    request: Request, gallery: GalleryInPath, body: BulkEnrollRequest, services: ServicesDep, caller: Caller
) -> BulkEnrollAnswer:
    """Enroll templates of many subjects.

    Stores all or none, in one transaction. Idempotent: a template id that its subject has is left as it is.
    """
    answer = services.store.enroll_many(gallery, body.subjects, caller.id)
    if may_compare(request, sum(len(each.templates) for each in body.subjects)):
        return answer
    return BulkEnrollAnswer(subjects=[each.untold() for each in answer.subjects])


@templates.delete(
    "/subjects/{subject}/templates/{template}",
    response_model=Erased,
    dependencies=[MAY_ENROLL_OR_MANAGE, SLOT],
    responses=PENDING,
)
def delete_template(
    gallery: GalleryInPath,
    subject: SubjectInPath,
    template: TemplateInPath,
    caller: Caller,
    services: ServicesDep,
    response: Response,
    contract: ContractInHeader = None,
) -> Erased:
    """Erase a template.

    Erases the subject too with its last template.
    """
    return erasure_answer(services.store.erase_subject(gallery, subject, caller.id, template, contract), response)
