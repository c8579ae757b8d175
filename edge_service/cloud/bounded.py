"""Ends answers of the cloud that are larger than any honest one: the edge holds an answer whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx

from shared.wire.common import MAX_ANSWER_BYTES


class AnswerTooLarge(Exception):
    """The cloud sends more than an answer is, or compresses it, though it was asked not to."""


class BoundedTransport(httpx.AsyncBaseTransport):
    """Limits the size of answers.

    Args:
        transport: that sends.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request.

        Raises:
            AnswerTooLarge: here, or while the answer is read.
        """
        response = await self._transport.handle_async_request(request)
        stream = cast("httpx.AsyncByteStream", response.stream)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await stream.aclose()
            raise AnswerTooLarge
        response.stream = _Bounded(stream)
        return response

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._transport.aclose()


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER_BYTES
        async for block in self._stream:
            left -= len(block)
            if left < 0:
                raise AnswerTooLarge
            yield block

    async def aclose(self) -> None:
        await self._stream.aclose()
