"""What surrounds every request: its id, its time, its log line, and the limits on its body."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import NotFound, Overloaded, PatronusError, RateLimited, RequestTimedOut, TooLarge
from shared.http.auth import CALLER, known_caller
from shared.http.headers import header_of, raw_header, single_headers_only
from shared.http.load_shedding import PLACE, LoadShedder, Place
from shared.http.problems import problem_response, unexpected
from shared.http.rate_limits import RateLimits, kind_of
from shared.http.request_context import REQUEST_ID_HEADER, begin_request
from shared.http.routing import route_of
from shared.logs import get_logger
from shared.metrics import Metrics, collect_steps, server_timing

# A refused upload is read on for a moment, so that the sender gets to see the answer instead of a broken pipe.
_DRAIN_SECONDS = 1.0
_DRAIN_BYTES = 64 * 1024 * 1024
_DIGITS = re.compile("[0-9]+")
_MOST_DIGITS = 18
_FULL = "The service holds as much as it can at once; try again in a moment."
# Asked every few seconds by whatever watches the service.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})

# Bytes, and no class around them: what every request goes through is kept short.
_REQUEST_ID = REQUEST_ID_HEADER.lower().encode("ascii")
_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_OURS = frozenset({_REQUEST_ID, *(name for name, _ in _ALWAYS)})


class RequestContext:
    """Gives a request its id, times it, logs it in one line without names, and answers what nobody caught.

    Args:
        app: the application inside.
        metrics: where to count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self._log: structlog.stdlib.BoundLogger | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._log is None:
            self._log = get_logger("patronus.request").bind()  # once: binding costs as much as a line
        request_id = begin_request(header_of(scope, _REQUEST_ID))
        steps = collect_steps()
        start = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [pair for pair in message.get("headers", ()) if pair[0] not in _OURS]
                headers += (*_ALWAYS, (_REQUEST_ID, request_id.encode("ascii")))
                if steps:
                    headers.append((b"server-timing", server_timing(steps).encode("ascii")))
                message["headers"] = headers
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
            self.metrics.request(scope["method"], route, status).observe(seconds)
            tell = self._log.debug if route in _QUIET else self._log.info
            tell("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 2))


class Gate:
    """Lets in, before a byte of the body is read, who has an API key, is within its rate, and finds a place.

    Scopes are checked later, by the routes.

    Args:
        app: the application inside.
        desk: knows the places.
        limits: counts the calls of each key.
        metrics: where refusals are counted.
    """

    def __init__(self, app: ASGIApp, desk: LoadShedder, limits: RateLimits, metrics: Metrics) -> None:
        self.app = app
        self.desk = desk
        self.limits = limits
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
            return
        place: Place | None = scope.get(PLACE)
        try:
            try:
                # First the place: a call that finds none must not count.
                place = place or self.desk.enter(scope["path"], raw_header(scope, b"authorization") or b"")
                self._let_in(scope)
            except PatronusError as error:
                self.metrics.refused.labels(error.kind, error.reason or "").inc()
                response = problem_response(error)
                if PLACE not in scope:  # its body is still to come, and nobody will read it
                    response.headers["Connection"] = "close"
                await response(scope, receive, send)
                return
            await self.app(scope, receive, send)
        finally:
            if place is not None:
                self.desk.leave(place)

    def _let_in(self, scope: Scope) -> None:
        single_headers_only(scope)
        header = raw_header(scope, b"authorization") or b""
        scope[CALLER] = known_caller(scope, header.decode("latin-1"))
        if b"%2f" in scope.get("raw_path", b"").lower():
            # It would be read as a step in the path: a name of somebody's making would reach another resource.
            raise NotFound("A name cannot hold a slash.")
        kind = kind_of(scope["method"], scope["path"])
        try:
            self.limits.count(scope[CALLER], kind)
        except RateLimited as error:
            self.desk.remember(kind, header, error)
            raise


@dataclass(slots=True)
class _Body:
    limit: int
    deadline: float
    received: int = 0
    done: bool = False
    refused: PatronusError | None = None


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
        limit, declared = self.limit_for(scope["path"]), _length(header_of(scope, b"content-length"))
        if PLACE in scope and declared <= limit:
            await self._whole(declared, scope, receive, send)
            return
        body = _Body(limit, time.monotonic() + self.seconds)
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
                    body.refused = Overloaded(_FULL)
                if body.refused is not None:
                    raise body.refused
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.refused is None:
                started = True
                await send(message)

        if declared > body.limit:
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

    async def _whole(self, size: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that is here already, all of it: its connection has seen to that."""
        if self._held + size > self.budget:
            await problem_response(Overloaded(_FULL))(scope, receive, send)
            return
        self._held += size
        try:
            await self.app(scope, receive, send)
        finally:
            self._held -= size


def _length(declared: str | None) -> int:
    """What a body's length is said to be; 0 where nothing is said, or what is said is no number."""
    if declared is None or not _DIGITS.fullmatch(declared):
        return 0
    return int(declared[:_MOST_DIGITS])  # of a longer one the beginning is over every limit as well


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


class HeadAsGet:
    """Answers HEAD as GET is answered, without the body: every GET route has it, and none says so itself.

    Args:
        app: the application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # In place: the route that is found is noted in this very scope, for the log.
        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"
