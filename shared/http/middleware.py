"""The layers inside load shedding: request context, authentication, limits of the body."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import NotFound, Overloaded, PatronusError, RateLimited, RequestTimedOut, TooLarge
from shared.http.auth import KEY_RECORD, authenticate
from shared.http.headers import declared_length, must_close, raw_header, require_one_reading
from shared.http.load_shedding import LoadShedder
from shared.http.problems import ALWAYS_SENT, problem_response, route_of, unexpected
from shared.http.rate_limits import COUNTED, RateLimits, kind_of
from shared.http.request_context import REQUEST_ID_HEADER, Caller, begin_request, set_caller
from shared.logs import get_logger
from shared.metrics import Metrics, collect_steps, server_timing

# A refused upload is read on for a moment, so that the sender sees the answer instead of a broken pipe.
_DRAIN_SECONDS = 1.0
_DRAIN_BYTES = 64 * 1024 * 1024
_FULL = "The service holds as much as it can at once; try again in a moment."
# Monitoring asks for these every few seconds.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})

# Bytes, and no class around them: what every request goes through is kept short.
_REQUEST_ID = REQUEST_ID_HEADER.lower().encode("ascii")
_ALWAYS = tuple((name.lower().encode(), value.encode()) for name, value in ALWAYS_SENT.items())
_OURS = frozenset({_REQUEST_ID, *(name for name, _ in _ALWAYS)})


@dataclass(eq=False)
class RequestContext:
    """Gives a request its id, measures and logs it, and answers uncaught exceptions.

    The log names the route, and no subject or gallery.

    Attributes:
        app: the application inside.
        metrics: where requests are counted.
    """

    app: ASGIApp
    metrics: Metrics
    _log: structlog.stdlib.BoundLogger | None = field(default=None, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._log is None:
            self._log = get_logger("patronus.request").bind()  # once: binding costs as much as a line
        request_id = begin_request(raw_header(scope, _REQUEST_ID))
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
            log = self._log.debug if route in _QUIET else self._log.info
            log("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 2))


@dataclass(eq=False)
class Authentication:
    """Refuses requests under ``/v1`` without a known API key, or over its rate.

    It does so before the body is read. Scopes and galleries of the key are checked by the routes. What is refused as
    overload further inside does not count against the rate.

    Attributes:
        app: the application inside.
        limits: counts the calls of each key.
        shedder: refuses the next calls of a key over its rate.
        metrics: where refusals are counted.
    """

    app: ASGIApp
    limits: RateLimits
    shedder: LoadShedder
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            try:
                self._check(scope)
            except PatronusError as error:
                self.metrics.refused.labels(error.kind, error.reason or "").inc()
                await problem_response(error, close=must_close(scope))(scope, receive, send)
                return
        await self.app(scope, receive, partial(self._send, scope, send))

    async def _send(self, scope: Scope, send: Send, message: Message) -> None:
        if message.get("status") == Overloaded.status and COUNTED in scope:
            self.limits.give_back(scope[KEY_RECORD], kind_of(scope["method"], scope["path"]), scope[COUNTED])
        await send(message)

    def _check(self, scope: Scope) -> None:
        require_one_reading(scope)
        authorization = raw_header(scope, b"authorization") or b""
        record = scope[KEY_RECORD] = authenticate(scope, authorization.decode("latin-1"))
        if b"%2f" in scope.get("raw_path", b"").lower():
            # It would be read as a step in the path: a name of the caller's making would reach another resource.
            raise NotFound("A name cannot hold a slash.")
        kind = kind_of(scope["method"], scope["path"])
        try:
            self.limits.count(record, kind)
        except RateLimited as error:
            self.shedder.remember(kind, authorization, error)
            raise
        scope[COUNTED] = 1


@dataclass(eq=False)
class BodyLimits:
    """Cuts off a body that is too large or too slow, whatever its Content-Length says.

    Attributes:
        app: the application inside.
        limit_for: the most bytes that a request's path takes, by its scope.
        seconds: the longest that a body may take to arrive.
        budget: the most bytes of all bodies together; above it, requests are refused as overload.
        watch_disconnects: whether to mark the ``Caller`` as gone when it closes the connection after its body.
    """

    app: ASGIApp
    limit_for: Callable[[Scope], int]
    seconds: float
    budget: int
    watch_disconnects: bool = False
    _held: int = field(default=0, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit_for(scope)
        body = _Body(receive, limit, self)
        started = False
        if self.watch_disconnects and KEY_RECORD in scope:
            body.caller = Caller(scope[KEY_RECORD].id)
            set_caller(body.caller)

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.refused is None:
                if not started and not body.done and must_close(scope):
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
                started = True
                await send(message)

        if declared_length(scope) > limit:
            body.refused = _too_large(limit)
        else:
            try:
                await self.app(scope, body.receive, send_unless_refused)
            except PatronusError:
                if body.refused is None:
                    raise
            finally:
                body.end()
        if body.refused is not None and not started:
            if isinstance(body.refused, TooLarge):
                await _drain(receive)
            await problem_response(body.refused, close=True)(scope, receive, send)

    def hold(self, size: int) -> bool:
        """Counts bytes of a body as held; whether all bodies together stay within the budget."""
        self._held += size
        return self._held <= self.budget


class _Body:
    """The body of one request while it arrives, and the disconnect of its caller after that."""

    def __init__(self, receive: Receive, limit: int, limits: BodyLimits) -> None:
        self._receive = receive
        self._limit = limit
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._size = 0
        self._watch: asyncio.Task[None] | None = None
        self.caller: Caller | None = None
        self.done = False
        self.refused: PatronusError | None = None

    async def receive(self) -> Message:
        """The next part of the body.

        Raises:
            PatronusError: the body is over a limit.
        """
        if self._watch is not None:
            await asyncio.shield(self._watch)
            return {"type": "http.disconnect"}
        if self.done:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            self.refused = RequestTimedOut(
                f"The body did not arrive within {self._limits.seconds:g} seconds; send it again, faster or smaller."
            )
            raise self.refused from None
        if message["type"] == "http.disconnect":
            if self.caller is not None:
                self.caller.leave()
            return message
        size = len(message.get("body", b""))
        self._size += size
        within_budget = self._limits.hold(size)
        self.done = not message.get("more_body", False)
        if self._size > self._limit:
            self.refused = _too_large(self._limit)
        elif not within_budget:
            self.refused = Overloaded(_FULL)
        if self.refused is not None:
            raise self.refused
        if self.done and self.caller is not None:
            self._watch = asyncio.create_task(self._wait_for_disconnect(self.caller))
        return message

    def end(self) -> None:
        """The request is answered."""
        self._limits.hold(-self._size)
        if self._watch is not None:
            self._watch.cancel()

    async def _wait_for_disconnect(self, caller: Caller) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        caller.leave()


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is over this path's limit of {limit} bytes; send a smaller one.", limit_bytes=limit)


async def _drain(receive: Receive) -> None:
    taken = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while taken < _DRAIN_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
