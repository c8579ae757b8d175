"""An argument of a wrong type is a ``TypeError`` of one sentence; a wrong value is an error of Patronus."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patronus_face import Threshold, ThresholdFor
from shared.client import AsyncClient, Client
from shared.client.galleries import set_retention
from shared.errors import BadRequest, ClientError, PatronusError, SetupError, Unprocessable
from tests.shared.client.answering import AnsweringServer, Reply, answering

ROW = [0.5, 0.5]


@pytest.fixture(scope="module")
def server() -> Iterator[AnsweringServer]:
    """Answers with nothing that an edge answers."""
    with answering(Reply()) as running:
        yield running


WRONG_TYPES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "threshold as dict": (
        lambda edge: edge.put_gallery("door", threshold={"cosine": 0.4, "fmr": 0.001}),
        "threshold is a Threshold(cosine=…, fmr=…) or a ThresholdFor(…) of patronus_face, not dict",
    ),
    "threshold as number": (
        lambda edge: edge.change_gallery("door", threshold=0.4),
        "threshold is a Threshold(cosine=…, fmr=…) or a ThresholdFor(…) of patronus_face, not float",
    ),
    "expiry as text": (
        lambda edge: edge.set_expiry("door", "ada", "2030-01-31T00:00:00Z"),
        "expires_at is a datetime with its time zone, not str",
    ),
    "expiry as date": (
        lambda edge: edge.set_expiry("door", "ada", date(2030, 1, 31)),
        "expires_at is a datetime with its time zone, not date",
    ),
    "no picture": (
        lambda edge: edge.detect_faces(None),
        "a picture is a path, bytes, or a file open for reading bytes, not None",
    ),
    "picture as number": (
        lambda edge: edge.compare_faces(b"\xff", 5),
        "a picture is a path, bytes, or a file open for reading bytes, not int",
    ),
    "picture as array": (
        lambda edge: edge.verify_face("door", "ada", np.zeros((2, 2, 3), np.uint8)),
        "a picture is a path, bytes, or a file open for reading bytes, not ndarray",
    ),
    "pictures as list": (
        lambda edge: edge.enroll_faces("door", "ada", ["a.jpg", "b.jpg"]),
        "a picture is not a list of them; pass them one by one: *pictures",
    ),
    "text file": (
        lambda edge: edge.identify_faces("door", io.StringIO("text")),
        "a picture is a file open for reading bytes, not text; open it with mode 'rb'",
    ),
    "embeddings as number": (
        lambda edge: edge.protect(embeddings=5),
        "embeddings is an array (n, d), or a list of rows of numbers, not int",
    ),
    "embeddings as text": (
        lambda edge: edge.enroll_embeddings("door", "ada", "0.5"),
        "embeddings is an array (n, d), or a list of rows of numbers, not str",
    ),
    "a value of no kind": (
        lambda edge: edge.protect(embeddings=[[object()]]),
        "a value to send is a text, a number, true, false, or a list of them, not object",
    ),
    "one name as names": (
        lambda edge: edge.enroll_subjects("door", "ada", [ROW, ROW, ROW]),
        "subjects is a list of names, not str",
    ),
    "one face as faces": (
        lambda edge: edge.enroll_embeddings("door", "ada", [ROW], faces="a"),
        "faces is a list of names, not str",
    ),
    "names as number": (lambda edge: edge.enroll_subjects("door", 3, [ROW]), "subjects is a list of names, not int"),
    "receipt as text": (lambda edge: edge.get_erasure("door", ".."), "the receipt is a whole number, not str"),
    "receipt as truth value": (lambda edge: edge.get_erasure("door", True), "the receipt is a whole number, not bool"),
}

WRONG_VALUES: dict[str, tuple[Callable[[Any], Any], type[PatronusError], str]] = {
    "moment without zone": (
        lambda edge: edge.set_expiry("door", "ada", datetime(2030, 1, 31)),
        BadRequest,
        "expires_at has no time zone",
    ),
    "one row": (lambda edge: edge.protect(embeddings=ROW), Unprocessable, "give n of them as (n, d)"),
    "one array": (lambda edge: edge.protect(embeddings=np.array(ROW)), Unprocessable, "give n of them as (n, d)"),
    "a number in an array": (lambda edge: edge.protect(embeddings=np.float32(1)), TypeError, "not float32"),
    "too few names": (
        lambda edge: edge.enroll_subjects("door", ["ada"], [ROW, ROW]),
        BadRequest,
        "There are 2 embeddings and 1 subjects; give one for each.",
    ),
    "too many faces": (
        lambda edge: edge.enroll_embeddings("door", "ada", [ROW], faces=["a", "b"]),
        BadRequest,
        "There are 1 embeddings and 2 faces; give one for each.",
    ),
    "null byte in a path": (lambda edge: edge.detect_faces("a\0b"), BadRequest, "No file can have the name 'a\\x00b'"),
    "half a surrogate pair in a path": (lambda edge: edge.detect_faces("\ud800"), BadRequest, "No file can have"),
    "closed file": (lambda edge: edge.detect_faces(closed_file()), BadRequest, "This file is closed"),
}


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"\xff")
    file.close()
    return file


def asked(call: Callable[[Any], Any], url: str) -> None:
    async def awaited() -> None:
        async with AsyncClient(url, api_key="k", retries=0) as edge:
            await call(edge)

    asyncio.run(awaited())


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_a_wrong_type_is_said_in_one_sentence_and_nothing_is_sent(case: str, server: AnsweringServer) -> None:
    call, says = WRONG_TYPES[case]
    with Client(server.url, api_key="k", retries=0) as edge, pytest.raises(TypeError) as error:
        call(edge)
    assert str(error.value) == says
    with pytest.raises(TypeError) as error:
        asked(call, server.url)
    assert str(error.value) == says
    assert server.requests == []


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_wrong_value_is_an_error_of_patronus(case: str, server: AnsweringServer) -> None:
    call, kind, says = WRONG_VALUES[case]
    with Client(server.url, api_key="k", retries=0) as edge, pytest.raises(kind) as error:
        call(edge)
    assert says in str(error.value)
    with pytest.raises(kind):
        asked(call, server.url)
    assert server.requests == []


@pytest.mark.parametrize("mode", ["r", "w", "wb"])
def test_a_file_that_is_not_open_for_reading_bytes_is_refused(mode: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("text")
    with (
        (tmp_path / "a.jpg").open(mode) as file,
        Client("http://127.0.0.1:9", api_key="k", retries=0) as edge,
        pytest.raises(TypeError if mode == "r" else BadRequest, match="open it with mode 'rb'"),
    ):
        edge.detect_faces(file)  # type: ignore[arg-type]


def test_a_closed_client_says_so(server: AnsweringServer) -> None:
    edge = Client(server.url, api_key="k")
    edge.close()
    with pytest.raises(ClientError, match=r"^This client is closed; make another one.$") as error:
        edge.get_health()
    assert (error.value.reason, server.requests) == ("closed", [])

    async def after_close() -> None:
        edge = AsyncClient(server.url, api_key="k")
        await edge.close()
        await edge.get_health()

    with pytest.raises(ClientError, match="This client is closed"):
        asyncio.run(after_close())


LEFT_OUT = "which an edge does not take; leave it out, and give the API key as api_key or in PATRONUS_API_KEY."


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"retries": "x"}, TypeError, "retries is a whole number, not str"),
        ({"retries": 1.5}, TypeError, "retries is a whole number, not float"),
        ({"retries": True}, TypeError, "retries is a whole number, not bool"),
        ({"retries": -1}, SetupError, "retries is a whole number from 0, not -1."),
        ({"timeout_s": "x"}, TypeError, "timeout_s is a number of seconds, not str"),
        ({"timeout_s": None}, TypeError, "timeout_s is a number of seconds, not None"),
        ({"timeout_s": -1}, SetupError, "timeout_s is a number of seconds over 0, and at most 86400."),
        ({"timeout_s": float("nan")}, SetupError, "timeout_s is a number of seconds over 0, and at most 86400."),
        ({"timeout_s": float("inf")}, SetupError, "timeout_s is a number of seconds over 0, and at most 86400."),
        ({"api_key": b"k"}, TypeError, "api_key is a string, not bytes"),
        ({"url": 5}, SetupError, "The edge's address is not a URL; write it like http://127.0.0.1:8000"),
        *(
            ({"url": url}, SetupError, f"The edge's address has a user, a password, a query or a fragment, {LEFT_OUT}")
            for url in (
                "http://user:secret@host",
                "https://secret@host:1",
                "http://host/?token=secret",
                "http://host/#secret",
            )
        ),
        ({"ca": 5}, TypeError, "ca is a path, not int"),
        ({"ca": "a\0b"}, SetupError, "No file can have the name 'a\\x00b'; name another for ca."),
        ({"ca": "absent"}, SetupError, "The TLS file absent is not there; name the right one, or make it."),
        ({"certificate": 5, "certificate_key": "b"}, TypeError, "certificate is a path, not int"),
        (
            {"certificate": "a", "certificate_key": "b"},
            SetupError,
            "The TLS file b is not there; name the right one, or",
        ),
    ],
)
def test_what_no_client_can_be_made_with_is_said(
    options: dict[str, Any], kind: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    with pytest.raises(kind) as error:
        Client("http://127.0.0.1:9", **{"api_key": "k"} | options) if "url" not in options else Client(
            api_key="k", **options
        )
    assert str(error.value).startswith(says)


def sent(call: Callable[[Client], Any], server: AnsweringServer) -> Any:
    with Client(server.url, api_key="k", retries=0) as edge, pytest.raises(PatronusError):
        call(edge)
    return json.loads(server.requests.pop().begin)


def test_numbers_and_arrays_of_numpy_are_sent_as_numbers(server: AnsweringServer) -> None:
    half = np.float32(0.5)
    for rows in ([[half, half]], [np.array(ROW, np.float32)], np.array([ROW]), [(0.5, 0.5)]):
        assert sent(lambda edge, rows=rows: edge.protect(embeddings=rows), server) == {"embeddings": [ROW]}
    assert sent(lambda edge: edge.set_retention("door", np.int64(60)), server) == {"max_age_seconds": 60}
    subjects = np.array(["ada"])
    assert sent(lambda edge: edge.enroll_subjects("door", subjects, [ROW]), server)["embeddings"][0]["subject"] == "ada"


def test_what_the_types_say_is_sent(server: AnsweringServer) -> None:
    threshold = Threshold(cosine=0.4, fmr=0.001)
    assert sent(lambda edge: edge.put_gallery("door", threshold=threshold), server) == {
        "threshold": {"cosine": 0.4, "fmr": 0.001}
    }
    purpose = ThresholdFor(for_subjects=500, false_accepts=0.01)
    assert sent(lambda edge: edge.change_gallery("door", threshold=purpose), server) == {
        "threshold": {"for_subjects": 500, "false_accepts": 0.01}
    }
    moment = datetime(2030, 1, 31, tzinfo=UTC)
    assert sent(lambda edge: edge.set_expiry("door", "ada", moment), server) == {
        "expires_at": "2030-01-31T00:00:00+00:00"
    }


@pytest.mark.parametrize(
    "call",
    [
        lambda edge: edge.rename_subject("staff", "ada", "\udcff\udcfe"),
        lambda edge: edge.merge_subject("staff", "ada", "\udcff\udcfe"),
        lambda edge: edge.enroll_subjects("staff", ["a", "\udcff"], [[1.0], [1.0]]),
        lambda edge: edge.get_subject("staff", "\udcff\udcfe"),
        lambda edge: edge.list_subjects("staff", prefix="\udcff\udcfe"),
    ],
)
def test_a_text_that_is_not_utf8_is_called_so(call: Callable[[Client], Any]) -> None:
    with answering(Reply()) as server, Client(server.url, api_key="k") as edge:
        with pytest.raises(BadRequest, match="UTF-8"):
            call(edge)
        assert server.requests == []


def test_an_age_is_seconds_or_a_timedelta() -> None:
    for age in (90, timedelta(seconds=90), timedelta(minutes=1.5)):
        assert json.loads(set_retention("door", age).json() or b"") == {"max_age_seconds": 90}
    with pytest.raises(BadRequest, match="whole seconds"):
        set_retention("door", timedelta(milliseconds=90))
