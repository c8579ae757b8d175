"""What the handlers of a running cloud use: built once at the start, closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, move_on_after, to_thread
from sqlalchemy.exc import SQLAlchemyError

from cloud_service.batching import ConcurrencyLimit, RequestBatcher
from cloud_service.bootstrap import open_store
from cloud_service.clock import RecordClock
from cloud_service.housekeeping import housekeeping
from cloud_service.matching import Matcher
from cloud_service.record.listing import Listing
from cloud_service.rekey.service import Rekeying
from cloud_service.settings import Settings
from cloud_service.store import Store
from cloud_service.subjects.duplicates import DuplicateSearch
from cloud_service.subjects.names import Names
from shared.errors import PatronusError, place_of
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.security.key_ring import KeyRing

_log = get_logger(__name__)

# Probes give up after some seconds. A record that hangs may block two threads, not all of them.
_READINESS_TIMEOUT_S = 3.0
_READINESS_THREADS = 2


class Services:
    """The parts of a running cloud.

    Args:
        settings: of the service.
        key_ring: the API keys.
        store: open.
        metrics: where steps are timed.
    """

    def __init__(self, settings: Settings, key_ring: KeyRing, store: Store, metrics: Metrics) -> None:
        matcher, work = Matcher(store, metrics), settings.work
        self.settings = settings
        self.key_ring = key_ring
        self.store = store
        self.listing = Listing(store.record.database, store.record.clock)
        self.names = Names(store.record.database, store.record.clock)
        self.duplicates = DuplicateSearch(store.record, self.names, matcher)
        self.rekeying = Rekeying(store, metrics)
        self.concurrency = ConcurrencyLimit(work)
        self.verifications = RequestBatcher(matcher.verify, lambda _: 1, work)
        self.identifications = RequestBatcher(matcher.identify, lambda request: len(request.probes), work)
        self._readiness_threads = CapacityLimiter(_READINESS_THREADS)

    async def readiness(self) -> dict[str, bool]:
        """Whether each part works.

        The record answers and can be written, no gallery's row and no stored template is known to be damaged, every
        index is loaded, and the API keys can be read.
        """
        record = False
        with move_on_after(_READINESS_TIMEOUT_S):
            record = await to_thread.run_sync(
                self._record_works, abandon_on_cancel=True, limiter=self._readiness_threads
            )
        return {
            "record": record,
            "galleries": not self.store.record.damaged_galleries,
            "templates": not len(self.store.record.damaged_templates),
            "index": self.store.indexes.sound,
            "keys": self.key_ring.readable(),
        }

    def _record_works(self) -> bool:
        try:
            self.store.record.database.ping()
            self.store.record.vectors.recheck_damaged()
        except (SQLAlchemyError, PatronusError) as error:
            _log.error("record_unreachable", **place_of(error))
            return False
        return True


@asynccontextmanager
async def running_services(
    settings: Settings, key_ring: KeyRing, metrics: Metrics, clock: RecordClock | None
) -> AsyncIterator[Services]:
    """Opens record and indexes, runs the background jobs, and closes everything at the end.

    Args:
        settings: of the service.
        key_ring: the API keys; the first one is made if there is none.
        metrics: where steps are timed.
        clock: the time by which templates expire; None: the machine's.

    Raises:
        SetupError: a key file or the record is missing, in use or damaged.
    """
    if await to_thread.run_sync(key_ring.ensure_first_key, settings.first_key_file):
        _log.info("first_api_key_made", file=str(settings.first_key_file))
    await to_thread.run_sync(key_ring.records)  # a file that cannot be read stops the start
    store = await to_thread.run_sync(open_store, settings, metrics, clock)
    services = Services(settings, key_ring, store, metrics)
    await to_thread.run_sync(services.rekeying.start)
    try:
        async with housekeeping(store, settings.retention):
            yield services
    finally:
        await to_thread.run_sync(services.rekeying.close)
        await to_thread.run_sync(store.close)
