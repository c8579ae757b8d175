"""What must hold for the cloud to do its work."""

from __future__ import annotations

from anyio import to_thread
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from cloud_service.gallery.store import Store
from shared.http.system import Checks
from shared.logs import get_logger, place_of

_log = get_logger(__name__)


def readiness_of(app: FastAPI) -> Checks:
    """The checks of an application: the record answers a query, and every gallery's index is loaded."""

    async def checks() -> dict[str, bool]:
        store: Store = app.state.store
        return {"record": await to_thread.run_sync(_answers, store), "index": store.indexes.sound}

    return checks


def _answers(store: Store) -> bool:
    try:
        store.record.database.ping()
    except SQLAlchemyError as error:
        _log.error("record_unreachable", **place_of(error))
        return False
    return True
