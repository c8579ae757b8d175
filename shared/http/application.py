"""Puts an application together the way both services are: limits, ids and problems around the routes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from shared.home import patronus_version
from shared.http.front_desk import FrontDesk
from shared.http.middleware import BodyLimits, Gate, RequestContext
from shared.http.problems import install_problems
from shared.http.rate_limits import RateLimits
from shared.metrics import Metrics
from shared.rates import RateSettings

# Bytes of all bodies that are being received or worked on. A few large pictures for each of a few workers.
_BODIES_AT_ONCE = 256 * 1024 * 1024


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
    """
    app = FastAPI(
        title=title,
        description=description,
        version=patronus_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    install_problems(app, metrics)
    app.router.redirect_slashes = False  # a redirect would be built from the caller's own Host header
    app.add_middleware(BodyLimits, limit_for=limit_for, seconds=body_seconds, budget=_BODIES_AT_ONCE)
    app.state.front_desk = FrontDesk(places, metrics)
    app.state.rate_limits = RateLimits(rates)
    app.add_middleware(Gate, desk=app.state.front_desk, limits=app.state.rate_limits, metrics=metrics)
    app.add_middleware(RequestContext, metrics=metrics)
    return app
