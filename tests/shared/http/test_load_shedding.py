"""What there is no place for is refused before it is parsed; everything that is not plain takes the long way."""

from __future__ import annotations

import json
import time

import h11
import pytest

from shared.errors import Overloaded, RateLimited
from shared.http.load_shedding import LoadShedder
from shared.http.rate_limits import Kind
from shared.metrics import Metrics

VERIFY = "/v1/galleries/door/subjects/a/verify"
MINE, THEIRS = b"Bearer patronus_mine", b"Bearer patronus_theirs"


def sent(path: str = VERIFY, *headers: str, method: str = "POST", key: bytes = MINE, body: bytes = b"{}") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: cloud",
        f"Authorization: {key.decode()}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read(answer: bytes, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
    """An answer as an independent reader of HTTP takes it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "cloud")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    head, body = client.next_event(), b""
    assert isinstance(head, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    return head.status_code, {name.decode(): value.decode() for name, value in head.headers}, body


@pytest.fixture
def desk() -> LoadShedder:
    return LoadShedder(4, Metrics("cloud"))


@pytest.fixture
def full(desk: LoadShedder) -> LoadShedder:
    for key in (MINE, MINE, MINE, THEIRS):
        desk.enter(VERIFY, key)
    return desk


def refused(desk: LoadShedder, data: bytes) -> bytes:
    found = desk.receive(data)
    assert isinstance(found, bytes)
    return found


def let_in(desk: LoadShedder, data: bytes) -> bool:
    """Whether a request gets a place, which it leaves again."""
    found = desk.receive(data)
    if isinstance(found, tuple):
        desk.leave(found)
    return isinstance(found, tuple)


def test_where_there_is_room_a_request_has_its_place_at_once(desk: LoadShedder) -> None:
    assert all(isinstance(desk.receive(sent(key=key)), tuple) for key in (MINE, MINE, MINE, THEIRS))
    assert refused(desk, sent(key=THEIRS))


def test_what_there_is_no_place_for_gets_a_whole_answer(full: LoadShedder) -> None:
    status, headers, body = read(refused(full, sent(VERIFY, "x-request-id: call-7")))
    problem = json.loads(body)
    assert (status, problem["type"]) == (429, "urn:patronus:problem:overloaded")
    assert headers["retry-after"] == "1"
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"] == "call-7"
    assert headers["cache-control"] == "no-store"
    with pytest.raises(Overloaded):
        full.enter(VERIFY, THEIRS)


def test_other_kinds_and_what_asks_for_health_come_in(full: LoadShedder) -> None:
    for path in ("/v1/galleries/door/identify", "/v1/galleries/door"):
        assert let_in(full, sent(path)), path
    for path in ("/healthz", "/readyz", "/metrics"):
        assert full.receive(sent(path)) is None, path
        assert full.farewell(sent(path)) is None, path


def test_on_a_connection_too_many_only_health_is_answered(desk: LoadShedder) -> None:
    status, headers, body = read(desk.farewell(sent()[:200]) or b"")
    assert (status, headers["connection"]) == (429, "close")
    assert json.loads(body)["type"] == "urn:patronus:problem:overloaded"


def test_one_key_cannot_hold_all_places(desk: LoadShedder) -> None:
    places = [desk.enter(VERIFY, MINE) for _ in range(3)]
    with pytest.raises(Overloaded):
        desk.enter(VERIFY, MINE)
    assert refused(desk, sent(key=MINE))
    assert let_in(desk, sent(key=THEIRS))
    desk.leave(desk.enter(VERIFY, THEIRS))
    desk.leave(places.pop())
    assert let_in(desk, sent(key=MINE))


@pytest.mark.parametrize(
    "data",
    [
        sent()[:-1],
        sent()[:40],
        sent() + b"x",
        sent() + sent(),
        sent(VERIFY, "Content-Length: 2"),
        sent(VERIFY, "Transfer-Encoding: chunked"),
        sent(VERIFY, "Expect: 100-continue"),
        sent(VERIFY, "Connection: close"),
        sent(VERIFY, "Authorization: Bearer other"),
        sent().replace(b"HTTP/1.1", b"HTTP/1.0"),
        sent().replace(b"Content-Length: 2", b"Content-Length: -2"),
        b"",
        b"\x16\x03\x01",
    ],
)
def test_what_is_not_one_whole_plain_request_takes_the_long_way(full: LoadShedder, data: bytes) -> None:
    assert full.receive(data) is None


@pytest.mark.parametrize("offered", ["a b", "x" * 65, "<script>", ""])
def test_a_strange_request_id_is_replaced(full: LoadShedder, offered: str) -> None:
    _, headers, _ = read(refused(full, sent(VERIFY, f"X-Request-ID: {offered}")))
    assert len(headers["x-request-id"]) == 32


def test_an_answer_to_head_has_no_body(desk: LoadShedder) -> None:
    for key in (MINE, MINE, MINE, THEIRS):
        desk.enter("/v1/galleries", key)
    status, headers, body = read(refused(desk, sent("/v1/galleries", method="HEAD", body=b"")), "HEAD")
    assert (status, body) == (429, b"")
    assert int(headers["content-length"]) > 0


def test_a_key_over_its_rate_is_refused_here_until_it_is_not(desk: LoadShedder) -> None:
    over = RateLimited("Slow down, please.", counted="matching", quota=5, window_s=1, free_in_s=0.05)
    desk.remember(Kind.MATCHING, MINE, over)
    status, headers, body = read(refused(desk, sent()))
    assert (status, json.loads(body)["type"]) == (429, "urn:patronus:problem:rate-limited")
    assert headers["ratelimit-policy"] == '"matching";q=5;w=1'
    assert let_in(desk, sent(key=THEIRS))
    assert let_in(desk, sent("/v1/galleries/door", method="GET", body=b""))
    time.sleep(0.06)
    assert let_in(desk, sent())
