"""The routes that every service has for those who run it: alive, ready, metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from shared.errors import Retryable
from shared.http.problems import RESPONSES, RETRY_AFTER_DESCRIBED
from shared.http.routes import StrictRoute
from shared.metrics import Metrics
from shared.wire.common import Health, Readiness

# Of what may be refused to anybody, whatever is asked for.
_PROBLEMS: dict[int | str, dict[str, Any]] = {status: RESPONSES[status] for status in (429, 500)}
Checks = Callable[[], Awaitable[dict[str, bool]]]


def system_routes(metrics: Metrics, checks: Checks) -> APIRouter:
    """Routes without an API key; they reveal nothing about galleries or subjects.

    Args:
        metrics: what ``/metrics`` shows.
        checks: what must hold for the service to do its work; a name and whether it holds.
    """
    router = APIRouter(tags=["system"], responses=_PROBLEMS, route_class=StrictRoute)

    @router.get("/healthz")
    async def get_health() -> Health:
        """Check that the process is alive."""
        return Health()

    @router.get("/readyz", responses={503: {"model": Readiness, "headers": {"Retry-After": RETRY_AFTER_DESCRIBED}}})
    async def get_readiness(response: Response) -> Readiness:
        """Check whether the service can do its work.

        Answers 503 where it cannot.
        """
        found = await checks()
        if not all(found.values()):
            response.status_code = 503
            response.headers["Retry-After"] = str(Retryable.retry_after_s)
            return Readiness(status="not_ready", checks=found)
        return Readiness(status="ready", checks=found)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def get_metrics() -> PlainTextResponse:
        """Get metrics.

        In the text format of Prometheus.
        """
        return PlainTextResponse(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
