"""HTTP/1.1 connections of uvicorn, with limits of number, silence and length of heads."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import BadRequest
from shared.http.load_shedding import HOLD_BACK, OVER_LIMIT
from shared.http.problems import ALWAYS_SENT, problem_response
from shared.http.request_context import id_of_request

# Longer than the edge's pool keeps an idle connection (20 s), so that the caller, not this side, closes it.
KEEP_ALIVE_SECONDS: Final = 30
# A request's head has some hundred bytes; a caller that takes longer only occupies the connection.
_HEAD_SECONDS: Final = 10
# More than the rest of a short body that is skipped (`must_close`).
_MAX_HEAD_BYTES: Final = 128 * 1024
# Requests that a connection may send ahead of answers. Uvicorn alone keeps all: 25 bytes of memory for each byte.
_MAX_PIPELINED: Final = 16
# Requests on connections above the first number are refused, except for health checks. Connections above the second
# number are closed at once.
_MAX_SERVED: Final = 1000
_MAX_OPEN: Final = 1200
_SWEEP_SECONDS: Final = 1.0
_MALFORMED: Final = BadRequest(
    "This is not a valid HTTP/1.1 request; check its request line, headers and length.", reason="malformed_http"
)
_UPGRADE: Final = BadRequest(
    "This service speaks HTTP/1.1 alone; send the request without Upgrade.", reason="upgrade_not_supported"
)


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, within limits.

    It extends only what the event loop and the parser call.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self.head_bytes = 0
        self.invalid = _MALFORMED
        over_limit = len(self.connections) > _MAX_SERVED
        self.app_state = {**self.app_state, OVER_LIMIT: over_limit, HOLD_BACK: self.hold_back}
        if len(self.connections) > _MAX_OPEN:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parses; refuses a head, or trailers, that are too long. Uvicorn alone sets no limit."""
        self.head_bytes += len(data)
        super().data_received(data)
        if self.head_bytes > _MAX_HEAD_BYTES:
            self.send_400_response("")

    def on_headers_complete(self) -> None:
        """Hands the request over. Later headers of the parser are trailers, and are ignored."""
        self.head_bytes, self.idle_since = 0, self.loop.time()
        # The parser stops at an error that is raised here; the request is answered by `send_400_response`.
        if self.parser.should_upgrade():
            self.invalid = _UPGRADE  # httptools would take its body for the next request
            raise ValueError("upgrade")
        if len(self.pipeline) >= _MAX_PIPELINED or b"#" in self.url:
            raise ValueError("too many requests ahead, or a fragment in the target")
        super().on_headers_complete()
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Hands a piece of the body over."""
        self.head_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed with a problem document, after the answers that are due, and closes."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self.cycle.keep_alive = False  # closes after the last answer; what follows its request gets none
            self.transport.pause_reading()
            return
        if self.cycle is None or self.cycle.response_complete or not (self.pipeline or self.cycle.response_started):
            response = problem_response(self.invalid, close=True, request_id=id_of_request(None))
            response.headers.update(ALWAYS_SENT)
            lines = [b"HTTP/1.1 400 Bad Request", *(b"%b: %b" % pair for pair in response.raw_headers), b"", b""]
            self.transport.write(b"\r\n".join(lines) + response.body)
        self.transport.close()

    def hold_back(self, seconds: float) -> None:
        """Delays reading the next request: back pressure after a refusal."""
        self.transport.pause_reading()
        self.loop.call_later(seconds, self.go_on)

    def go_on(self) -> None:
        """Reads again."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def close_if_silent(self) -> None:
        """Closes the connection if no request is being answered and none came in time."""
        now = self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            self.idle_since = now
        elif now - self.idle_since > (_HEAD_SECONDS if self.cycle is None else KEEP_ALIVE_SECONDS):
            self.transport.close()


async def close_silent_connections(connections: set[LimitedProtocol]) -> None:
    """Closes connections that sent no complete request head in time; runs until it is canceled."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        for connection in tuple(connections):
            connection.close_if_silent()
