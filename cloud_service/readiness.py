"""What must hold for the cloud to do its work."""

from __future__ import annotations

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from cloud_service.store import Store
from shared.errors import PatronusError
from shared.http.system import Checks
from shared.logs import get_logger, place_of

_log = get_logger(__name__)

# What asks here gives up after some seconds. A record that hangs may hold up two threads, not all that there are.
_PATIENCE_S = 3.0
_AT_ONCE = 2


def readiness_of(app: FastAPI) -> Checks:
    """The checks of an application.

    The record answers and can be written, no gallery's row and no stored template is known to be damaged, every index
    is loaded, and the API keys can be read.
    """

    limiter = CapacityLimiter(_AT_ONCE)

    async def checks() -> dict[str, bool]:
        store: Store = app.state.store
        record = False
        with move_on_after(_PATIENCE_S):
            record = await to_thread.run_sync(_answers, store, abandon_on_cancel=True, limiter=limiter)
        return {
            "record": record,
            "galleries": not store.record.damaged_galleries,
            "templates": not len(store.record.damaged_templates),
            "index": store.indexes.sound,
            "keys": app.state.key_ring.readable(),
        }

    return checks


def _answers(store: Store) -> bool:
    try:
        store.record.database.ping()
        store.record.vectors.recheck_damaged()
    except (SQLAlchemyError, PatronusError) as error:
        _log.error("record_unreachable", **place_of(error))
        return False
    return True
