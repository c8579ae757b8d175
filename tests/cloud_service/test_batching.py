"""What is asked together is answered together; who asks alone waits for nobody; too many are told to come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cloud_service.batching import RequestBatcher
from cloud_service.matching import Asked, Matcher
from shared.envelope import TemplateEnvelope
from shared.errors import ContractMismatch, NotFound, Overloaded, PatronusError
from shared.metrics import Metrics
from shared.wire.cloud import IdentifyAnswer
from tests.support.cloud_client import Cloud, contract_of, enveloped, random_units

DIM = 8
VECTORS = random_units(5, 6)


def envelope(vector: Any, **changed: Any) -> TemplateEnvelope:
    return TemplateEnvelope.model_validate(enveloped(vector, **changed))


class Watched:
    """The matcher of a running cloud, which keeps how much each search was asked, and waits at a gate."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher, self.sizes, self.open = matcher, [], threading.Event()
        self.sizes: list[int] = []
        self.open.set()

    def identify(self, gallery: str, asked: Sequence[Asked]) -> Any:
        self.sizes.append(len(asked))
        assert self.open.wait(20)
        return self.matcher.identify(gallery, asked)


@pytest.fixture
def watched(cloud: Cloud) -> Watched:
    cloud.put_gallery(contract=contract_of(DIM), tau=0.9)
    for number, vector in enumerate(VECTORS):
        cloud.enroll(f"s{number}", [vector])
    return Watched(Matcher(cloud.app.state.store, Metrics("test")))


def gathering(watched: Watched, **changed: Any) -> RequestBatcher[Asked, IdentifyAnswer]:
    knobs: dict[str, Any] = {"at_once": 2, "most": 4, "waiting": 20, "patience_seconds": 5.0, **changed}
    return RequestBatcher(watched.identify, lambda asked: len(asked.envelopes), **knobs)


async def until(condition: Any) -> None:
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not come to that")


def names(answer: Any) -> list[str]:
    return [candidate.subject for result in answer.results for candidate in result.candidates]


def test_what_comes_during_a_search_is_answered_by_the_next_in_parts_of_a_limit(watched: Watched) -> None:
    async def scenario() -> None:
        gathered = gathering(watched)
        watched.open.clear()
        first = asyncio.create_task(gathered.ask("door", Asked([envelope(VECTORS[0])], 3)))
        await until(lambda: watched.sizes == [1])
        rest = [asyncio.create_task(gathered.ask("door", Asked([envelope(VECTORS[at % 6])], 3))) for at in range(1, 10)]
        await asyncio.sleep(0.05)
        assert watched.sizes == [1], "the others wait"
        watched.open.set()
        answers = await asyncio.gather(first, *rest)
        assert [names(answer) for answer in answers] == [[f"s{at % 6}"] for at in range(10)]
        assert watched.sizes == [1, 4, 4, 1]
        assert not gathered._queues
        assert not gathered._waiting

    asyncio.run(scenario())


def test_each_gets_an_answer_or_an_error_of_its_own(watched: Watched) -> None:
    async def scenario() -> None:
        gathered = gathering(watched)
        watched.open.clear()
        first = asyncio.create_task(gathered.ask("door", Asked([envelope(VECTORS[0])], 1)))
        await until(lambda: watched.sizes == [1])
        foreign = envelope(VECTORS[1], contract=contract_of(DIM, profile="b" * 64))
        asked = [[foreign], [envelope(VECTORS[2]), envelope(VECTORS[3])]]
        rest = [asyncio.create_task(gathered.ask("door", Asked(envelopes, 1))) for envelopes in asked]
        await asyncio.sleep(0.02)
        watched.open.set()
        await first
        refused, answered = await asyncio.gather(*rest, return_exceptions=True)
        assert isinstance(refused, ContractMismatch)
        assert names(answered) == ["s2", "s3"]
        gone = [gathered.ask("nowhere", Asked([envelope(VECTORS[0])], 1)) for _ in range(3)]
        errors = await asyncio.gather(*gone, return_exceptions=True)
        assert [type(error) for error in errors] == [NotFound] * 3
        assert len({id(error) for error in errors}) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [Overloaded("Busy.", retry_after_s=7), NotFound("No.", reason="gone", hint=3)])
def test_an_error_of_the_work_goes_to_each_as_it_is(error: PatronusError) -> None:
    def failing(_about: str, _asked: Any) -> Any:
        raise error

    async def scenario() -> None:
        gathered = RequestBatcher(failing, lambda _: 1, at_once=1, most=9, waiting=9, patience_seconds=5)
        asked = [gathered.ask("door", object()) for _ in range(3)]
        told = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert [(type(one), vars(one)) for one in told] == [(type(error), vars(error))] * 3

    asyncio.run(scenario())


def test_another_gallery_does_not_wait(cloud: Cloud, watched: Watched) -> None:
    cloud.put_gallery("roof", contract=contract_of(DIM), tau=0.9)

    async def scenario() -> None:
        gathered = gathering(watched)
        watched.open.clear()
        both = [asyncio.create_task(gathered.ask(name, Asked([envelope(VECTORS[0])], 1))) for name in ("door", "roof")]
        await until(lambda: watched.sizes == [1, 1])
        watched.open.set()
        assert [names(answer) for answer in await asyncio.gather(*both)] == [["s0"], []]

    asyncio.run(scenario())


def test_too_many_or_too_long_and_those_who_went_away(watched: Watched) -> None:
    async def scenario() -> None:
        gathered = gathering(watched, waiting=3, patience_seconds=0.1)
        watched.open.clear()
        first = asyncio.create_task(gathered.ask("door", Asked([envelope(VECTORS[0])], 1)))
        await until(lambda: watched.sizes == [1])
        late = [asyncio.create_task(gathered.ask("door", Asked([envelope(VECTORS[1])], 1))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="More requests wait"):
            await gathered.ask("door", Asked([envelope(VECTORS[1])], 1))
        late[0].cancel()
        await asyncio.sleep(0.2)
        watched.open.set()
        assert names(await first) == ["s0"]
        ended = await asyncio.gather(*late, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError, Overloaded, Overloaded]
        assert names(await gathered.ask("door", Asked([envelope(VECTORS[4])], 1))) == ["s4"]
        assert watched.sizes == [1, 1]

    asyncio.run(scenario())


def test_many_callers_over_http_are_each_told_their_own(cloud: Cloud, watched: Watched) -> None:
    cloud.app.state.identifications = gathering(watched, waiting=200)
    order = np.random.default_rng(3).integers(0, 6, 96)
    with ThreadPoolExecutor(16) as threads:
        told = list(threads.map(lambda at: cloud.found(VECTORS[at]), order))
    assert told == [[f"s{at}"] for at in order]
    assert max(watched.sizes) > 1, "some were gathered"
    assert sum(watched.sizes) == 96
