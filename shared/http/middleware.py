"""What surrounds every request: its id, its time, its log line, and the limits on its body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import NotFound, Overloaded, PatronusError, RequestTimedOut, TooLarge
from shared.http.problems import problem_response, unexpected
from shared.http.routing import route_of
from shared.logs import get_logger
from shared.metrics import Metrics, collect_steps, server_timing
from shared.request_context import REQUEST_ID_HEADER, begin_request

_log = get_logger("patronus.request")

# A refused upload is read on for a moment, so that the sender gets to see the answer instead of a broken pipe.
_DRAIN_SECONDS = 1.0
_DRAIN_BYTES = 64 * 1024 * 1024
# Asked every few seconds by whatever watches the service.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class RequestContext:
    """Gives a request its id, times it, logs it in one line without names, and answers what nobody caught.

    Args:
        app: the application inside.
        metrics: where to count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = begin_request(Headers(scope=scope).get(REQUEST_ID_HEADER))
        steps = collect_steps()
        start = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
                if steps:
                    headers["Server-Timing"] = server_timing(steps)
            await send(message)

        try:
            await self.app(scope, receive, send_marked)
        except Exception as error:
            if status:
                raise
            await unexpected(error)(scope, receive, send_marked)
        finally:
            seconds = time.perf_counter() - start
            route = route_of(scope)
            self.metrics.requests.labels(scope["method"], route, status).observe(seconds)
            tell = _log.debug if route in _QUIET else _log.info
            tell("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 2))


class Gate:
    """Lets nobody in without an API key, before a byte of the body is read. Scopes are checked later, by the routes.

    Args:
        app: the application inside.
        knows: makes sure that the header ``Authorization`` holds a key that is known; raises otherwise.
    """

    def __init__(self, app: ASGIApp, knows: Callable[[Scope, str | None], None]) -> None:
        self.app = app
        self.knows = knows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            try:
                self.knows(scope, Headers(scope=scope).get("Authorization"))
                if b"%2f" in scope.get("raw_path", b"").lower():
                    # It would be read as a step in the path: a name of somebody's making would reach another resource.
                    raise NotFound("A name cannot hold a slash.")
            except PatronusError as error:
                response = problem_response(error)
                response.headers["Connection"] = "close"
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


@dataclass
class _Body:
    limit: int
    deadline: float
    received: int = 0
    done: bool = False
    refused: PatronusError | None = field(default=None)


class BodyLimits:
    """Cuts a body off while it streams in, by size and by time, whatever its Content-Length says.

    Args:
        app: the application inside.
        limit_for: the most bytes that a path takes.
        seconds: the longest that a body may take to arrive.
        budget: the most bytes of all bodies together; what exceeds it is told to come again.
    """

    def __init__(self, app: ASGIApp, limit_for: Callable[[str], int], seconds: float, budget: int) -> None:
        self.app = app
        self.limit_for = limit_for
        self.seconds = seconds
        self.budget = budget
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self.limit_for(scope["path"]), time.monotonic() + self.seconds)
        declared = Headers(scope=scope).get("content-length", "")
        started = False

        async def receive_limited() -> Message:
            if body.done:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, body.deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                body.refused = RequestTimedOut(
                    f"The body did not arrive within {self.seconds:g} seconds; send it again, faster or smaller."
                )
                raise body.refused from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                body.received += size
                self._held += size
                body.done = not message.get("more_body", False)
                if body.received > body.limit:
                    body.refused = _too_large(body.limit)
                elif self._held > self.budget:
                    body.refused = Overloaded("The service holds as much as it can at once; try again in a moment.")
                if body.refused is not None:
                    raise body.refused
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.refused is None:
                started = True
                await send(message)

        if declared.isdigit() and int(declared) > body.limit:
            body.refused = _too_large(body.limit)
        else:
            try:
                await self.app(scope, receive_limited, send_unless_refused)
            except PatronusError:
                if body.refused is None:
                    raise
            finally:
                self._held -= body.received
        if body.refused is not None and not started:
            if isinstance(body.refused, TooLarge):
                await _drain(receive)
            response: JSONResponse = problem_response(body.refused)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is over this path's limit of {limit} bytes; send a smaller one.", limit_bytes=limit)


async def _drain(receive: Receive) -> None:
    taken = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while taken < _DRAIN_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
