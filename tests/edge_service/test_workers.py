"""The queue of workers is fair between API keys, and work of disconnected callers is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_service.settings import WorkSettings
from edge_service.workers import Workers
from shared.errors import Overloaded
from shared.http.request_context import Caller, CallerGone, check_caller, set_caller

SECONDS = 20


@contextmanager
def workers_of(workers: int, waiting: int = 32) -> Iterator[Workers]:
    opened = Workers(WorkSettings(workers=workers, waiting=waiting))
    try:
        yield opened
    finally:
        opened.close()


def within_time(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(limited())


async def asked(workers: Workers, caller: Caller, work: Callable[..., Any], *args: Any) -> asyncio.Task[Any]:
    """A request of a caller that has come as far as the line."""

    async def request() -> Any:
        set_caller(caller)
        return await workers.run(work, *args)

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    return task


class Held:
    """Work that goes on until it is let go; knows how much of it began."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self._go = threading.Event()

    def work(self) -> None:
        self.began.release()
        assert self._go.wait(SECONDS)
        check_caller()

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.began.acquire, timeout=SECONDS)

    def let_go(self) -> None:
        self._go.set()


def test_a_key_holds_at_most_three_quarters_of_the_line() -> None:
    async def test() -> None:
        with workers_of(1, waiting=7) as workers:
            held = Held()
            flood = [await asked(workers, Caller("flood"), held.work) for _ in range(6)]
            seventh = await asked(workers, Caller("flood"), held.work)
            other = await asked(workers, Caller("other"), held.work)
            held.let_go()
            with pytest.raises(Overloaded):
                await seventh
            await asyncio.gather(other, *flood)

    within_time(test)


def test_the_backlog_of_one_key_delays_another_by_the_work_that_runs() -> None:
    async def test() -> None:
        order: list[str] = []
        with workers_of(1) as workers:
            held = Held()
            first = await asked(workers, Caller("flood"), held.work)
            await held.has_begun()
            tasks = [await asked(workers, Caller("flood"), order.append, "flood") for _ in range(3)]
            tasks += [await asked(workers, Caller(key), order.append, key) for key in ("one", "two", "one")]
            held.let_go()
            await asyncio.gather(first, *tasks)
        assert order == ["one", "two", "flood", "one", "flood", "flood"]

    within_time(test)


def test_a_key_alone_uses_every_worker() -> None:
    async def test() -> None:
        together = threading.Barrier(3)
        with workers_of(3) as workers:
            tasks = [await asked(workers, Caller("alone"), together.wait, SECONDS) for _ in range(3)]
            await asyncio.gather(*tasks)

    within_time(test)


def test_while_another_key_is_in_use_a_key_leaves_it_a_worker() -> None:
    async def test() -> None:
        with workers_of(2) as workers:
            await (await asked(workers, Caller("door"), int))
            held = Held()
            flood = [await asked(workers, Caller("flood"), held.work) for _ in range(4)]
            await held.has_begun()
            for _ in range(3):
                await (await asked(workers, Caller("door"), int))
            assert not held.began.acquire(blocking=False), "one worker is left free for the other key"
            held.let_go()
            await asyncio.gather(*flood)

    within_time(test)


def test_with_one_worker_a_key_may_have_it_though_another_is_in_use() -> None:
    async def test() -> None:
        with workers_of(1) as workers:
            await (await asked(workers, Caller("door"), int))
            assert await (await asked(workers, Caller("other"), int)) == 0

    within_time(test)


def test_work_that_waits_is_dropped_when_its_caller_goes_away() -> None:
    async def test() -> None:
        done: list[str] = []
        with workers_of(1, waiting=1) as workers:
            held, caller = Held(), Caller("key")
            running = await asked(workers, Caller("first"), held.work)
            await held.has_begun()
            waiting = await asked(workers, caller, done.append, "for nobody")
            caller.leave()
            with pytest.raises(CallerGone):
                await waiting
            next_one = await asked(workers, Caller("other"), done.append, "for somebody")
            held.let_go()
            await asyncio.gather(running, next_one)
        assert done == ["for somebody"]

    within_time(test)


def test_work_that_runs_ends_at_its_next_step_when_its_caller_goes_away() -> None:
    async def test() -> None:
        with workers_of(1) as workers:
            held, caller = Held(), Caller("key")
            running = await asked(workers, caller, held.work)
            await held.has_begun()
            caller.leave()
            held.let_go()
            with pytest.raises(CallerGone):
                await running
            with pytest.raises(CallerGone):
                await (await asked(workers, caller, int))

    within_time(test)


def test_a_request_that_is_cancelled_keeps_its_worker_until_the_work_has_ended() -> None:
    async def test() -> None:
        with workers_of(1, waiting=0) as workers:
            held = Held()
            running = await asked(workers, Caller("key"), held.work)
            await held.has_begun()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            with pytest.raises(Overloaded):
                await (await asked(workers, Caller("other"), int))
            held.let_go()
            while True:
                try:
                    assert await (await asked(workers, Caller("other"), int)) == 0
                    return
                except Overloaded:
                    await asyncio.sleep(0.01)

    within_time(test)


def test_an_error_of_the_work_reaches_who_asked() -> None:
    async def test() -> None:
        with workers_of(1) as workers:
            with pytest.raises(ValueError, match="invalid literal"):
                await (await asked(workers, Caller("key"), int, "x"))
            assert await (await asked(workers, Caller("key"), int, "1")) == 1

    within_time(test)
