"""The edge's application: takes pictures, sends protected templates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from starlette.types import Scope

from edge_service.console import pages
from edge_service.metrics import EdgeMetrics
from edge_service.routes import console, embeddings, galleries, info, matching, subjects
from edge_service.services import Services
from edge_service.settings import EdgeSettings, PictureLimits
from edge_service.uploads import JSON
from shared.http.application import make_application
from shared.http.headers import raw_header
from shared.http.problems import CALLS_THE_CLOUD
from shared.http.system import system_routes
from shared.wire.edge import MAX_EMBEDDINGS_BYTES

# A form's own lines around a picture, or a JSON body's.
_FORM_BYTES = 64 * 1024
# Requests of one kind inside, most of them still sending their pictures; fewer wait for a worker.
_MOST_REQUESTS_OF_A_KIND = 256


def create_app(settings: EdgeSettings, transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """Creates the edge's application.

    Args:
        settings: of the edge.
        transport: how the cloud is reached, instead of the network, in tests.
    """
    metrics = EdgeMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services(settings, metrics, transport)
        app.state.services, app.state.key_ring = services, services.key_ring
        try:
            yield
        finally:
            await services.close()

    async def checks() -> dict[str, bool]:
        services = app.state.services
        return {"models": True, "keys": services.key_ring.readable(), "cloud": await services.cloud.alive()}

    app = make_application(
        title="Patronus edge",
        description="Takes pictures of faces, and sends protected templates, and only those, to the cloud.",
        lifespan=lifespan,
        metrics=metrics,
        limit_for=lambda scope: _body_limit(scope, settings.pictures),
        body_seconds=settings.pictures.body_timeout_s,
        rates=settings.rates,
        slots=_MOST_REQUESTS_OF_A_KIND,
        watch_disconnects=True,
        cors_origins=settings.cors_origins,
        root_path=settings.root_path,
    )
    of_galleries = (matching.router, subjects.router, embeddings.router, galleries.router, galleries.rekeys)
    for router in (*of_galleries, console.of_galleries):
        app.include_router(router, responses=CALLS_THE_CLOUD)
    for router in (matching.pictures, info.router, console.router, system_routes(metrics, checks)):
        app.include_router(router)
    if settings.console:
        app.include_router(pages.router)
    return app


def _body_limit(scope: Scope, limits: PictureLimits) -> int:
    """The most bytes that a path takes: several pictures where it takes several, else one; in JSON a third more."""
    path = scope["path"]
    in_json = (raw_header(scope, b"content-type") or b"").partition(b";")[0].strip().lower() == JSON.encode()

    def sent(size: int) -> int:
        return 4 * -(-size // 3) if in_json else size

    if path.endswith("/embeddings"):
        return MAX_EMBEDDINGS_BYTES
    if path.endswith("/protect"):
        return max(MAX_EMBEDDINGS_BYTES, sent(limits.max_bytes) + _FORM_BYTES)
    if path.endswith("/faces"):
        return sent(limits.max_request_bytes)
    if not path.endswith(("/detect", "/compare", "/verify", "/identify", "/rebuild")):
        return _FORM_BYTES
    return sent(limits.max_bytes) * (2 if path.endswith("/compare") else 1) + _FORM_BYTES
