"""When a call is sent again, how pictures are sent, and what is loaded for it."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from shared.client import AsyncClient, Client
from shared.errors import (
    BadRequest,
    Overloaded,
    PatronusError,
    RecordUnavailable,
    ServiceUnreachable,
    UpstreamUnavailable,
)
from shared.security.tls import TlsSettings, server_context
from tests.shared.client.answering import AnsweringServer, Reply, answering
from tests.shared.client.test_errors import reply
from tests.support.certificates import make_certificates

HEALTHY = Reply(body={"status": "ok"})
ERASED = Reply(
    body={
        "subjects": 1,
        "templates": 1,
        "receipt": {"id": 1, "at": "2026-01-31T08:09:10.000000Z", "digest": "0" * 64},
        "pending": [],
    }
)
AWAY = reply(UpstreamUnavailable("Away.", retry_after_s=1))
BUSY = reply(Overloaded("Busy.", retry_after_s=1))
CUT_OFF = Reply(cut_off=True)


def client_of(server: AnsweringServer, **options: Any) -> Client:
    return Client(server.url, **{"api_key": "k", "timeout_s": 10} | options)


@pytest.mark.parametrize("first", [AWAY, BUSY])
def test_a_call_is_sent_again_after_the_time_that_the_edge_asks_for(first: Reply) -> None:
    with answering(first, HEALTHY) as server, client_of(server) as client:
        began = time.monotonic()
        assert client.get_health().status == "ok"
        assert time.monotonic() - began >= 1
        assert len(server.requests) == 2


def test_a_broken_connection_is_made_again() -> None:
    with answering(CUT_OFF, HEALTHY) as server, client_of(server) as client:
        assert client.get_health().status == "ok"
        assert len(server.requests) == 2


def test_it_is_sent_again_from_asyncio_too() -> None:
    async def ask(url: str) -> str:
        async with AsyncClient(url, api_key="k") as client:
            return (await client.get_health()).status

    with answering(CUT_OFF, BUSY, HEALTHY) as server:
        assert asyncio.run(ask(server.url)) == "ok"
        assert len(server.requests) == 3


def test_it_is_not_sent_more_often_than_it_may_be() -> None:
    with answering(CUT_OFF) as server, client_of(server, retries=1) as client:
        with pytest.raises(ServiceUnreachable):
            client.get_health()
        assert len(server.requests) == 2


def test_nobody_waits_for_an_edge_that_asks_for_minutes() -> None:
    with (
        answering(reply(RecordUnavailable("Away.", retry_after_s=600)), HEALTHY) as server,
        client_of(server) as client,
    ):
        with pytest.raises(RecordUnavailable) as error:
            client.get_health()
        assert (error.value.retry_after, len(server.requests)) == (600, 1)


@pytest.mark.parametrize("first", [CUT_OFF, AWAY])
@pytest.mark.parametrize("call", ["delete_subject", "start_rekey"])
def test_what_may_be_done_already_is_not_sent_again(call: str, first: Reply) -> None:
    """An erasure would answer that nothing was there; a change of key would begin once more."""
    with answering(first, ERASED) as server, client_of(server) as client:
        with pytest.raises(PatronusError):
            client.delete_subject("staff", "ada") if call == "delete_subject" else client.start_rekey("staff")
        assert len(server.requests) == 1


def test_an_erasure_is_sent_again_where_the_edge_did_nothing() -> None:
    with answering(BUSY, ERASED) as server, client_of(server) as client:
        assert client.delete_subject("staff", "ada").templates == 1
        assert len(server.requests) == 2


def test_not_ready_is_an_answer() -> None:
    not_ready = Reply(503, {"status": "not_ready", "checks": {"cloud": False}}, {"Retry-After": "2"})
    with answering(not_ready) as server, client_of(server) as client:
        assert client.get_readiness().checks == {"cloud": False}
        assert len(server.requests) == 1


def test_an_edge_that_does_not_answer_in_time_is_not_asked_again() -> None:
    slow = Reply(body={"status": "ok"}, delay_s=1)
    with answering(slow) as server, client_of(server, timeout_s=0.3) as client:
        with pytest.raises(ServiceUnreachable) as error:
            client.get_health()
        assert len(server.requests) == 1
    assert (error.value.reason, error.value.detail) == ("timeout", f"The edge at {server.url} did not answer in time.")


FACES = Reply(201, {"width": 1, "height": 1, "rotation": 0, "faces_found": 0, "faces": []})
CONTENT = b"\xff\xd8 a picture"


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "bytearray", "memoryview", "file", "buffer"])
def test_a_picture_is_sent_and_sent_again_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "Jane Doe.jpg"
    path.write_bytes(CONTENT)
    with path.open("rb") as file, answering(CUT_OFF, FACES) as server, client_of(server) as client:
        file.read(5)  # it is sent from its beginning all the same
        picture: Any = {
            "path": path,
            "text": str(path),
            "bytes": CONTENT,
            "bytearray": bytearray(CONTENT),
            "memoryview": memoryview(CONTENT),
            "file": file,
            "buffer": io.BytesIO(CONTENT),
        }[kind]
        assert client.detect_faces(picture, quality_filter="low").faces == []
        assert len(server.requests) == 2
        for request in server.requests:
            assert request.path == "/v1/detect?quality_filter=low"
            assert CONTENT in request.begin
            assert b'name="image"' in request.begin
            assert b"Jane" not in request.begin, "the name of a file may be that of a person"


def test_a_file_is_sent_from_asyncio_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(CONTENT)

    async def detect(url: str) -> int:
        async with AsyncClient(url, api_key="k") as client:
            return (await client.detect_faces(path)).faces_found

    with answering(CUT_OFF, FACES) as server:
        assert asyncio.run(detect(server.url)) == 0
        assert [CONTENT in request.begin for request in server.requests] == [True, True]


def test_a_file_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(48 * 1024 * 1024)
    with answering(FACES) as server, client_of(server, timeout_s=60) as client:
        tracemalloc.start()
        try:
            client.detect_faces(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert server.requests[0].length > 48 * 1024 * 1024
        assert peak < 8 * 1024 * 1024


def test_what_is_no_picture_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    reader, writer = os.pipe()
    os.close(writer)
    with answering(FACES) as server, client_of(server) as client, os.fdopen(reader, "rb") as pipe:
        for picture, says in (
            (tmp_path / "pipe", "not a plain file"),
            (tmp_path, "not a plain file"),
            (tmp_path / "huge", "too large"),
            (tmp_path / "absent", "No such file"),
            (pipe, "cannot be read twice"),
        ):
            with pytest.raises(BadRequest, match=says):
                client.detect_faces(picture)
        assert server.requests == []


def test_pages_are_fetched_one_after_the_other() -> None:
    def page(*names: str, after: str | None) -> Reply:
        at = "2026-01-31T08:09:10.000000Z"
        return Reply(body={"items": [{"subject": n, "templates": 1, "created_at": at} for n in names], "next": after})

    with answering(page("a", "b", after="b"), page("c", after=None)) as server, client_of(server) as client:
        found = client.all_subjects("staff", limit=2)
        assert next(found).subject == "a"
        assert len(server.requests) == 1, "the second page is not fetched before it is needed"
        assert [one.subject for one in found] == ["b", "c"]
        assert [one.path for one in server.requests] == [
            "/v1/galleries/staff/subjects?limit=2",
            "/v1/galleries/staff/subjects?limit=2&after=b",
        ]


def test_neither_a_service_nor_numpy_is_loaded() -> None:
    code = "import sys, shared.client; a = set(sys.modules); shared.client.Client(api_key='k').close()"
    code += "; print('httpx' in a, *{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    httpx_first, *loaded = ended.stdout.split()
    assert httpx_first == "False", "httpx takes longer to load than all else, and is loaded with the first client"
    assert not {"fastapi", "numpy", "onnxruntime", "structlog", "edge_service", "cloud_service"} & set(loaded)
    assert "httpx" in loaded


def test_tls_with_an_authority_and_a_certificate_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = make_certificates(tmp_path / "tls")
    ca, certificate, key = tls / "ca.pem", tls / "edge.pem", tls / "edge.key"
    asks = server_context(TlsSettings(certificate=tls / "cloud.pem", key=tls / "cloud.key", client_ca=ca))
    with answering(HEALTHY, tls=asks) as server:
        with client_of(server, ca=ca, certificate=certificate, certificate_key=key) as client:
            assert client.get_health().status == "ok"
        for options in ({}, {"ca": ca}):
            with client_of(server, **options) as client, pytest.raises(ServiceUnreachable) as error:
                client.get_health()
            assert error.value.reason == "tls"
            assert "PATRONUS_EDGE_CA" in error.value.detail
        assert len(server.requests) == 1
        for name, value in (("CA", ca), ("CERTIFICATE", certificate), ("CERTIFICATE_KEY", key)):
            monkeypatch.setenv(f"PATRONUS_EDGE_{name}", str(value))
        with client_of(server) as client:
            assert client.get_health().status == "ok"
