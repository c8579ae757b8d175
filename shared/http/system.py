"""The routes that every service has for those who run it: alive, ready, metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response

from shared.metrics import Metrics
from shared.wire.common import Health, Readiness

Checks = Callable[[], Awaitable[dict[str, bool]]]


def system_routes(metrics: Metrics, checks: Checks) -> APIRouter:
    """Routes without an API key, which tell nothing of galleries or subjects.

    Args:
        metrics: what ``/metrics`` shows.
        checks: what must hold for the service to do its work; a name and whether it holds.
    """
    router = APIRouter(tags=["system"])

    @router.get("/healthz")
    async def alive() -> Health:
        """The process is alive."""
        return Health()

    @router.get("/readyz", responses={503: {"model": Readiness}})
    async def ready(response: Response) -> Readiness:
        """Whether the service can do its work; 503 when it cannot."""
        found = await checks()
        if not all(found.values()):
            response.status_code = 503
            return Readiness(status="not_ready", checks=found)
        return Readiness(status="ready", checks=found)

    @router.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
