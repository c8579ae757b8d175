"""A service killed without warning has, at its next start, everything it acknowledged and nothing it erased."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cloud_client import contract_of, enveloped, random_units

ROOT = Path(__file__).resolve().parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def home(tmp_path: Path, record_url: str | None, monkeypatch: pytest.MonkeyPatch) -> Path:
    if record_url is not None:
        monkeypatch.setenv("PATRONUS_CLOUD__RECORD__URL", record_url)
    return tmp_path


@contextmanager
def _served(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A service in a process of its own, and a client with its first key."""
    port = _free_port()
    environment = {**os.environ, "PATRONUS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cloud_service", "serve", "--port", str(port)]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                _wait_until_ready(process, client)
                client.headers["Authorization"] = f"Bearer {(home / 'cloud/api_key').read_text().strip()}"
                yield process, client
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client) -> None:
    for _ in range(300):
        assert process.poll() is None, "it did not start"
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("it did not become ready")


def _found(client: httpx.Client, vector: object) -> list[str]:
    body = {"probes": [enveloped(vector)], "top_k": 1}
    results = client.post("/v1/galleries/door/identify", json=body).raise_for_status().json()["results"]
    return [found["subject"] for found in results[0]["candidates"]]


@pytest.mark.both_engines
def test_kill_9_loses_nothing_that_was_acknowledged(home: Path) -> None:
    vectors = random_units(11, 40, 64)
    spec = {"contract": contract_of(64).model_dump(mode="json"), "threshold": {"cosine": 0.9, "fmr": 0.001}}
    with _served(home) as (process, client):
        assert client.put("/v1/galleries/door", json=spec).status_code == 201
        for number, vector in enumerate(vectors):
            body = {"templates": [{"id": f"{number:032x}", "template": enveloped(vector)}]}
            path = f"/v1/galleries/door/subjects/s{number}"
            assert client.post(f"{path}/templates", json=body).status_code == 201
            if number % 4 == 0:
                assert client.delete(path).status_code == 200
        process.send_signal(signal.SIGKILL)
        process.wait()
    with _served(home) as (_process, client):
        for number, vector in enumerate(vectors):
            assert _found(client, vector) == ([] if number % 4 == 0 else [f"s{number}"])


@pytest.mark.both_engines
def test_a_second_service_on_the_same_record_is_refused_in_one_sentence(home: Path) -> None:
    with _served(home):
        second = subprocess.run(
            [sys.executable, "-m", "cloud_service", "serve", "--port", str(_free_port())],
            env={**os.environ, "PATRONUS_HOME": str(home), "PYTHONPATH": str(ROOT)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1].startswith("Another cloud service is using the record")
    assert "Traceback" not in second.stderr


def test_sigterm_ends_it_gracefully_with_the_record_closed(home: Path) -> None:
    with _served(home) as (process, client):
        assert client.get("/v1/info").headers.get("server") is None
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert not (home / "cloud/record.db-wal").exists()
    log = (home / "log").read_text()
    assert "patronus_" not in log.replace("patronus_cloud", ""), "no key in the log"
