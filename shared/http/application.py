"""Puts an application together the way both services are: limits, ids and problems around the routes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from shared.home import patronus_version
from shared.http.load_shedding import LoadShedder
from shared.http.middleware import BodyLimits, Gate, HeadAsGet, RequestContext
from shared.http.problems import DESCRIBED, REQUEST_ID_DESCRIBED, install_problems
from shared.http.rate_limits import RateLimits
from shared.http.rates import RateSettings
from shared.http.request_context import REQUEST_ID_HEADER
from shared.metrics import Metrics
from shared.wire.common import Problem

# Bytes of all bodies that are being received or worked on. A few large pictures for each of a few workers.
_BODIES_AT_ONCE = 256 * 1024 * 1024


class _Described(FastAPI):
    """An application whose OpenAPI document tells of problems and of the headers that every answer has."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        parts["responses"] = DESCRIBED
        answers = (
            answer
            for path in document["paths"].values()
            for operation in path.values()
            for answer in operation["responses"].values()
        )
        for answer in answers:
            if "$ref" not in answer:
                answer.setdefault("headers", {})[REQUEST_ID_HEADER] = REQUEST_ID_DESCRIBED
        return document


def make_application(
    *,
    title: str,
    description: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    metrics: Metrics,
    limit_for: Callable[[str], int],
    body_seconds: float,
    rates: RateSettings,
    places: int,
    innermost: Callable[[ASGIApp], ASGIApp] | None = None,
) -> FastAPI:
    """An application without routes.

    Swagger's and ReDoc's pages are off: they load scripts from elsewhere. ``/openapi.json`` is there.

    Args:
        title: of the OpenAPI document.
        description: of the OpenAPI document.
        lifespan: opens and closes what the service holds.
        metrics: of the service.
        limit_for: the most bytes that a path takes as a body.
        body_seconds: the longest that a body may take to arrive.
        rates: how often a key may call.
        places: requests of one kind that may be inside; what comes then is refused before it is parsed.
        innermost: a further middleware, inside the others.
    """
    app = _Described(
        title=title,
        description=description,
        version=patronus_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    install_problems(app, metrics)
    app.router.redirect_slashes = False  # a redirect would be built from the caller's own Host header
    if innermost is not None:
        app.add_middleware(innermost)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimits, limit_for=limit_for, seconds=body_seconds, budget=_BODIES_AT_ONCE)
    app.state.front_desk = LoadShedder(places, metrics)
    app.state.rate_limits = RateLimits(rates)
    app.add_middleware(Gate, desk=app.state.front_desk, limits=app.state.rate_limits, metrics=metrics)
    app.add_middleware(RequestContext, metrics=metrics)
    return app
