"""A request without a free slot is refused before its key or body is looked at; other requests do not notice."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from shared.errors import RateLimited
from shared.http.load_shedding import OVER_LIMIT, LoadShedder, LoadShedding, Refusal, Slot
from shared.http.rate_limits import Kind
from shared.metrics import Metrics

VERIFY = "/v1/galleries/door/subjects/a/verify"
MINE, THEIRS = b"Bearer patronus_mine", b"Bearer patronus_theirs"


def request(
    path: str = VERIFY, *headers: tuple[bytes, bytes], method: str = "POST", key: bytes = MINE, **state: Any
) -> Scope:
    """A request as the server hands it to the application."""
    pairs = [(b"host", b"cloud"), (b"authorization", key), (b"content-length", b"2"), *headers]
    return {"type": "http", "method": method, "path": path, "headers": pairs, "state": state}


async def inner(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def answer(shedder: LoadShedder, scope: Scope) -> tuple[int, dict[str, str], bytes]:
    """What the layer answers, without the body being read."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(LoadShedding(inner, shedder)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"]


def take(shedder: LoadShedder, scope: Scope) -> Slot:
    slot = shedder.take(scope)
    assert not isinstance(slot, Refusal)
    return slot


def status(shedder: LoadShedder, *arguments: Any, **options: Any) -> int:
    return answer(shedder, request(*arguments, **options))[0]


@pytest.fixture
def shedder() -> LoadShedder:
    return LoadShedder(4, Metrics("cloud"))


@pytest.fixture
def full(shedder: LoadShedder) -> LoadShedder:
    for key in (MINE, MINE, MINE, THEIRS):
        take(shedder, request(key=key))
    return shedder


def test_slots_are_given_back(shedder: LoadShedder) -> None:
    assert [status(shedder, key=THEIRS) for _ in range(20)] == [200] * 20
    slots = [take(shedder, request(key=key)) for key in (MINE, MINE, MINE, THEIRS)]
    assert status(shedder, key=THEIRS) == 429
    shedder.release(slots[0])
    assert status(shedder, key=THEIRS) == 200


def test_the_more_are_refused_the_longer_their_connections_wait_but_at_most_a_second(shedder: LoadShedder) -> None:
    began = time.monotonic()
    waits = [shedder.hold_seconds() for _ in range(600)]
    passed = time.monotonic() - began
    assert waits[0] == pytest.approx(0.1)
    assert waits[150] == pytest.approx(0.1 + 150 / 300, abs=passed)  # 300 a second are read again
    assert max(waits) == pytest.approx(1.0)
    assert waits[-1] == pytest.approx(1.0)


def test_a_slot_is_given_back_when_the_application_fails(shedder: LoadShedder) -> None:
    async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError

    async def unused(*_: Any) -> Any:
        raise AssertionError

    for _ in range(10):
        with pytest.raises(RuntimeError):
            asyncio.run(LoadShedding(failing, shedder)(request(), unused, unused))
    assert status(shedder) == 200


def test_a_refusal_is_a_whole_answer(full: LoadShedder) -> None:
    code, headers, body = answer(full, request(VERIFY, (b"x-request-id", b"call-7")))
    problem = json.loads(body)
    assert (code, problem["type"]) == (429, "urn:patronus:problem:overloaded")
    assert headers["retry-after"] == "1"
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"] == "call-7"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert int(headers["content-length"]) == len(body)
    assert "connection" not in headers


def test_other_kinds_and_health_checks_are_answered(full: LoadShedder) -> None:
    for path in ("/v1/galleries/door/identify", "/v1/galleries/door", "/healthz", "/readyz", "/metrics"):
        assert status(full, path) == 200, path


def test_on_a_connection_over_the_limit_only_health_is_answered(shedder: LoadShedder) -> None:
    code, headers, body = answer(shedder, request(**{OVER_LIMIT: True}))
    assert (code, headers["connection"]) == (429, "close")
    assert json.loads(body)["type"] == "urn:patronus:problem:overloaded"
    for path in ("/healthz", "/readyz", "/metrics"):
        assert status(shedder, path, **{OVER_LIMIT: True}) == 200, path


def test_one_key_cannot_hold_all_slots(shedder: LoadShedder) -> None:
    slots = [take(shedder, request()) for _ in range(3)]
    assert status(shedder) == 429
    assert status(shedder, key=THEIRS) == 200
    shedder.release(slots.pop())
    assert status(shedder) == 200


@pytest.mark.parametrize(
    "header",
    [
        (b"transfer-encoding", b"chunked"),
        (b"expect", b"100-continue"),
        (b"content-length", b"100000"),
        (b"content-length", b"-2"),
    ],
)
def test_a_refusal_closes_the_connection_where_the_body_may_be_long_or_may_not_come(
    full: LoadShedder, header: tuple[bytes, bytes]
) -> None:
    assert answer(full, request(VERIFY, header))[1]["connection"] == "close"


@pytest.mark.parametrize("offered", ["a b", "x" * 65, "<script>", ""])
def test_a_strange_request_id_is_replaced(full: LoadShedder, offered: str) -> None:
    _, headers, _ = answer(full, request(VERIFY, (b"x-request-id", offered.encode())))
    assert len(headers["x-request-id"]) == 32


def test_a_key_over_its_rate_is_refused_here_until_it_is_not(shedder: LoadShedder) -> None:
    over = RateLimited("Slow down, please.", counted="matching", quota=5, window_s=1, free_in_s=0.05)
    shedder.remember(Kind.MATCHING, MINE, over)
    code, headers, body = answer(shedder, request())
    assert (code, json.loads(body)["type"]) == (429, "urn:patronus:problem:rate-limited")
    assert headers["ratelimit-policy"] == '"matching";q=5;w=1'
    assert status(shedder, key=THEIRS) == 200
    assert status(shedder, "/v1/galleries/door", method="GET") == 200
    time.sleep(0.06)
    assert status(shedder) == 200


@pytest.mark.parametrize("spelled", ["bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
def test_a_key_has_one_share_of_the_slots_however_it_is_spelled(shedder: LoadShedder, spelled: str) -> None:
    for _ in range(3):
        take(shedder, request(key=b"Bearer patronus_one"))
    assert status(shedder, key=spelled.format("patronus_one").encode()) == 429
    assert status(shedder, key=b"Bearer patronus_other") == 200
