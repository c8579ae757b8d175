"""What comes over a socket and is not quite HTTP, and HEAD over one: answered, closed or kept as HTTP has it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.processes.pair import free_port
from tests.support.servers import wait_until_ready

KEYED = b"Host: x\r\nAuthorization: Bearer KEY\r\n"
PUT = b"PUT /v1/galleries/new HTTP/1.1\r\nContent-Type: application/json\r\n" + KEYED
HOSTILE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET /v1/info HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/info HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "an odd host": b"GET /v1/galleries?limit=1 HTTP/1.1\r\n" + KEYED.replace(b"Host: x", b"Host: [::1") + b"\r\n",
    "an empty host": b"GET /v1/info HTTP/1.1\r\nHost: \r\n\r\n",
    "a fragment": b"GET /v1/info#x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a coding before chunked": PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "an upgrade": PUT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    "a blank in a name": b"GET /v1/info HTTP/1.1\r\nHost : x\r\n\r\n",
    "a NUL in a header": b"GET /v1/info HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
    "bytes in a path": b"GET /v1/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown version": b"GET /v1/info HTTP/3.0\r\nHost: x\r\n\r\n",
    "two lengths": PUT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length that is none": PUT + b"Content-Length: +2\r\n\r\n{}",
    "a body that does not begin": b"POST /v1/info HTTP/1.1\r\n"
    + KEYED
    + b"Content-Length: 2\r\nContent-Length\r\n\r\n{}",
    "an old version": b"GET /v1/info HTTP/2.0\r\n" + KEYED + b"\r\n",
    "lines without CR": b"GET /v1/none HTTP/1.1\nHost: x\n\n",
    "a folded header": b"GET /v1/none HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "a length of thousands of digits": PUT + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "an unknown transfer encoding": PUT + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "a chunk that is none": PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "two keys": PUT + b"Authorization: Bearer other\r\nContent-Length: 2\r\n\r\n{}",
    "a key of bytes": b"GET /v1/info HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    "a compressed body": PUT + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "a name twice": PUT + b'Content-Length: 14\r\n\r\n{"a":1,"a": 2}',
    "an endless header": b"GET /v1/info HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, bytes]]:
    """The port of a cloud in a process of its own, and an API key."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    environment = {**os.environ, "PATRONUS_HOME": str(home), "PATRONUS_CLOUD__LOG_LEVEL": "error"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "cloud_service", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=root, stderr=subprocess.PIPE) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                wait_until_ready(process, client)
            yield port, (home / "cloud/api_key").read_bytes().strip()
        finally:
            process.terminate()
            _, words = process.communicate(timeout=30)
    assert b"Traceback" not in words


def ask(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """What a connection answers to these bytes until it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(data)
        stream = line.makefile("rb")
        status = int(stream.readline().split()[1])
        headers = {}
        while said := stream.readline().strip():
            name, _, value = said.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, stream.read(int(headers["content-length"]))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_quite_http_is_refused_with_a_problem(cloud: tuple[int, bytes], name: str) -> None:
    port, key = cloud
    status, headers, body = ask(port, HOSTILE[name].replace(b"KEY", key))
    assert 400 <= status < 500
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 2, 2\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_length_said_twice_is_refused_and_the_connection_closed(cloud: tuple[int, bytes], lengths: bytes) -> None:
    port, key = cloud
    status, headers, body = ask(port, PUT.replace(b"KEY", key) + lengths)
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["reason"] in {"malformed_http", "two_lengths"}


def test_a_trailer_is_no_header(cloud: tuple[int, bytes]) -> None:
    """A key that a proxy did not see in the head must not count."""
    port, key = cloud
    keyless = PUT.replace(b"Authorization: Bearer KEY\r\n", b"")
    trailer = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer " + key + b"\r\n\r\n"
    status, _, body = ask(port, keyless + trailer)
    assert status == 401, body


def test_head_has_the_headers_of_get_and_the_connection_goes_on(cloud: tuple[int, bytes]) -> None:
    port, key = cloud
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        stream = line.makefile("rb")
        for method, path in (("HEAD", "/healthz"), ("HEAD", "/v1/info"), ("HEAD", "/v1/none"), ("GET", "/healthz")):
            line.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + KEYED.replace(b"KEY", key) + b"\r\n")
            assert int(stream.readline().split()[1]) == (404 if path == "/v1/none" else 200)
            lengths = [line for line in iter(stream.readline, b"\r\n") if line.lower().startswith(b"content-length")]
            assert int(lengths[0].split()[1]) > 0
        assert json.loads(stream.read(int(lengths[0].split()[1]))) == {"status": "ok"}
