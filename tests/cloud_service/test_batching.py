"""Requests that arrive together are processed together; a lone one waits for nobody; too many are refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import numpy as np
import pytest

from cloud_service.batching import ConcurrencyLimit, RequestBatcher
from cloud_service.matching import Matcher
from cloud_service.settings import Settings, WorkSettings
from shared.envelope import TemplateEnvelope
from shared.errors import ContractMismatch, NotFound, Overloaded, PatronusError
from shared.metrics import Metrics
from shared.wire.cloud import IdentifyAnswer, IdentifyRequest
from tests.support.cloud_client import Cloud, assert_problem, contract_of, enveloped, random_units

DIM = 8
VECTORS = random_units(5, 6)


def envelope(vector: Any, **changed: Any) -> TemplateEnvelope:
    return TemplateEnvelope.model_validate(enveloped(vector, **changed))


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Cloud:
    return shared_cloud


class Watched:
    """The matcher of a running cloud, which keeps the size of each batch, and waits at a gate."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher, self.sizes, self.open = matcher, [], threading.Event()
        self.sizes: list[int] = []
        self.open.set()

    def identify(self, gallery: str, requests: Sequence[IdentifyRequest]) -> Any:
        self.sizes.append(len(requests))
        assert self.open.wait(20)
        return self.matcher.identify(gallery, requests)


@pytest.fixture
def watched(cloud: Cloud) -> Watched:
    cloud.put_gallery(contract=contract_of(DIM), tau=0.9)
    for number, vector in enumerate(VECTORS):
        cloud.enroll(f"s{number}", [vector])
    return Watched(Matcher(cloud.services.store, Metrics("test")))


def batcher(watched: Watched, **changed: Any) -> RequestBatcher[IdentifyRequest, IdentifyAnswer]:
    knobs: dict[str, Any] = {"search_threads": 2, "max_batch_probes": 4, "queue_length": 20, "queue_timeout_s": 5.0}
    return RequestBatcher(watched.identify, lambda request: len(request.probes), WorkSettings(**(knobs | changed)))


async def until(condition: Any) -> None:
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not come to that")


def who(*at: int, top_k: int = 1) -> IdentifyRequest:
    """Asks who the people at these positions are."""
    return IdentifyRequest(probes=[envelope(VECTORS[each]) for each in at], top_k=top_k)


def names(answer: Any) -> list[str]:
    return [candidate.subject for result in answer.results for candidate in result.candidates]


def test_what_arrives_during_a_search_is_answered_by_the_next_ones_in_batches_up_to_the_limit(watched: Watched) -> None:
    async def scenario() -> None:
        requests = batcher(watched)
        watched.open.clear()
        first = asyncio.create_task(requests.submit("door", who(0, top_k=3)))
        await until(lambda: watched.sizes == [1])
        rest = [asyncio.create_task(requests.submit("door", who(at % 6, top_k=3))) for at in range(1, 10)]
        await asyncio.sleep(0.05)
        assert watched.sizes == [1], "the others wait"
        watched.open.set()
        answers = await asyncio.gather(first, *rest)
        assert [names(answer) for answer in answers] == [[f"s{at % 6}"] for at in range(10)]
        assert watched.sizes == [1, 4, 4, 1]
        assert not requests._queues
        assert not requests._waiting

    asyncio.run(scenario())


def test_each_request_gets_an_answer_or_an_error_of_its_own(watched: Watched) -> None:
    async def scenario() -> None:
        requests = batcher(watched)
        watched.open.clear()
        first = asyncio.create_task(requests.submit("door", who(0)))
        await until(lambda: watched.sizes == [1])
        foreign = envelope(VECTORS[1], contract=contract_of(DIM, profile="b" * 64))
        asked = [[foreign], [envelope(VECTORS[2]), envelope(VECTORS[3])]]
        wanted = [IdentifyRequest(probes=envelopes, top_k=1) for envelopes in asked]
        rest = [asyncio.create_task(requests.submit("door", each)) for each in wanted]
        await asyncio.sleep(0.02)
        watched.open.set()
        await first
        refused, answered = await asyncio.gather(*rest, return_exceptions=True)
        assert isinstance(refused, ContractMismatch)
        assert names(answered) == ["s2", "s3"]
        gone = [requests.submit("nowhere", who(0)) for _ in range(3)]
        errors = await asyncio.gather(*gone, return_exceptions=True)
        assert [type(error) for error in errors] == [NotFound] * 3
        assert len({id(error) for error in errors}) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [Overloaded("Busy.", retry_after_s=7), NotFound("No.", reason="gone", hint=3)])
def test_an_error_of_the_whole_batch_goes_to_each_caller_unchanged(error: PatronusError) -> None:
    def failing(_gallery: str, _items: Any) -> Any:
        raise error

    async def scenario() -> None:
        requests = RequestBatcher(failing, lambda _: 1, WorkSettings())
        asked = [requests.submit("door", object()) for _ in range(3)]
        told = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert [(type(one), vars(one)) for one in told] == [(type(error), vars(error))] * 3

    asyncio.run(scenario())


def test_another_gallery_does_not_wait(cloud: Cloud, watched: Watched) -> None:
    cloud.put_gallery("roof", contract=contract_of(DIM), tau=0.9)

    async def scenario() -> None:
        requests = batcher(watched)
        watched.open.clear()
        both = [asyncio.create_task(requests.submit(name, who(0))) for name in ("door", "roof")]
        await until(lambda: watched.sizes == [1, 1])
        watched.open.set()
        assert [names(answer) for answer in await asyncio.gather(*both)] == [["s0"], []]

    asyncio.run(scenario())


def test_too_many_too_long_and_disconnected(watched: Watched) -> None:
    async def scenario() -> None:
        requests = batcher(watched, queue_length=3, queue_timeout_s=0.1)
        watched.open.clear()
        first = asyncio.create_task(requests.submit("door", who(0)))
        await until(lambda: watched.sizes == [1])
        late = [asyncio.create_task(requests.submit("door", who(1))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="is full"):
            await requests.submit("door", who(1))
        late[0].cancel()
        await asyncio.sleep(0.2)
        watched.open.set()
        assert names(await first) == ["s0"]
        ended = await asyncio.gather(*late, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError, Overloaded, Overloaded]
        assert names(await requests.submit("door", who(4))) == ["s4"]
        assert watched.sizes == [1, 1]

    asyncio.run(scenario())


def test_many_callers_over_http_each_get_their_own_answer(
    cloud: Cloud, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.services, "identifications", batcher(watched, queue_length=200))
    order = np.random.default_rng(3).integers(0, 6, 96)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda at: cloud.found(VECTORS[at]), order))
    assert found == [[f"s{at}"] for at in order]
    assert max(watched.sizes) > 1, "some were batched"
    assert sum(watched.sizes) == 96


def test_no_more_run_at_once_than_the_limit_and_all_that_wait_run_in_the_end() -> None:
    most = now = 0

    async def main() -> None:
        limit = ConcurrencyLimit(WorkSettings(concurrency=2, queue_length=10, queue_timeout_s=5))

        async def work() -> None:
            nonlocal most, now
            async with limit.slot():
                now += 1
                most = max(most, now)
                await anyio.sleep(0.01)
                now -= 1

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(work)

    anyio.run(main)
    assert (most, now) == (2, 0)


def test_a_slot_is_released_after_an_error_and_after_a_timeout() -> None:
    async def main() -> None:
        limit = ConcurrencyLimit(WorkSettings(concurrency=1, queue_length=1, queue_timeout_s=0.01))
        with pytest.raises(RuntimeError):
            async with limit.slot():
                raise RuntimeError
        async with limit.slot():
            with pytest.raises(Overloaded, match="in time"):
                async with limit.slot():
                    pytest.fail("two at once")
        async with limit.slot():
            pass

    anyio.run(main)


def test_when_the_queue_is_full_a_request_is_refused_at_once_with_retry_after(settings: Settings) -> None:
    work = WorkSettings(concurrency=1, queue_length=1, queue_timeout_s=20)
    with Cloud(settings.model_copy(update={"work": work})) as cloud, ThreadPoolExecutor(2) as threads:
        cloud.put_gallery()
        store = cloud.services.store
        inside, leave = threading.Event(), threading.Event()
        real = store.record.gallery

        def slow(name: str) -> object:
            inside.set()
            leave.wait(20)
            return real(name)

        store.record.gallery = slow
        try:
            working = threads.submit(cloud.identify, VECTORS[0])
            assert inside.wait(5)
            waiting = threads.submit(cloud.identify, VECTORS[0])
            for _ in range(500):
                if cloud.services.identifications._waiting:
                    break
                threading.Event().wait(0.01)
            refused = cloud.identify(VECTORS[0])
            assert_problem(refused, 429, "overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
            assert cloud.http.get("/healthz").status_code == 200, "the loop is free"
            stranger = cloud.identify(VECTORS[0], headers={"Authorization": ""})
            assert_problem(stranger, 401, "unauthenticated")
        finally:
            leave.set()
        assert [answer.result().status_code for answer in (working, waiting)] == [200, 200]
