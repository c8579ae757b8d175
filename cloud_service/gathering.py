"""Identifications that are asked for at the same time are answered by one search."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread

from cloud_service.gallery.matcher import Asked, Matcher
from shared.envelope import TemplateEnvelope
from shared.errors import Overloaded, PatronusError
from shared.wire.cloud import IdentifyAnswer


@dataclass(slots=True)
class _Waiting:
    asked: Asked
    since: float
    answer: asyncio.Future[IdentifyAnswer]


class Gathering:
    """Gathers what is asked of a gallery while the search before it runs. Used on one event loop.

    Who asks alone is answered at once. Under load, a search takes all probes that wait, up to a limit: one pass over
    the gallery for all of them, where each by itself would take a pass of its own.

    Args:
        matcher: answers.
        searches: how many galleries are searched at once.
        probes: the most in one search, unless one caller alone brings more.
        waiting: callers who may wait.
        patience_seconds: the longest that one waits for a search to begin.
    """

    def __init__(self, matcher: Matcher, *, searches: int, probes: int, waiting: int, patience_seconds: float) -> None:
        self._matcher = matcher
        self._limiter = CapacityLimiter(searches)
        self._probes = probes
        self._may_wait = waiting
        self._patience = patience_seconds
        self._waiting = 0
        self._queues: dict[str, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def identify(self, gallery: str, envelopes: Sequence[TemplateEnvelope], top_k: int) -> IdentifyAnswer:
        """As the matcher answers.

        Raises:
            Overloaded: too many wait already, or no search began in time.
            PatronusError: as the matcher raises.
        """
        if self._waiting >= self._may_wait:
            raise Overloaded("More requests wait here than may; try again in a moment.")
        one = _Waiting(Asked(envelopes, top_k), time.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting += 1
        queue = self._queues.get(gallery)
        if queue is None:
            self._queues[gallery] = deque([one])
            task = asyncio.create_task(self._serve(gallery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(one)
        return await one.answer

    async def _serve(self, gallery: str) -> None:
        """Searches until nobody waits for this gallery any more."""
        queue = self._queues[gallery]
        while True:
            async with self._limiter:
                batch = self._next(queue)
                if batch:
                    await self._search(gallery, batch)
            if not queue:
                del self._queues[gallery]
                return

    def _next(self, queue: deque[_Waiting]) -> list[_Waiting]:
        batch: list[_Waiting] = []
        probes = 0
        began = time.monotonic() - self._patience
        while queue and (not batch or probes + len(queue[0].asked.envelopes) <= self._probes):
            one = queue.popleft()
            self._waiting -= 1
            if one.answer.done():  # its caller went away
                continue
            if one.since < began:
                busy = "The service is busy and no search began in time; try again in a moment."
                one.answer.set_exception(Overloaded(busy))
                continue
            probes += len(one.asked.envelopes)
            batch.append(one)
        return batch

    async def _search(self, gallery: str, batch: list[_Waiting]) -> None:
        found: Sequence[IdentifyAnswer | BaseException]
        try:
            found = await to_thread.run_sync(
                self._matcher.identify, gallery, [one.asked for one in batch], limiter=CapacityLimiter(1)
            )
        except Exception as error:
            found = [_copy(error) for _ in batch]
        for one, answer in zip(batch, found, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, BaseException):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)


def _copy(error: Exception) -> Exception:
    """One error for each caller: raised twice, the same one would gather the frames of both."""
    if isinstance(error, PatronusError):
        return type(error)(error.detail, reason=error.reason, **error.extra)
    return error
