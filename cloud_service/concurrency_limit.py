"""How much is done at once: a few requests at work, some waiting for a moment, and the rest told to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import Overloaded


class ConcurrencyLimit:
    """Places for requests that block. Used on one event loop.

    Args:
        at_once: requests at work.
        waiting: requests that may wait for a place.
        patience_seconds: the longest that one waits.
    """

    def __init__(self, at_once: int, waiting: int, patience_seconds: float) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._may_wait = waiting
        self._waiting = 0
        self._patience = patience_seconds

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Holds a place.

        Raises:
            Overloaded: too many wait already, or no place came free in time.
        """
        if self._places.locked() and self._waiting >= self._may_wait:
            raise Overloaded("More requests wait here than may; try again in a moment.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded("The service is busy and no place came free in time; try again in a moment.") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()
