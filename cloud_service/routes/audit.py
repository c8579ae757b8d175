"""The audit log: what was done, by whom, and how to see that nobody changed it."""

from __future__ import annotations

from cloud_service.audit import log as audit
from cloud_service.deps import MAY_MANAGE, PLACE, AfterEntry, Limit, StoreDep
from shared.errors import Forbidden
from shared.http.auth import Caller
from shared.http.routes import api_router
from shared.wire.cloud import AuditHead, AuditPage

router = api_router("/v1/audit", "audit")


@router.get("", response_model=AuditPage, dependencies=[MAY_MANAGE, PLACE])
def list_entries(caller: Caller, store: StoreDep, limit: Limit = 100, after: AfterEntry = 0) -> AuditPage:
    """The log, oldest first: all of it, or what is about the galleries that the key is for."""
    with store.record.database.read() as connection:
        return audit.page(connection, caller.galleries, after, limit)


@router.get("/head", response_model=AuditHead, dependencies=[MAY_MANAGE, PLACE])
def get_head(caller: Caller, store: StoreDep) -> AuditHead:
    """The last entry's number and digest, to be noted down elsewhere; for a key that is for all galleries."""
    if caller.galleries is not None:
        raise Forbidden("The head of the log is about all galleries; use an API key that is for all of them.")
    with store.record.database.read() as connection:
        return audit.head(connection)
