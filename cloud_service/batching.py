"""What is asked at the same time is answered together: one search of a gallery, one reading of the record."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

from shared.errors import Overloaded, PatronusError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    since: float
    answer: asyncio.Future[Answer]


class RequestBatcher(Generic[Asked, Answer]):
    """Gathers what is asked while the work before it goes on. Used on one event loop.

    Who asks alone is answered at once. Under load, all that waits is worked on together, up to a limit: a pass over a
    gallery, or a transaction and a change of threads, for all of them, where each by itself would take its own.

    Args:
        work: takes what it is about and what was asked, in a thread of its own; gives an answer to each, or an error.
            What it raises goes to all.
        weigh: how much of the limit one question takes.
        at_once: how many go on at a time, each about something else.
        most: the limit; one question alone may be over it.
        waiting: questions that may wait.
        patience_seconds: the longest that one waits for its work to begin.
    """

    def __init__(
        self,
        work: Callable[[str, Sequence[Asked]], Sequence[Answer | PatronusError]],
        weigh: Callable[[Asked], int],
        *,
        at_once: int,
        most: int,
        waiting: int,
        patience_seconds: float,
    ) -> None:
        self._work = work
        self._weigh = weigh
        self._limiter = CapacityLimiter(at_once)
        self._most = most
        self._may_wait = waiting
        self._patience = patience_seconds
        self._waiting = 0
        self._queues: dict[str, deque[_Waiting[Asked, Answer]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, about: str, asked: Asked) -> Answer:
        """The answer to one question; what is about the same is worked on together.

        Raises:
            Overloaded: too many wait already, or the work did not begin in time.
            PatronusError: as the work says.
        """
        if self._waiting >= self._may_wait:
            raise Overloaded("More requests wait here than may; try again in a moment.")
        one = _Waiting(asked, time.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting += 1
        queue = self._queues.get(about)
        if queue is None:
            self._queues[about] = deque([one])
            task = asyncio.create_task(self._serve(about))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(one)
        answer: Answer = await one.answer
        return answer

    async def _serve(self, about: str) -> None:
        """Works until nobody waits for this any more."""
        queue = self._queues[about]
        while queue:
            async with self._limiter:
                await self._arrivals(queue)
                batch = self._next(queue)
                if batch:
                    await self._answer(about, batch)
        del self._queues[about]

    async def _arrivals(self, queue: deque[_Waiting[Asked, Answer]]) -> None:
        """Lets what has reached this machine already be read, so that it is gathered too.

        Two turns of the event loop bring a request from its socket to the queue; on an idle one they take microseconds.
        Without this, a thread that answers quickly is given one or two questions at a time, however many wait.
        """
        gathered = 0
        while gathered < len(queue) < self._most:
            gathered = len(queue)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _next(self, queue: deque[_Waiting[Asked, Answer]]) -> list[_Waiting[Asked, Answer]]:
        batch: list[_Waiting[Asked, Answer]] = []
        weight = 0
        oldest = time.monotonic() - self._patience
        while queue and (not batch or weight + self._weigh(queue[0].asked) <= self._most):
            one = queue.popleft()
            self._waiting -= 1
            if one.answer.done():  # its caller went away
                continue
            if one.since < oldest:
                busy = "The service is busy and no place came free in time; try again in a moment."
                one.answer.set_exception(Overloaded(busy))
                continue
            weight += self._weigh(one.asked)
            batch.append(one)
        return batch

    async def _answer(self, about: str, batch: list[_Waiting[Asked, Answer]]) -> None:
        asked = [one.asked for one in batch]
        found: Sequence[Answer | Exception]
        try:
            found = await to_thread.run_sync(self._work, about, asked, limiter=CapacityLimiter(1))
        except Exception as error:  # whatever it is, those who asked get it, as if each had asked alone
            found = [_copy(error) for _ in batch]
        for one, answer in zip(batch, found, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)


def _copy(error: Exception) -> Exception:
    """One error for each caller: raised twice, the same one would gather the frames of both."""
    if not isinstance(error, PatronusError):
        return error
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    return copied
