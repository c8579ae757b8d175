"""Runs heavy work in a few threads, with a bounded queue that is fair between API keys.

A key with many requests delays another key by no more than the work that is running already.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from edge_service.settings import WorkSettings
from shared.errors import Overloaded
from shared.http.request_context import Caller, CallerGone, current_caller
from shared.security.process_limits import usable_cpus

P = ParamSpec("P")
T = TypeVar("T")

# The share of the queue that one key may fill.
_SHARE_OF_QUEUE: Final = 0.75
# For so long after a key's last request, other keys leave a worker free for its next one. A camera or a counter in use
# sends again within a minute; a key that is quiet for longer takes nothing from the others.
_SECONDS_IN_USE: Final = 60.0
_BUSY: Final = "The edge is working at its limit; try again in a moment."


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    caller: Caller
    work: Callable[[], Any]
    answer: asyncio.Future[Any]


class Workers:
    """A few threads and a short queue, for one event loop.

    The next job is of the key with the fewest running jobs, and among equals of the key whose last job began first.
    While another key is in use, a key leaves one worker free (docs/decisions/0022).

    Args:
        settings: number of threads, and length of the queue.
    """

    def __init__(self, settings: WorkSettings) -> None:
        self._threads = settings.workers or usable_cpus()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="patronus-work")
        self._limit = self._threads + settings.waiting
        self._limit_of_one = self._threads + max(1, int(settings.waiting * _SHARE_OF_QUEUE))
        self._queued: dict[str, deque[_Job]] = {}
        self._running: Counter[str] = Counter()
        # Of each key in use: the time of its last request, and the number of its last job that began.
        self._last_request: dict[str, float] = {}
        self._last_started: dict[str, int] = {}
        self._started = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking work in a thread, with this request's context.

        Queued work is dropped when its caller disconnects. Running work finds out by ``check_caller``, and keeps its
        worker until it ends.

        Raises:
            Overloaded: the queue is full, or this key has filled its share of it.
            CallerGone: the caller has disconnected.
        """
        caller = current_caller()
        caller.check()
        self._refuse_overload(caller.key_id)
        call = functools.partial(contextvars.copy_context().run, functools.partial(work, *args, **kwargs))
        job = _Job(caller, call, asyncio.get_running_loop().create_future())
        self._queued.setdefault(caller.key_id, deque()).append(job)
        leave = functools.partial(self._drop, job)
        caller.when_gone(leave)
        self._start_jobs()
        try:
            answer: T = await job.answer
        except asyncio.CancelledError:
            caller.leave()
            raise
        finally:
            caller.forget(leave)
        return answer

    def close(self) -> None:
        """Waits for running work, and drops queued work."""
        for jobs in self._queued.values():
            for job in jobs:
                job.answer.cancel()
        self._queued.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _refuse_overload(self, key: str) -> None:
        of_one = self._running[key] + len(self._queued.get(key, ()))
        inside = self._running.total() + sum(map(len, self._queued.values()))
        if inside >= self._limit or of_one >= self._limit_of_one:
            raise Overloaded(_BUSY)
        now = time.monotonic()
        self._last_request = {one: at for one, at in self._last_request.items() if now - at < _SECONDS_IN_USE}
        self._last_request[key] = now
        self._last_started = {one: number for one, number in self._last_started.items() if one in self._last_request}

    def _start_jobs(self) -> None:
        while self._running.total() < self._threads and (key := self._next_key()) is not None:
            job = self._queued[key].popleft()
            if not self._queued[key]:
                del self._queued[key]
            self._running[key] += 1
            self._started += 1
            self._last_started[key] = self._started
            running = asyncio.get_running_loop().run_in_executor(self._pool, _checked, job)
            running.add_done_callback(functools.partial(self._ended, job))

    def _next_key(self) -> str | None:
        may = [key for key in self._queued if self._running[key] < self._running_limit(key)]
        return min(may, key=lambda key: (self._running[key], self._last_started.get(key, 0)), default=None)

    def _running_limit(self, key: str) -> int:
        now = time.monotonic()
        others = any(one != key and now - at < _SECONDS_IN_USE for one, at in self._last_request.items())
        return max(1, self._threads - 1) if others else self._threads

    def _ended(self, job: _Job, running: asyncio.Future[Any]) -> None:
        self._running[job.caller.key_id] -= 1
        self._running += Counter()  # drops keys with none
        self._start_jobs()
        error = None if running.cancelled() else running.exception()
        if job.answer.done():
            return
        if running.cancelled():
            job.answer.cancel()
        elif error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(running.result())

    def _drop(self, job: _Job) -> None:
        """Removes a job from the queue, if it is still there."""
        jobs = self._queued.get(job.caller.key_id, deque())
        if job not in jobs:
            return
        jobs.remove(job)
        if not jobs:
            del self._queued[job.caller.key_id]
        if not job.answer.done():
            job.answer.set_exception(CallerGone())


def _checked(job: _Job) -> Any:
    job.caller.check()
    return job.work()
