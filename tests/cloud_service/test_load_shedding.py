"""On the wire: what is not to come in is refused at once, on a connection that stays, and nobody else waits for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from shared.processes.pair import free_port
from shared.security.credentials import Scope
from shared.security.key_ring import KeyRing
from tests.load.closed_loop import request
from tests.support.cloud_client import contract_of, enveloped, random_units
from tests.support.servers import wait_until_ready

ROOT = Path(__file__).resolve().parents[2]
VECTOR = random_units(3, 1)[0]


class Service:
    """A cloud in a process of its own, with few places, and a gallery with one subject."""

    def __init__(self, home: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ring = KeyRing(home / "cloud/api_keys.json")
        self.first = (home / "cloud/api_key").read_text().strip()
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.first}"}) as client:
            spec = {"contract": contract_of().model_dump(mode="json"), "threshold": {"cosine": 0.5, "fmr": 0.001}}
            client.put("/v1/galleries/door", json=spec).raise_for_status()
            sent = {"templates": [{"id": "0" * 32, "template": enveloped(VECTOR)}]}
            client.post("/v1/galleries/door/subjects/anna/templates", json=sent).raise_for_status()

    def key(self, rate: str | None = None) -> str:
        return self.ring.add("test", [Scope.MATCH], None, rate)[0]

    def verify(self, key: str) -> bytes:
        """A verification as it goes over the wire."""
        body = json.dumps({"probe": enveloped(VECTOR)}).encode()
        return request(f"{self.url}/v1/galleries/door/subjects/anna/verify", key, body)


class Line:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._stream = self._socket.makefile("rb")

    def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        self._socket.sendall(data)
        status = int(self._stream.readline().split()[1])
        headers = {}
        while line := self._stream.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, self._stream.read(int(headers["content-length"]))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home, port = tmp_path_factory.mktemp("service"), free_port()
    environment = {**os.environ, "PATRONUS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment |= {"PATRONUS_CLOUD__WORK__QUEUE_LENGTH": "8", "PATRONUS_CLOUD__WORK__MAX_BATCH_PROBES": "8"}
    environment |= {"PATRONUS_CLOUD__RATES__MATCHING": "unlimited", "PATRONUS_CLOUD__LOG_LEVEL": "error"}
    process = subprocess.Popen([sys.executable, "-m", "cloud_service", "serve", "--port", str(port)], env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_until_ready(process, client)
        yield Service(home, port)
    finally:
        process.terminate()
        process.wait(20)


def test_a_key_over_its_rate_is_refused_on_a_connection_that_stays(service: Service) -> None:
    slow, fast = service.verify(service.key("3/hour")), service.verify(service.key())
    line, other = Line(service.port), Line(service.port)
    answers = [line.ask(slow) for _ in range(20)]
    assert [status for status, *_ in answers] == [200] * 3 + [429] * 17
    _, headers, body = answers[-1]
    problem = json.loads(body)
    assert problem["type"] == "urn:patronus:problem:rate-limited"
    assert headers["x-request-id"] == problem["request_id"]
    assert int(headers["retry-after"]) >= 1
    assert other.ask(fast)[0] == 200
    line.close()
    other.close()


def test_a_crowd_is_answered_or_refused_and_the_service_stays_well(service: Service) -> None:
    data = service.verify(service.key())

    def insist(_: int) -> list[int]:
        line, found = Line(service.port), []
        for _ in range(25):
            status, headers, body = line.ask(data)
            assert status in {200, 429}, body
            assert status == 200 or (headers["retry-after"] == "1" and json.loads(body)["status"] == 429)
            if headers.get("connection") == "close":
                line.close()
                line = Line(service.port)
            found.append(status)
        line.close()
        return found

    with ThreadPoolExecutor(40) as threads:
        statuses = [status for found in threads.map(insist, range(40)) for status in found]
    assert statuses.count(200) > 50
    assert statuses.count(429) > 50
    assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200
    line = Line(service.port)
    assert line.ask(data)[0] == 200, "no place was lost"
    line.close()
    metrics = httpx.get(f"{service.url}/metrics", trust_env=False).text
    (counted,) = (row for row in metrics.splitlines() if row.startswith('patronus_cloud_refused_total{problem="overl'))
    assert float(counted.split()[-1]) == statuses.count(429)


def test_answers_without_a_body_and_broken_requests_leave_no_place_taken(service: Service) -> None:
    for _ in range(30):
        for data in (
            b"HEAD /v1/galleries HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer y\r\n\r\n",
            b"POST /v1/galleries/door/subjects/a/verify HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\nAuthorization: Bearer y"
            b"\r\nContent-Length: 0\r\n\r\n",
            service.verify(service.first)[:-1],
        ):
            with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
                raw.sendall(data)
                if not data.endswith(b"}"):
                    assert raw.recv(65536) or data.startswith(b"POST")
    time.sleep(0.2)
    line = Line(service.port)
    assert line.ask(service.verify(service.first))[0] == 200
    line.close()
