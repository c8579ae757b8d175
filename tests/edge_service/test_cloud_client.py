"""Requests while the cloud is away, slow, broken or hostile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from shared.security.credentials import Scope
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Fault, Pair, sample

FACE = sample("collins/portrait.png")
QUICK = {"connect_timeout_s": 0.3, "answer_timeout_s": 0.3, "attempts": 3}


@pytest.fixture(scope="module")
def quick_edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge with short timeouts."""
    with Pair(tmp_path_factory.mktemp("quick")) as pair:
        yield pair.edge(cloud=QUICK)


@pytest.fixture
def edge(quick_edge: Edge) -> Iterator[Edge]:
    """The edge with short timeouts and an empty gallery."""
    quick_edge.transport.reset()
    quick_edge.make("door")
    yield quick_edge
    quick_edge.transport.reset()
    assert quick_edge.call("DELETE", "/v1/galleries/door").status_code in {200, 202}


async def unreachable(_transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


async def slow(_transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    await asyncio.sleep(request.extensions["timeout"]["read"])
    raise httpx.ReadTimeout("slow", request=request)


async def dropped_before(_transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    raise httpx.RemoteProtocolError("the server disconnected", request=request)


async def dropped_after(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    """The cloud has done its work, but the answer is lost."""
    await transport.deliver(request)
    raise httpx.ReadError("the connection was reset", request=request)


def answering(status: int, content: bytes = b"", **headers: str) -> Fault:
    async def answer(_transport: CloudTransport, _request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=content, headers=headers)

    return answer


@pytest.mark.parametrize(
    "fault",
    [
        unreachable,
        pytest.param(slow, marks=pytest.mark.slow(reason="waits for a timeout")),
        dropped_before,
        answering(503),
        answering(502, b"<html>Bad gateway</html>"),
        answering(504),
    ],
    ids=["unreachable", "slow", "dropped", "503", "502", "504"],
)
def test_a_cloud_that_is_away_is_reported_in_time_and_nothing_is_lost(edge: Edge, fault: Fault) -> None:
    edge.transport.always = fault
    start = time.perf_counter()
    answers = [edge.enroll("door", "someone", FACE), edge.verify("door", "someone", FACE), edge.identify("door", FACE)]
    assert time.perf_counter() - start < 30, "with the default timeouts it would be 90 s"
    for answer in answers:
        assert_problem(answer, 503, "cloud-unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    edge.transport.always = None
    assert edge.held("door") == (0, 0)
    assert edge.enroll("door", "someone", FACE).status_code == 201


def test_a_damaged_template_is_reported_as_such_and_not_retried(edge: Edge) -> None:
    problem = {"type": "urn:patronus:problem:record-damaged", "detail": "A stored template is damaged; erase it."}
    edge.transport.always = answering(503, json.dumps(problem | {"reason": "template_damaged"}).encode())
    before = len(edge.transport.requests)
    answer = edge.verify("door", "someone", FACE)
    body = assert_problem(answer, 503, "record-damaged", "template_damaged")
    assert body["detail"] == problem["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert len(edge.transport.requests) == before + 1


@pytest.mark.parametrize("drop", [dropped_before, dropped_after, unreachable])
def test_after_a_dropped_connection_a_face_is_stored_exactly_once(edge: Edge, drop: Fault) -> None:
    edge.transport.faults.extend([drop, drop])
    answer = edge.enroll("door", "someone", FACE, headers=edge.key(Scope.ENROLL))  # for which nobody is searched
    assert answer.status_code == 201
    sent = [request.content for request in edge.transport.requests if request.method == "POST"]
    assert len(sent) == 3
    assert len(set(sent)) == 1, "the repetition names the same template"
    assert edge.held("door") == (1, 1)
    stored = edge.call("GET", "/v1/galleries/door/subjects/someone").json()["faces"]
    assert [info["id"] for info in stored] == [answer.json()["faces"][0]["id"]]


def test_an_erasure_that_may_be_done_is_not_repeated(edge: Edge) -> None:
    edge.enroll("door", "someone", FACE)
    edge.transport.faults.append(dropped_after)
    answer = edge.call("DELETE", "/v1/galleries/door/subjects/someone")
    assert_problem(answer, 503, "cloud-unavailable")
    assert len([sent for sent in edge.transport.requests if sent.method == "DELETE"]) == 1
    assert edge.held("door") == (0, 0)


@pytest.mark.parametrize(
    "fault",
    [
        answering(200, b"<html>hello</html>"),
        answering(200, b'{"decision": "match"}'),
        answering(200, b'{"decision": "match", "similarity": 7, "threshold": 0.3, "fmr_at_threshold": 0.1}'),
        answering(
            200,
            b'{"decision": "match", "similarity": true, "threshold": 0.3, "score_rule": "mean", "fmr_at_threshold": 0}',
        ),
        answering(200),
        answering(204),
        answering(500, b"Traceback: secret"),
        answering(500, b'{"type": "urn:patronus:problem:unexpected-error", "detail": "secret text"}'),
        answering(500, b"[1, 2]"),
        answering(418, b'{"type": ["x"], "detail": {"secret": 1}}'),
        answering(302, Location="http://elsewhere/v1/galleries"),
        answering(307, Location="http://elsewhere/v1/galleries"),
        answering(400, b"\xff\xfe\xff"),
        answering(400, b"[" * 200_000),
        answering(404, b'{"type": "urn:patronus:problem:not-found", "detail": "secret \\ud800"}'),
        answering(404, b'{"type": "urn:patronus:problem:not-found", "detail": ' + b"9" * 5000 + b"}}"),
    ],
)
def test_an_answer_that_is_not_understood_is_reported_without_its_text(edge: Edge, fault: Fault) -> None:
    before = len(edge.transport.requests)
    edge.transport.always = fault
    answer = edge.verify("door", "someone", FACE)
    assert_problem(answer, 502, "cloud-failed")
    assert "secret" not in answer.text
    assert {sent.url.host for sent in edge.transport.requests} == {"cloud"}, "no redirect is followed"
    assert len(edge.transport.requests) - before == 1, "repeating it would mend nothing"


@pytest.mark.parametrize("compressed", [False, True])
def test_an_answer_larger_than_any_is_not_taken_into_memory(edge: Edge, *, compressed: bool) -> None:
    block, sent = bytes(4 * 1024**2), 0

    async def blocks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1024**3:
            sent += len(block)
            yield block

    async def answer(_transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return httpx.Response(200, content=blocks(), headers={"Content-Encoding": "gzip"} if compressed else {})

    edge.transport.always = answer
    assert_problem(edge.call("GET", "/v1/galleries/door/subjects/someone/report"), 502, "cloud-failed")
    assert sent < 256 * 1024**2
    ready = edge.call("GET", "/readyz")
    assert (ready.status_code, ready.json()["checks"]["cloud"]) == (503, False)


@pytest.mark.parametrize(("status", "kind"), [(404, "not-found"), (405, "method-not-allowed")])
def test_a_cloud_that_lacks_an_operation_is_named(edge: Edge, status: int, kind: str) -> None:
    """Passed on, the cloud's 404 would say that the edge is of an older version than its caller."""
    edge.transport.always = answering(
        status, json.dumps({"type": f"urn:patronus:problem:{kind}", "detail": "No."}).encode()
    )
    answer = edge.verify("door", "someone", FACE)
    assert "The cloud lacks an operation" in assert_problem(answer, 502, "cloud-failed")["detail"]


def test_a_cloud_that_takes_another_form_is_not_the_callers_matter(edge: Edge) -> None:
    problem = {"type": "urn:patronus:problem:unprocessable", "detail": "See `errors`.", "reason": "invalid_request"}
    edge.transport.always = answering(422, json.dumps(problem).encode())
    answer = edge.verify("door", "someone", FACE)
    assert "compare their versions" in assert_problem(answer, 502, "cloud-failed")["detail"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_cloud_that_refuses_the_edges_own_key_is_the_operators_matter(edge: Edge, status: int) -> None:
    body = b'{"type": "urn:patronus:problem:unauthenticated", "detail": "This API key is not known here."}'
    edge.transport.always = answering(status, body)
    answer = edge.verify("door", "someone", FACE)
    assert "operator" in assert_problem(answer, 502, "cloud-failed")["detail"]


def test_a_key_revoked_at_the_cloud_stops_the_edge(pair: Pair) -> None:
    edge = pair.edge(cloud=QUICK)
    edge.make("door")
    ring = pair.cloud.state.key_ring
    ring.revoke(ring.records()[0].id)
    assert_problem(edge.verify("door", "someone", FACE), 502, "cloud-failed")


def test_a_cloud_at_its_limit_passes_its_plea_on(edge: Edge) -> None:
    for said, passed_on in (({}, 1), ({"Retry-After": "17"}, 17), ({"Retry-After": "9" * 5000}, 1)):
        edge.transport.always = answering(429, **said)
        answer = edge.identify("door", FACE)
        assert_problem(answer, 429, "overloaded")
        assert int(answer.headers["Retry-After"]) == passed_on


def test_a_gallery_with_a_contract_of_the_clouds_making_is_not_believed(edge: Edge) -> None:
    """A cloud that says a gallery is not sealed gets no unsealed template."""
    honest = edge.call("GET", "/v1/galleries/door").json()
    del honest["verify_only"], honest["chosen"]  # the cloud does not say so
    honest["contract"]["seal"] = None
    fresh = edge.pair.edge("edge", cloud=QUICK)
    fresh.transport.always = answering(200, json.dumps(honest).encode())
    body = assert_problem(fresh.verify("door", "someone", FACE), 409, "contract-mismatch")
    assert body["differing"] == ["seal"]
    assert [sent.method for sent in fresh.transport.requests] == ["GET"]
