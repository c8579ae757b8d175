"""Serves an application until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from shared.errors import SetupError
from shared.logs import LogLevel, configure_logging

# Longer than the edge's pool keeps an idle connection (20 s), so that the caller, not this side, ends it.
_KEEP_ALIVE_SECONDS = 30
# A head is some hundred bytes; who takes longer is not calling but waiting.
_HEAD_SECONDS = 10
# Less than the 30 s after which Kubernetes kills, and the 10 s after which Compose does.
_GRACEFUL_SECONDS = 8
# Connections, idle ones too; one more is answered 503 at once instead of holding memory.
_CONNECTIONS = 1000


def serve(service: str, app: FastAPI, *, host: str, port: int, log_level: LogLevel) -> None:
    """Runs the application in the foreground; returns after SIGINT or SIGTERM.

    Raises:
        SetupError: something the application needs at its start is missing, in use or damaged.
    """
    configure_logging(log_level, service)
    asyncio.run(_serve(service, app, host, port))


class _HurriedProtocol(H11Protocol):
    """Closes a connection on which no request begins: else a thousand silent ones lock everybody out.

    A request has begun when its head has arrived; the time that its body may take is limited elsewhere.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_HEAD_SECONDS, self._close_unless_begun, None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.loop.call_later(_KEEP_ALIVE_SECONDS, self._close_unless_begun, self.cycle)

    def _close_unless_begun(self, before: RequestResponseCycle | None) -> None:
        if self.cycle is before and not self.transport.is_closing():
            self.transport.close()


async def _serve(service: str, app: FastAPI, host: str, port: int) -> None:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_HurriedProtocol,
        lifespan="off",  # opened below: what stops a start is then told in one sentence, not as a traceback
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )
    listener = _listen(service, host, port)
    async with app.router.lifespan_context(app):
        # uvicorn raises the signal that stopped it once more when it is done; what is open is still to be closed then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await uvicorn.Server(config).serve(sockets=[listener])


def _listen(service: str, host: str, port: int) -> socket.socket:
    """The socket, bound before anything is opened: a port that is taken is told in one sentence."""
    # TCP by name: asyncio turns Nagle's algorithm off for such sockets only. With it an answer, which goes out as head
    # and body, waits 40 ms for the caller's delayed acknowledgement (docs/speed.md).
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise SetupError(
            f"The {service} cannot listen at {host}:{port}: the port is taken, or the address is not this machine's; "
            f"choose others with PATRONUS_{service.upper()}__HOST and PATRONUS_{service.upper()}__PORT."
        ) from None
    return listener
