"""Work that keeps a core busy, away from the event loop, and no more of it than the machine carries."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from edge_service.settings import WorkSettings
from edge_service.vision.sessions import usable_cores
from shared.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A few threads, and a short line of those who wait for one.

    Args:
        settings: how many of each.
    """

    def __init__(self, settings: WorkSettings) -> None:
        threads = settings.workers or usable_cores()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="patronus-work")
        self._most = threads + settings.waiting
        self._inside = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking work in a thread, with this request's context.

        Raises:
            Overloaded: the line is full.
        """
        if self._inside >= self._most:
            raise Overloaded("The edge is working at its limit; try again in a moment.")
        self._inside += 1
        context = contextvars.copy_context()
        try:
            call = asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(work, *args, **kwargs))
            return await call
        finally:
            self._inside -= 1

    def close(self) -> None:
        """Lets running work end, and starts no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)
