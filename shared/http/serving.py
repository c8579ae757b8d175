"""Serves an application until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import signal
import socket
import ssl
from typing import Any, cast

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.errors import BadRequest, SetupError
from shared.http.load_shedding import PLACE, LoadShedder
from shared.http.problems import MEDIA_TYPE, problem_document
from shared.http.request_context import REQUEST_ID_HEADER, id_of_request
from shared.logs import LogLevel, configure_logging
from shared.security.tls import TlsSettings, server_context
from shared.urls import host_and_port

# Longer than the edge's pool keeps an idle connection (20 s), so that the caller, not this side, ends it.
_KEEP_ALIVE_SECONDS = 30
# A head is some hundred bytes; who takes longer is not calling but waiting.
_HEAD_SECONDS = 10
# Less than the 30 s after which Kubernetes kills, and the 10 s after which Compose does.
_GRACEFUL_SECONDS = 8
# Connections, idle ones too. Who comes then is told to come again, if not asking how the service is; and at the second
# number a connection is closed without a word.
_CONNECTIONS = 1000
_MOST_CONNECTIONS = 1200
# Open files that these need, and the record; where the system lets a process have them.
_FILES = 2048
# All but those of 100 Continue, after which nothing comes for a while.
_HEADS = (b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.1 5")
_MALFORMED = BadRequest("This is not a request in HTTP/1.1; send it anew, with sound headers.", reason="malformed_http")
# Some 64 requests at work hold as many; Python's own 700 are reached several times in each of them.
_OBJECTS_BETWEEN_COLLECTIONS = 20_000


def serve(service: str, app: FastAPI, *, host: str, port: int, log_level: LogLevel, tls: TlsSettings) -> None:
    """Runs the application in the foreground; returns after SIGINT or SIGTERM.

    Raises:
        SetupError: something the application needs at its start is missing, in use or damaged.
    """
    configure_logging(log_level, service)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (_FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard), hard)
        )
    asyncio.run(_serve(service, app, host, port, server_context(tls)))


class HurriedProtocol(H11Protocol):
    """Closes a connection on which no request begins: else a thousand silent ones lock everybody out.

    A request has begun when its head has arrived; the time that its body may take is limited elsewhere. A connection
    has one timer, which looks again when it is due: one for each request would keep every request for half a minute.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a head."""
        self._line = transport
        super().connection_made(cast(asyncio.Transport, _Joined(transport)))
        self._desk: LoadShedder | None = getattr(getattr(self.app, "state", None), "front_desk", None)
        self._idle_since = self.loop.time()
        self._watched = True
        self.loop.call_later(_HEAD_SECONDS, self._watch)
        self._too_many = len(self.connections) > _CONNECTIONS
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Refuses a whole request at once where there is no place for it; else parses it."""
        if self._desk is None or self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            super().data_received(data)
            return
        found = self._desk.farewell(data) if self._too_many else self._desk.receive(data)
        if isinstance(found, bytes):
            self._line.write(found)
            if self._too_many:
                self._line.close()
            self._unset_keepalive_if_required()  # our own watch goes on
            self._idle_since = self.loop.time()
            return
        before = self.cycle
        super().data_received(data)
        if found is not None and self.cycle is not before:
            cast(dict[str, Any], self.cycle.scope)[PLACE] = found
        elif found is not None:  # what looked like a request was none
            self._desk.leave(found)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP with a problem document, as all that is wrong is answered, and closes."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:  # else an answer is on its way already
            request_id = id_of_request(None)
            body = json.dumps(problem_document(_MALFORMED, request_id)).encode()
            headers = {
                "Content-Type": MEDIA_TYPE,
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                REQUEST_ID_HEADER: request_id,
                "Connection": "close",
            }
            head = h11.Response(status_code=_MALFORMED.status, headers=list(headers.items()), reason=b"Bad Request")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self._line.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """Begins to wait for the next request."""
        super().on_response_complete()
        self._idle_since = self.loop.time()
        if not self._watched:
            self._watched = True
            self.loop.call_later(_KEEP_ALIVE_SECONDS, self._watch)

    def _watch(self) -> None:
        self._watched = False
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            return  # the end of the answer sets the next watch
        patience = _HEAD_SECONDS if self.cycle is None else _KEEP_ALIVE_SECONDS
        left = self._idle_since + patience - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self._watched = True
            self.loop.call_later(left, self._watch)


class _Joined:
    """A connection on which the head of an answer waits for the beginning of its body: one packet, one system call.

    uvicorn writes them apart, and a system call is a tenth of what an answer costs.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes, or keeps the head of an answer until the next call, which comes within the same turn of the loop."""
        if data.startswith(_HEADS) and not self._head:
            self._head = data
        elif self._head or data:  # a body may be empty
            self._transport.write(self._head + data)
            self._head = b""

    def close(self) -> None:
        """Closes, after what was written."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()


async def _serve(service: str, app: FastAPI, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=HurriedProtocol,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        lifespan="off",  # opened below: what stops a start is then told in one sentence, not as a traceback
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a caller says that it comes from
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )
    listener = _listen(service, host, port)
    async with app.router.lifespan_context(app):
        # What was made at the start stays: the collector need not look at it again, nor at requests at work so often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        # uvicorn raises the signal that stopped it once more when it is done; what is open is still to be closed then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await uvicorn.Server(config).serve(sockets=[listener])


def _listen(service: str, host: str, port: int) -> socket.socket:
    """The socket, bound before anything is opened: a port that is taken is told in one sentence."""
    try:
        # A name may stand for an IPv6 address only, so the system says which family it is.
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise _cannot_listen(service, host, port) from None
    # TCP by name: asyncio turns Nagle's algorithm off for such sockets only. With it an answer, which goes out as head
    # and body, waits 40 ms for the caller's delayed acknowledgement (docs/speed.md).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise _cannot_listen(service, host, port) from None
    return listener


def _cannot_listen(service: str, host: str, port: int) -> SetupError:
    return SetupError(
        f"The {service} cannot listen at {host_and_port(host, port)}: the port is taken, or the address is not this "
        f"machine's; choose others with PATRONUS_{service.upper()}__HOST and PATRONUS_{service.upper()}__PORT."
    )
