"""The edge's application: takes pictures, sends protected templates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from edge_service.cloud_client import CloudClient
from edge_service.embeddings import Plugin
from edge_service.gallery_contexts import GalleryContexts
from edge_service.metrics import ProtectionMetrics
from edge_service.protection.keys import KeyStore
from edge_service.protection.profiles import load_profile
from edge_service.protection.protect import Protector
from edge_service.recognition import Recognition
from edge_service.rekey import Rekeying
from edge_service.routes import embeddings, galleries, info, matching, pictures, rekey, subjects
from edge_service.settings import EdgeSettings, PictureLimits
from edge_service.vision.reader import open_reader
from edge_service.workers import Workers
from shared.http.application import make_application
from shared.http.system import system_routes
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.security.key_ring import KeyRing
from shared.wire.edge import MAX_EMBEDDINGS_BYTES

_log = get_logger(__name__)
# The multipart form's own lines around a picture.
_FORM_BYTES = 64 * 1024
# Requests of one kind inside, most of them still sending their pictures; fewer wait to be worked on.
_PLACES = 256


def create_app(settings: EdgeSettings, transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """The edge, ready to be served.

    Args:
        settings: all of its knobs.
        transport: how the cloud is reached, instead of the network, in tests.
    """
    metrics = Metrics("edge")
    tally = ProtectionMetrics(metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keys = KeyStore(settings.home, may_make=not settings.keys_file.exists())
        ring = KeyRing(settings.keys_file)
        if ring.ensure_first_key(settings.first_key_file):
            _log.info("first_api_key_made", file=str(settings.first_key_file))
        ring.records()  # a file that cannot be read stops the start
        reader = open_reader(settings, metrics)
        profile = load_profile(settings.profile, reader.pin, reader.spec.dim, settings.profiles)
        protector = Protector(profile, tell=tally)
        cloud = CloudClient(settings.cloud, metrics, transport)
        workers = Workers(settings.work)
        book = GalleryContexts(
            cloud=cloud,
            keys=keys,
            profile=profile,
            embedder=reader.pin,
            dim=reader.spec.dim,
            cache_s=settings.cloud.gallery_cache_s,
        )
        app.state.settings, app.state.key_ring, app.state.profile = settings, ring, profile
        app.state.reader, app.state.cloud, app.state.galleries = reader, cloud, book
        recognition = Recognition(
            reader=reader, protector=protector, galleries=book, cloud=cloud, workers=workers, metrics=metrics
        )
        app.state.recognition = recognition
        app.state.rekeying = Rekeying(cloud=cloud, keys=keys, galleries=book, workers=workers)
        app.state.plugin = Plugin(
            recognition=recognition,
            protector=protector,
            galleries=book,
            keys=keys,
            workers=workers,
            dim=reader.spec.dim,
        )
        if not profile.seals:
            _log.warning(
                "profile_does_not_seal", profile=profile.pin.name, sends="templates that are nearly embeddings"
            )
        _log.info("edge_ready", profile=profile.pin.name, embedder=reader.pin.name)
        try:
            yield
        finally:
            workers.close()
            await cloud.close()

    async def checks() -> dict[str, bool]:
        return {"models": True, "keys": app.state.key_ring.readable(), "cloud": await app.state.cloud.alive()}

    app = make_application(
        title="Patronus edge",
        description="Takes pictures of faces, and sends protected templates, and only those, to the cloud.",
        lifespan=lifespan,
        metrics=metrics,
        limit_for=lambda path: _body_limit(path, settings.pictures),
        body_seconds=settings.pictures.body_timeout_s,
        rates=settings.rates,
        slots=_PLACES,
        watch_disconnects=True,
    )
    parts = (matching, subjects, embeddings, pictures, galleries, rekey, info)
    for router in (*(part.router for part in parts), system_routes(metrics, checks)):
        app.include_router(router)
    return app


def _body_limit(path: str, limits: PictureLimits) -> int:
    """The most bytes that a path takes: several pictures where it takes several, else one."""
    if path.endswith(("/protect", "/embeddings")):
        return max(MAX_EMBEDDINGS_BYTES, limits.max_bytes + _FORM_BYTES)
    if path.endswith("/faces"):
        return limits.max_request_bytes
    if not path.endswith(("/detect", "/compare", "/verify", "/identify")):
        return _FORM_BYTES
    return limits.max_bytes * (2 if path.endswith("/compare") else 1) + _FORM_BYTES
