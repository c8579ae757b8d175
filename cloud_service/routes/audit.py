"""The audit log: what was done and by whom, and its head, to check it by."""

from __future__ import annotations

from cloud_service.audit import log as audit
from cloud_service.deps import MAY_MANAGE, SLOT, AfterEntry, Limit, ServicesDep
from shared.errors import Forbidden
from shared.http.auth import Caller
from shared.http.routes import api_router
from shared.wire.cloud import AuditHead, AuditPage

router = api_router("/v1/audit", "audit")


@router.get("", response_model=AuditPage, dependencies=[MAY_MANAGE, SLOT])
def list_audit_entries(caller: Caller, services: ServicesDep, limit: Limit = 100, after: AfterEntry = 0) -> AuditPage:
    """List the audit log.

    Oldest entry first: all entries, or those about the API key's galleries.
    """
    with services.store.record.database.read() as connection:
        return audit.page(connection, caller.galleries, after, limit)


@router.get("/head", response_model=AuditHead, dependencies=[MAY_MANAGE, SLOT])
def get_audit_head(caller: Caller, services: ServicesDep) -> AuditHead:
    """Get the last entry of the audit log.

    Returns its number and digest. Needs an API key for all galleries.
    """
    if caller.galleries is not None:
        raise Forbidden("The head of the log is about all galleries; use an API key that is for all of them.")
    with services.store.record.database.read() as connection:
        return audit.head(connection)
