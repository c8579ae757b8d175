"""The cloud service as an application."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.types import Scope

from cloud_service.clock import RecordClock
from cloud_service.routes import ROUTERS
from cloud_service.services import running_services
from cloud_service.settings import BodySettings, Settings
from shared.http.application import make_application
from shared.http.system import system_routes
from shared.metrics import Metrics
from shared.security.key_ring import KeyRing

_REKEY = re.compile(r"/v1/galleries/[^/]+/rekey")
_BULK = re.compile(r"/v1/galleries/[^/]+/templates")


def create_app(settings: Settings, clock: RecordClock | None = None) -> FastAPI:
    """Builds the application; its lifespan opens the store and closes it.

    Args:
        settings: of the service.
        clock: the time by which templates expire; None: the machine's.

    Raises:
        SetupError: (the lifespan) a key file or the record is missing, in use or damaged.
    """
    metrics, key_ring = Metrics("cloud"), KeyRing(settings.keys_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_services(settings, key_ring, metrics, clock) as services:
            app.state.services = services
            yield

    async def readiness() -> dict[str, bool]:
        checks: dict[str, bool] = await app.state.services.readiness()
        return checks

    app = make_application(
        title="Patronus cloud",
        description="Stores protected templates of faces and matches them. Takes no picture; returns templates only in "
        "the report about a subject.",
        lifespan=lifespan,
        metrics=metrics,
        limit_for=partial(_body_limit, settings.body),
        body_seconds=settings.body.timeout_s,
        rates=settings.rates,
        slots=settings.work.queue_length + settings.work.max_batch_probes,  # those that wait, and those in progress
    )
    app.state.key_ring = key_ring
    for router in (*ROUTERS, system_routes(metrics, readiness)):
        app.include_router(router)
    return app


def _body_limit(limits: BodySettings, scope: Scope) -> int:
    if _REKEY.fullmatch(scope["path"]):
        return limits.max_rekey_bytes
    return limits.max_bulk_bytes if _BULK.fullmatch(scope["path"]) else limits.max_bytes
