"""The cloud service as an application."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from anyio import to_thread
from fastapi import FastAPI

from cloud_service.batching import RequestBatcher
from cloud_service.bootstrap import open_store
from cloud_service.concurrency_limit import ConcurrencyLimit
from cloud_service.erasure.receipts import Erasures
from cloud_service.housekeeping import housekeeping
from cloud_service.matching import Matcher
from cloud_service.readiness import readiness_of
from cloud_service.record.clock import RecordClock
from cloud_service.record.listing import Listing
from cloud_service.rekey.service import Rekeying
from cloud_service.routes import ROUTERS
from cloud_service.settings import Settings
from shared.http.application import make_application
from shared.http.system import system_routes
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.security.key_ring import KeyRing

_log = get_logger(__name__)
_REKEY = re.compile(r"/v1/galleries/[^/]+/rekey")


def create_app(settings: Settings, clock: RecordClock | None = None) -> FastAPI:
    """The application; its lifespan opens the store and closes it.

    Args:
        settings: of the service.
        clock: by what time templates age; None: by the machine's.

    Raises:
        SetupError: (the lifespan) a key file or the record is missing, in use or damaged.
    """
    metrics = Metrics("cloud")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if await to_thread.run_sync(app.state.key_ring.ensure_first_key, settings.first_key_file):
            _log.info("first_api_key_made", file=str(settings.first_key_file))
        await to_thread.run_sync(app.state.key_ring.records)  # a file that cannot be read stops the start
        store = await to_thread.run_sync(open_store, settings, metrics, clock)
        app.state.store = store
        app.state.listing = Listing(store.record.database, store.record.clock)
        app.state.erasures = Erasures(store, timedelta(seconds=settings.retention.overwrite_within_seconds))
        app.state.rekeying = rekeying = Rekeying(store, metrics)
        await to_thread.run_sync(rekeying.start)
        work = settings.work
        app.state.admission = ConcurrencyLimit(work.at_once, work.waiting, work.patience_seconds)
        gathering = partial(RequestBatcher, waiting=work.waiting, patience_seconds=work.patience_seconds)
        matcher = Matcher(store, metrics)
        most = work.probes_a_batch
        app.state.verifications = gathering(matcher.verify, lambda _: 1, at_once=work.searches, most=most)
        app.state.identifications = gathering(
            matcher.identify, lambda asked: len(asked.envelopes), at_once=work.searches, most=most
        )
        try:
            async with housekeeping(store, settings.retention):
                yield
        finally:
            await to_thread.run_sync(rekeying.close)
            await to_thread.run_sync(store.close)

    app = make_application(
        title="Patronus cloud",
        description="Stores protected templates of faces and matches them. Takes no picture, returns no template.",
        lifespan=lifespan,
        metrics=metrics,
        limit_for=lambda path: settings.body.max_rekey_bytes if _REKEY.fullmatch(path) else settings.body.max_bytes,
        body_seconds=settings.body.seconds,
        rates=settings.rates,
        slots=settings.work.waiting + settings.work.probes_a_batch,  # those who wait, and those who are worked on
    )
    app.state.settings = settings
    app.state.key_ring = KeyRing(settings.keys_file)
    for router in (*ROUTERS, system_routes(metrics, readiness_of(app))):
        app.include_router(router)
    return app
