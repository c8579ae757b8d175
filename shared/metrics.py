"""Prometheus metrics of one service: requests, and the time of each step of the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

# From a FAISS search (some 0.1 ms) to a cold, large picture (seconds).
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_steps: ContextVar[dict[str, float] | None] = ContextVar("steps", default=None)


class Metrics:
    """The metrics of one service, in a registry of its own.

    So two services can run in one process, as in tests.

    Args:
        service: the prefix of every name, ``edge`` or ``cloud``.
    """

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            f"patronus_{service}_request_seconds",
            "Time from the first byte of a request to the last of its answer",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.steps = Histogram(
            f"patronus_{service}_step_seconds",
            "Time of one step of answering",
            ["step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            f"patronus_{service}_refused_total",
            "Requests refused, by the word of the problem's type and its reason",
            ["problem", "reason"],
            registry=self.registry,
        )

    @lru_cache(maxsize=1024)  # noqa: B019 - as long-lived as what it belongs to
    def request(self, method: str, route: str, status: int) -> Histogram:
        """The histogram of one kind of request; there is one for each route, method and status."""
        return self.requests.labels(method, route, status)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times one step, for ``/metrics`` and for the answer's Server-Timing header."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.steps.labels(name).observe(seconds)
            taken = _steps.get()
            if taken is not None:
                taken[name] = taken.get(name, 0.0) + seconds

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def collect_steps() -> dict[str, float]:
    """Begins to collect the steps of this request; the dict fills as they end. Seconds by name."""
    taken: dict[str, float] = {}
    _steps.set(taken)
    return taken


def server_timing(steps: dict[str, float]) -> str:
    """The steps as a Server-Timing header: ``decode;dur=3.1, detect;dur=12.9`` in milliseconds."""
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in steps.items())
