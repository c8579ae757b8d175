"""A few requests work, some wait for a moment, the rest are told to come again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from cloud_service.concurrency_limit import ConcurrencyLimit
from cloud_service.settings import Settings, WorkSettings
from shared.errors import Overloaded
from tests.support.cloud_client import Cloud, assert_problem, random_units

VECTOR = random_units(3, 1)[0]


def test_no_more_work_at_once_than_may_and_all_who_wait_get_their_turn() -> None:
    most = now = 0

    async def main() -> None:
        admission = ConcurrencyLimit(at_once=2, waiting=10, patience_seconds=5)

        async def work() -> None:
            nonlocal most, now
            async with admission.place():
                now += 1
                most = max(most, now)
                await anyio.sleep(0.01)
                now -= 1

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(work)

    anyio.run(main)
    assert (most, now) == (2, 0)


def test_a_place_is_given_back_after_an_error_and_after_a_wait_in_vain() -> None:
    async def main() -> None:
        admission = ConcurrencyLimit(at_once=1, waiting=1, patience_seconds=0.01)
        with pytest.raises(RuntimeError):
            async with admission.place():
                raise RuntimeError
        async with admission.place():
            with pytest.raises(Overloaded, match="in time"):
                async with admission.place():
                    pytest.fail("two at once")
        async with admission.place():
            pass

    anyio.run(main)


def test_who_comes_when_too_many_wait_is_refused_at_once_with_retry_after(settings: Settings) -> None:
    work = WorkSettings(at_once=1, waiting=1, patience_seconds=20)
    with Cloud(settings.model_copy(update={"work": work})) as cloud, ThreadPoolExecutor(2) as threads:
        cloud.put_gallery()
        store = cloud.app.state.store
        inside, leave = threading.Event(), threading.Event()
        real = store.record.gallery

        def slow(name: str) -> object:
            inside.set()
            leave.wait(20)
            return real(name)

        store.record.gallery = slow
        try:
            working = threads.submit(cloud.identify, VECTOR)
            assert inside.wait(5)
            waiting = threads.submit(cloud.identify, VECTOR)
            for _ in range(500):
                if cloud.app.state.admission._waiting:
                    break
                threading.Event().wait(0.01)
            refused = cloud.identify(VECTOR)
            assert_problem(refused, 429, "overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
            assert cloud.http.get("/healthz").status_code == 200, "the loop is free"
            stranger = cloud.identify(VECTOR, headers={"Authorization": ""})
            assert_problem(stranger, 401, "unauthenticated")
        finally:
            leave.set()
        assert [answer.result().status_code for answer in (working, waiting)] == [200, 200]
