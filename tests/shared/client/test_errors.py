"""What the edge refuses arrives as the same error; other versions of the edge, and what is no edge, in one sentence."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from shared.client import AsyncClient, Client
from shared.client.subjects import rename_subject
from shared.errors import (
    AnswerNotUnderstood,
    BadRequest,
    ClientError,
    Conflict,
    NotFound,
    OutcomeUnknown,
    PatronusError,
    RateLimited,
    RecordUnavailable,
    Retryable,
    ServiceUnreachable,
    SetupError,
    Unprocessable,
)
from shared.http.problems import problem_response
from tests.shared.client.answering import Reply, answering


def below(kind: type[PatronusError]) -> Iterator[type[PatronusError]]:
    if kind is not ClientError:
        yield kind
        for one in kind.__subclasses__():
            if one.__module__ == PatronusError.__module__:  # others are one service's own
                yield from below(one)


def one_of(kind: type[PatronusError]) -> PatronusError:
    if kind is RateLimited:
        return RateLimited("Wait.", counted="matching", quota=20, window_s=60, free_in_s=6.2)
    return OutcomeUnknown() if kind is OutcomeUnknown else kind("Do that.", reason="some_reason", limit_bytes=7)


def reply(error: PatronusError) -> Reply:
    """As a service answers it."""
    answer = problem_response(error, request_id="abc")
    return Reply(
        answer.status_code, bytes(answer.body), dict(answer.headers) | {"content-type": answer.media_type or ""}
    )


def raised(answer: Reply) -> PatronusError:
    with answering(answer) as server, Client(server.url, api_key="k", retries=0) as client:
        with pytest.raises(PatronusError) as error:
            client.get_gallery("staff")
        return error.value


@pytest.mark.parametrize("kind", [*below(PatronusError)], ids=lambda kind: kind.__name__)
def test_each_error_of_the_tree_arrives_as_itself(kind: type[PatronusError]) -> None:
    sent = one_of(kind)
    error = raised(reply(sent))
    # A lost outcome has no type of its own, but a reason.
    assert type(error) is (RecordUnavailable if kind is OutcomeUnknown else kind)
    assert (error.status, error.request_id, error.reason) == (sent.status, "abc", sent.reason)
    if not isinstance(sent, SetupError) and kind is not PatronusError:
        assert error.detail == sent.detail
    if kind not in {RateLimited, OutcomeUnknown}:
        assert error.extra == {"limit_bytes": 7}
    assert error.problem is not None
    if isinstance(error, Retryable):
        assert error.retry_after == sent.retry_after
    if isinstance(error, RateLimited):
        assert (error.counted, error.quota, error.window_s, error.retry_after) == ("matching", 20, 60, 7)


def problem(status: int, kind: str = "of-the-future", **members: Any) -> Reply:
    headers = {"Content-Type": "application/problem+json", **members.pop("headers", {})}
    document = {"type": f"urn:patronus:problem:{kind}", "title": "T", "status": status, "detail": "Do that."}
    return Reply(status, document | {"request_id": "abc"} | members, headers)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (404, NotFound),
        (405, PatronusError),
        (409, Conflict),
        (418, PatronusError),
        (422, Unprocessable),
        (503, Retryable),
        (511, PatronusError),
    ],
)
def test_a_problem_of_a_newer_edge_is_the_general_error_of_its_status(status: int, kind: type[PatronusError]) -> None:
    error = raised(problem(status))
    assert (type(error), error.status, error.detail, error.request_id) == (kind, status, "Do that.", "abc")


def test_any_status_with_retry_after_can_be_retried() -> None:
    error = raised(problem(425, headers={"Retry-After": "9"}))
    assert (type(error), error.status, error.retry_after) == (Retryable, 425, 9)


def test_a_refused_form_names_its_places() -> None:
    error = raised(problem(422, "unprocessable", errors=[{"at": "query/limit", "problem": "too large"}, 7]))
    assert error.detail == "query/limit: too large"


@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, b"<html>hello</html>", {"Content-Type": "text/html"}),
        Reply(200, b"[1]"),
        Reply(200, b"\xff"),
        Reply(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}),
        Reply(302, b"", {"Location": "/elsewhere"}),
        Reply(404, {"error": "other service"}),
        Reply(500, b'{"type": 7}', {"Content-Type": "application/problem+json"}),
    ],
)
def test_what_is_no_edge_is_said_in_one_sentence(answer: Reply) -> None:
    error = raised(answer)
    assert type(error) is AnswerNotUnderstood
    assert error.detail.startswith("What answers at http://127.0.0.1:")
    assert "is not an edge" in error.detail
    assert "\n" not in error.detail


def test_no_edge_is_said_in_one_sentence() -> None:
    with answering(Reply()) as server:
        url = server.url
    with Client(url, api_key="k", retries=0) as client, pytest.raises(ServiceUnreachable) as error:
        client.get_info()
    assert error.value.detail.startswith(f"No edge answers at {url};")
    assert (error.value.problem, error.value.request_id, error.value.retry_after) == (None, None, None)


PIN = {"name": "e", "sha256": "0" * 64}
INFO = {
    "service": "patronus-edge",
    "version": "1",
    "embedder": PIN | {"preprocessing": "p"},
    "profile": PIN | {"version": 1},
    "sealed": True,
    "dim": 128,
    "default_threshold": {"cosine": 0.4, "fmr": 0.001},
    "console": {"decoder": False, "recording": True},
    "threshold_from": "profile",
    "fmr_measured_on": "lfw_adults",
    "max_picture_bytes": 1,
    "max_pixels": 1,
    "max_pictures_a_request": 1,
    "formats": ["jpeg"],
}


def asked(info: dict[str, Any]) -> Any:
    """What an edge says of itself, asked by the client for asyncio."""

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        assert scope["path"] == "/v1/info"
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(info).encode()})

    async def ask() -> Any:
        async with AsyncClient("http://edge", api_key="k", transport=httpx.ASGITransport(app)) as client:
            return await client.get_info()

    return asyncio.run(ask())


def test_members_of_a_newer_edge_are_ignored_at_every_level() -> None:
    newer = INFO | {"moon": "full", "default_threshold": {"cosine": 0.4, "fmr": 0.001, "kind": "wide"}}
    assert asked(newer) == asked(INFO)


def test_members_that_an_older_edge_lacks_are_named() -> None:
    older = {name: value for name, value in INFO.items() if name not in {"dim", "sealed"}}
    older["embedder"] = PIN
    with pytest.raises(AnswerNotUnderstood) as error:
        asked(older)
    assert error.value.detail == (
        "The edge at http://edge answered without dim, embedder.preprocessing, sealed; it is of an older version than "
        "this client. Install the client of its version."
    )


def test_values_of_another_edge_that_this_client_does_not_know_are_named() -> None:
    with pytest.raises(AnswerNotUnderstood) as error:
        asked(INFO | {"threshold_from": "operator", "version": 2})
    assert "answered other values than this client knows in threshold_from, version; " in error.value.detail
    assert "operator" not in error.value.detail


@pytest.mark.parametrize("wrong", [{"dim": True}, {"dim": "128"}, {"default_threshold": {"cosine": True, "fmr": 0.1}}])
def test_a_truth_value_or_a_text_is_no_number(wrong: dict[str, Any]) -> None:
    with pytest.raises(AnswerNotUnderstood, match=r"answered other values than this client knows in d"):
        asked(INFO | wrong)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"api_key": ""}, "There is no API key"),
        ({"api_key": "two words"}, "This is not an API key"),
        ({"api_key": "naïve"}, "This is not an API key"),
        ({"url": "edge"}, "not a URL"),
        ({"url": "ftp://edge"}, "not a URL"),
        ({"url": "http://"}, "not a URL"),
        ({"url": "http://edge:port"}, "not a URL"),
        ({"certificate": __file__}, "certificate and its key go together"),
        ({"ca": __file__}, "authority"),
    ],
)
def test_a_wrong_connection_is_refused_before_a_call(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SetupError) as error:
        Client(**{"api_key": "k"} | options)
    assert says in error.value.detail


def test_the_environment_names_edge_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(Reply(body={"status": "ok"})) as server:
        monkeypatch.setenv("PATRONUS_EDGE_URL", server.url)
        monkeypatch.setenv("PATRONUS_API_KEY", "patronus_x")
        with Client() as client:
            assert client.get_health().status == "ok"
        assert server.requests[0].headers["Authorization"] == "Bearer patronus_x"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\tb", " a"])
def test_a_name_that_leads_elsewhere_is_not_sent(name: str) -> None:
    with answering(Reply()) as server, Client(server.url, api_key="k") as client:
        with pytest.raises(BadRequest):
            client.get_gallery(name)
        with pytest.raises(BadRequest):
            client.get_subject("staff", name)
        with pytest.raises(BadRequest):
            client.delete_face("staff", "ada", name)
        assert server.requests == []


@pytest.mark.parametrize("name", ["a?b", "a#b", "50%", "ä", "王芳", "Jane Doe"])
def test_a_subject_of_any_script_stays_in_its_path(name: str) -> None:
    with answering(Reply()) as server, Client(server.url, api_key="k") as client:
        with pytest.raises(BadRequest):
            client.get_gallery(name)
        with pytest.raises(AnswerNotUnderstood):  # the reply is empty
            client.get_subject("staff", name)
        [request] = server.requests
        assert request.path == f"/v1/galleries/staff/subjects/{quote(name, safe='')}"


@pytest.mark.parametrize("name", ["Infinity", "NaN", "Zoë 李"])
def test_any_text_is_sent_as_json(name: str) -> None:
    call = rename_subject("door", "ada", name)
    assert json.loads(call.json() or b"") == {"to": name}


def test_a_number_that_is_not_finite_is_not_sent() -> None:
    with answering(Reply()) as server, Client(server.url, api_key="k") as client:
        with pytest.raises(Unprocessable, match="finite"):
            client.protect(embeddings=[[1.0, float("nan")]])
        assert server.requests == []


def test_an_operation_that_an_older_edge_lacks_is_named() -> None:
    for status, kind in ((404, "not-found"), (405, "method-not-allowed")):
        error = raised(problem(status, kind))
        assert (type(error), error.status, error.request_id) == (AnswerNotUnderstood, status, "abc")
        assert " does not have GET /v1/galleries/{gallery}: it is an edge of an older version" in error.detail
    assert type(raised(problem(404, "not-found", reason="unknown_gallery"))) is NotFound


def test_a_text_that_is_not_unicode_is_not_sent() -> None:
    with Client("http://127.0.0.1:9", api_key="k") as client, pytest.raises(BadRequest) as error:
        client.list_subjects("staff", prefix="\udcff")
    assert error.value.reason == "not_utf8"


@pytest.mark.parametrize("name", [None, 5, b"ada"])
def test_what_is_no_text_is_no_name(name: Any) -> None:
    with Client("http://127.0.0.1:9", api_key="k", retries=0) as client:
        for call in (client.delete_subject, client.get_subject):
            with pytest.raises(TypeError, match="the subject is a string"):
                call("door", name)
        with pytest.raises(TypeError, match="the gallery is a string"):
            client.delete_gallery(name)


def test_a_list_that_goes_in_a_circle_ends() -> None:
    page = Reply(200, b'{"items": [], "next": "a"}', {"content-type": "application/json"})
    with answering(page, page, page, page) as server, Client(server.url, api_key="k", retries=0) as client:
        with pytest.raises(AnswerNotUnderstood, match="followed by itself"):
            list(client.all_galleries())
        assert len(server.requests) == 2

    async def all_of_them(url: str) -> None:
        async with AsyncClient(url, api_key="k", retries=0) as edge:
            async for _ in edge.all_galleries():
                pass

    with answering(page, page, page, page) as server, pytest.raises(AnswerNotUnderstood, match="followed by itself"):
        asyncio.run(all_of_them(server.url))


def test_the_sentence_of_an_error_changes_no_terminal() -> None:
    problem = {
        "type": "urn:patronus:problem:conflict",
        "detail": "evil \x1b[31m\x1b]0;title\x07 one\ntwo\x9b",
        "status": 409,
    }
    headers = {"content-type": "application/problem+json"}
    assert raised(Reply(409, problem, headers)).detail == "evil  [31m ]0;title  one two "
    for control in "\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069":  # of direction and of lines
        assert raised(Reply(409, problem | {"detail": f"a{control}b"}, headers)).detail == "a b"
    places = [{"at": "body/\u202ex", "problem": "is\u2067 wrong\x1b"}]
    assert raised(Reply(422, problem | {"errors": places}, headers)).detail == "body/ x: is  wrong "
    for detail in ({"a": 1}, ["x"], 5):
        assert isinstance(raised(Reply(409, problem | {"detail": detail}, headers)), AnswerNotUnderstood)


def raw(content: bytes) -> Iterator[str]:
    """The address of a server that sends this to its only caller, and ends the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
            ServiceUnreachable,
            "ended the connection before its answer",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-", ServiceUnreachable, "ended the connection before its answer was whole"),
        (b"", ServiceUnreachable, "ended the connection before its answer was whole"),
        (b"220 mail.example ESMTP\r\n\r\n", AnswerNotUnderstood, "is not an edge, or is one that speaks TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x46", AnswerNotUnderstood, "is not an edge, or is one that speaks TLS"),
    ],
)
def test_an_answer_cut_short_is_no_missing_edge(content: bytes, kind: type[Exception], says: str) -> None:
    with (
        contextmanager(raw)(content) as url,
        Client(url, api_key="k", retries=0) as client,
        pytest.raises(kind, match=says) as error,
    ):
        client.get_health()
    assert url in str(error.value)


@pytest.mark.parametrize(
    "members",
    [
        {"detail": "x" * 5_000_000},
        {"detail": "x", "errors": [{"at": "y" * 5_000_000, "problem": "z"}]},
        {"detail": "x", "errors": [{"at": "y", "problem": "z"}] * 100_000},
        {"detail": "x", "reason": "r" * 5_000_000},
    ],
)
def test_a_sentence_has_the_length_of_one(members: dict[str, Any]) -> None:
    problem = {"type": "urn:patronus:problem:conflict", **members}
    refusal = Reply(409, problem, {"Content-Type": "application/problem+json"})
    with answering(refusal) as server, Client(server.url, api_key="k") as client, pytest.raises(Conflict) as error:
        client.get_gallery("door")
    assert 1 <= len(str(error.value)) <= 4_001
    assert len(error.value.reason or "") <= 200
