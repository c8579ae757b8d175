"""Serves an application until the process is asked to stop."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import ssl
from typing import cast

import uvicorn
import uvloop
from fastapi import FastAPI

from shared.errors import SetupError
from shared.http.connections import KEEP_ALIVE_SECONDS, LimitedProtocol, close_silent_connections
from shared.logs import configure_logging
from shared.security.tls import server_context
from shared.service_settings import ServiceSettings
from shared.urls import host_and_port

# Less than the 30 s after which Kubernetes kills, and the 10 s after which Compose does.
_GRACEFUL_SECONDS = 8
# Open files that the connections and the record need, where the system lets a process have them.
_FILES = 2048
# Some 64 requests at work hold as many; Python's own 700 are reached several times in each of them.
_OBJECTS_BETWEEN_COLLECTIONS = 20_000


def serve(service: str, app: FastAPI, settings: ServiceSettings) -> None:
    """Runs the application in the foreground; returns after SIGINT or SIGTERM.

    Raises:
        SetupError: something the application needs at its start is missing, in use or damaged.
    """
    configure_logging(settings.log_level, service)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (_FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard), hard)
        )
    context = server_context(settings.tls)
    uvloop.run(_serve(app, _listen(service, settings.host, settings.port), context))


async def _serve(app: FastAPI, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        lifespan="off",  # opened below, so that an error at the start is one sentence, not a traceback
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the address that a caller claims
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )
    async with app.router.lifespan_context(app):
        # Objects made at the start stay: the collector need not visit them again, nor requests at work so often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        # uvicorn raises the signal that stopped it again when it is done; the lifespan is still to be closed then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server = uvicorn.Server(config)
        connections = cast(set[LimitedProtocol], server.server_state.connections)
        sweep = asyncio.create_task(close_silent_connections(connections))
        try:
            await server.serve(sockets=[listener])
        finally:
            sweep.cancel()


def _listen(service: str, host: str, port: int) -> socket.socket:
    """Binds the socket before anything is opened, so that a taken port is one sentence."""
    try:
        # A name may stand for an IPv6 address only, so the system says which family it is.
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError):
        raise SetupError(
            f"The {service} cannot listen at {host_and_port(host, port)}: the port is taken, or the address is not "
            f"this machine's; choose others with PATRONUS_{service.upper()}__HOST and PATRONUS_{service.upper()}__PORT."
        ) from None
    return listener
