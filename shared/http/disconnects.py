"""Notices when a caller closes the connection before the answer: servers do not stop the work by themselves."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.auth import CALLER
from shared.http.request_context import Caller, CallerGone, set_caller

# What nginx writes in its log for the same. Nobody receives it; it is for this service's log and metrics.
_CLIENT_CLOSED_REQUEST = 499


class DisconnectWatch:
    """Tells the work for a request when its caller went away.

    A request is watched from the end of its body on: until then whoever reads the body is told.

    Args:
        app: the application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; work that ends with ``CallerGone`` is answered to nobody."""
        if scope["type"] != "http" or CALLER not in scope:
            await self.app(scope, receive, send)
            return
        caller = Caller(scope[CALLER].id)
        set_caller(caller)
        watch: asyncio.Task[None] | None = None

        async def receive_then_watch() -> Message:
            nonlocal watch
            if watch is not None:
                await asyncio.shield(watch)
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                caller.leave()
            elif not message.get("more_body", False):
                watch = asyncio.create_task(_watched(receive, caller))
            return message

        try:
            await self.app(scope, receive_then_watch, send)
        except CallerGone:
            await send({"type": "http.response.start", "status": _CLIENT_CLOSED_REQUEST, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        finally:
            if watch is not None:
                watch.cancel()


async def _watched(receive: Receive, caller: Caller) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    caller.leave()
