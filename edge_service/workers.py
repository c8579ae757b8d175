"""Work that keeps a core busy, away from the event loop, and no more of it than the machine carries.

Keys take turns: a key with much to do delays another key by no more than the work that has begun already.
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

# Of the places of those who wait, those that one key may hold: the others find room.
_SHARE: Final = 0.75
# For so long after a key asked for work, other keys leave a worker free for its next request. A door or a desk that is
# in use asks again within a minute; a key that is quiet for longer takes nothing from the others.
_SECONDS_IN_USE: Final = 60.0
_BUSY: Final = "The edge is working at its limit; try again in a moment."


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    caller: Caller
    work: Callable[[], Any]
    answer: asyncio.Future[Any]


class Workers:
    """A few threads, and a short line of those who wait for one. Used on one event loop.

    Of the keys with waiting work the one with the least running is next, and among equals the one whose work began
    longest ago. While another key is in use, a key leaves one worker free (docs/decisions/0022).

    Args:
        settings: how many of each.
    """

    def __init__(self, settings: WorkSettings) -> None:
        self._threads = settings.workers or usable_cpus()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="patronus-work")
        self._most = self._threads + settings.waiting
        self._most_of_one = self._threads + max(1, int(settings.waiting * _SHARE))
        self._waiting: dict[str, deque[_Job]] = {}
        self._running: Counter[str] = Counter()
        # Of each key in use: when it asked last, and the number of its job that began last.
        self._asked: dict[str, float] = {}
        self._began: dict[str, int] = {}
        self._jobs = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking work in a thread, with this request's context.

        Work that waits is dropped when its caller goes away. Work that runs is told by ``check_caller``, and keeps its
        worker until it ends.

        Raises:
            Overloaded: the line is full, or this key holds its share of it.
            CallerGone: nobody waits for the answer any more.
        """
        caller = current_caller()
        caller.check()
        self._refuse_what_is_too_much(caller.key_id)
        call = functools.partial(contextvars.copy_context().run, functools.partial(work, *args, **kwargs))
        job = _Job(caller, call, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(caller.key_id, deque()).append(job)
        leave = functools.partial(self._drop, job)
        caller.when_gone(leave)
        self._begin_what_can()
        try:
            answer: T = await job.answer
        except asyncio.CancelledError:
            caller.leave()
            raise
        finally:
            caller.forget(leave)
        return answer

    def close(self) -> None:
        """Lets running work end, and starts no more."""
        for jobs in self._waiting.values():
            for job in jobs:
                job.answer.cancel()
        self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _refuse_what_is_too_much(self, key: str) -> None:
        of_one = self._running[key] + len(self._waiting.get(key, ()))
        inside = self._running.total() + sum(map(len, self._waiting.values()))
        if inside >= self._most or of_one >= self._most_of_one:
            raise Overloaded(_BUSY)
        now = time.monotonic()
        self._asked = {one: at for one, at in self._asked.items() if now - at < _SECONDS_IN_USE}
        self._asked[key] = now
        self._began = {one: number for one, number in self._began.items() if one in self._asked}

    def _begin_what_can(self) -> None:
        while self._running.total() < self._threads and (key := self._next_key()) is not None:
            job = self._waiting[key].popleft()
            if not self._waiting[key]:
                del self._waiting[key]
            self._running[key] += 1
            self._jobs += 1
            self._began[key] = self._jobs
            running = asyncio.get_running_loop().run_in_executor(self._pool, _checked, job)
            running.add_done_callback(functools.partial(self._ended, job))

    def _next_key(self) -> str | None:
        may = [key for key in self._waiting if self._running[key] < self._most_running(key)]
        return min(may, key=lambda key: (self._running[key], self._began.get(key, 0)), default=None)

    def _most_running(self, key: str) -> int:
        now = time.monotonic()
        others = any(one != key and now - at < _SECONDS_IN_USE for one, at in self._asked.items())
        return max(1, self._threads - 1) if others else self._threads

    def _ended(self, job: _Job, running: asyncio.Future[Any]) -> None:
        self._running[job.caller.key_id] -= 1
        self._running += Counter()  # drops keys with none
        self._begin_what_can()
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
        """Takes a job out of the line, if it is still there."""
        jobs = self._waiting.get(job.caller.key_id, deque())
        if job not in jobs:
            return
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.caller.key_id]
        if not job.answer.done():
            job.answer.set_exception(CallerGone())


def _checked(job: _Job) -> Any:
    job.caller.check()
    return job.work()
