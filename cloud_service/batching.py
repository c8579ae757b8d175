"""A limit of concurrency, and batches of requests that are cheaper together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

from cloud_service.settings import WorkSettings
from shared.errors import Overloaded, PatronusError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def _queue_full() -> Overloaded:
    return Overloaded("The queue for this kind of request is full; try again in a moment.")


def _timed_out() -> Overloaded:
    return Overloaded("The service is busy and did not begin this request in time; try again in a moment.")


class ConcurrencyLimit:
    """Runs at most so many requests at the same time. Used on one event loop.

    Args:
        settings: how many run, how many wait, and for how long.
    """

    def __init__(self, settings: WorkSettings) -> None:
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._settings = settings
        self._waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds a slot.

        Raises:
            Overloaded: the queue is full, or no slot became free in time.
        """
        if self._slots.locked() and self._waiting >= self._settings.queue_length:
            raise _queue_full()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.queue_timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise _timed_out() from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


@dataclass(slots=True)
class _Pending(Generic[Item, Answer]):
    item: Item
    since: float
    answer: asyncio.Future[Answer]


class RequestBatcher(Generic[Item, Answer]):
    """Batches the requests that arrive while earlier ones are processed, on one event loop.

    A request that arrives alone is processed without delay. Under load, all that wait for one gallery are processed
    together, up to a limit: one search, or one transaction and one change of threads, instead of one for each.

    Args:
        process: takes a gallery's name and the items of a batch, in a thread; returns an answer or an error for each.
            What it raises goes to all.
        weight: the weight of one item.
        settings: the batches that run at the same time, each for another gallery; the largest weight of a batch, which
            one item alone may exceed; how many items may wait, and for how long.
    """

    def __init__(
        self,
        process: Callable[[str, Sequence[Item]], Sequence[Answer | PatronusError]],
        weight: Callable[[Item], int],
        settings: WorkSettings,
    ) -> None:
        self._process = process
        self._weight = weight
        self._settings = settings
        self._threads = CapacityLimiter(settings.search_threads)
        self._waiting = 0
        self._queues: dict[str, deque[_Pending[Item, Answer]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, gallery: str, item: Item) -> Answer:
        """Returns the answer to one item, processed together with others of its gallery.

        Raises:
            Overloaded: the queue is full, or processing did not begin in time.
            PatronusError: as ``process`` returns or raises.
        """
        if self._waiting >= self._settings.queue_length:
            raise _queue_full()
        pending = _Pending[Item, Answer](item, time.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting += 1
        queue = self._queues.get(gallery)
        if queue is None:
            self._queues[gallery] = deque([pending])
            task = asyncio.create_task(self._serve(gallery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(pending)
        return await pending.answer

    async def _serve(self, gallery: str) -> None:
        """Processes batches until a gallery's queue is empty."""
        queue = self._queues[gallery]
        while queue:
            async with self._threads:
                await self._read_arrivals(queue)
                batch = self._next_batch(queue)
                if batch:
                    await self._answer(gallery, batch)
        del self._queues[gallery]

    async def _read_arrivals(self, queue: deque[_Pending[Item, Answer]]) -> None:
        """Lets requests that have reached this machine be parsed, so that they join the batch.

        Two passes of the event loop bring a request from its socket to the queue; on an idle one they take
        microseconds. Without this, a thread that answers quickly gets one or two items at a time, however many wait.
        """
        known = 0
        while known < len(queue) < self._settings.max_batch_probes:
            known = len(queue)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _next_batch(self, queue: deque[_Pending[Item, Answer]]) -> list[_Pending[Item, Answer]]:
        batch: list[_Pending[Item, Answer]] = []
        total = 0
        oldest = time.monotonic() - self._settings.queue_timeout_s
        while queue and (not batch or total + self._weight(queue[0].item) <= self._settings.max_batch_probes):
            pending = queue.popleft()
            self._waiting -= 1
            if pending.answer.done():  # its caller disconnected
                continue
            if pending.since < oldest:
                pending.answer.set_exception(_timed_out())
                continue
            total += self._weight(pending.item)
            batch.append(pending)
        return batch

    async def _answer(self, gallery: str, batch: list[_Pending[Item, Answer]]) -> None:
        items = [pending.item for pending in batch]
        answers: Sequence[Answer | Exception]
        try:
            answers = await to_thread.run_sync(self._process, gallery, items, limiter=CapacityLimiter(1))
        except Exception as error:  # each caller gets it, as if it had been alone
            answers = [_copy(error) for _ in batch]
        for pending, answer in zip(batch, answers, strict=True):
            if pending.answer.done():
                continue
            if isinstance(answer, Exception):
                pending.answer.set_exception(answer)
            else:
                pending.answer.set_result(answer)


def _copy(error: Exception) -> Exception:
    """Copies an error for a caller: raised twice, one object collects the frames of both."""
    if not isinstance(error, PatronusError):
        return error
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    return copied
