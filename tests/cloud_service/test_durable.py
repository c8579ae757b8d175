"""A change is on the disk before it is acknowledged, so that a power cut right after the answer loses nothing.

SQLite in WAL mode with synchronous=FULL syncs the log at each commit. The system calls of a running service show that
it does so before the answer goes out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.processes.pair import free_port
from tests.support.cloud_client import contract_of, enveloped, random_units
from tests.support.servers import wait_until_ready

ROOT = Path(__file__).resolve().parents[2]
CALLS = "fsync,fdatasync,sendto,sendmsg,write,writev"


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A client of a service that runs under strace, and the file of its system calls."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace here")
    if subprocess.run([strace, "-o", os.devnull, "true"], check=False, capture_output=True).returncode:
        pytest.skip("processes may not be traced here")
    port, calls = free_port(), tmp_path / "calls"
    # -D: the service, and not strace, is the process that is started here, and can be ended.
    trace = [strace, "-D", "-f", "-qq", "-ttt", "-y", "-s", "12", "-e", f"trace={CALLS}", "-o", str(calls)]
    environment = os.environ | {"PATRONUS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [*trace, sys.executable, "-m", "cloud_service", "serve", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            wait_until_ready(process, client)
            client.headers["Authorization"] = f"Bearer {(tmp_path / 'cloud/api_key').read_text().strip()}"
            yield client, calls
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_each_write_is_synced_before_it_is_answered(traced: tuple[httpx.Client, Path]) -> None:
    client, calls = traced
    spec = {"contract": contract_of(8).model_dump(mode="json"), "threshold": {"cosine": 0.9, "fmr": 0.001}}
    assert client.put("/v1/galleries/door", json=spec).status_code == 201
    vectors = random_units(1, 5, 8)
    for number, vector in enumerate(vectors):
        body = {"templates": [{"id": f"{number:032x}", "template": enveloped(vector)}]}
        assert client.post(f"/v1/galleries/door/subjects/s{number}/templates", json=body).status_code == 201
    assert client.delete("/v1/galleries/door/subjects/s0").status_code == 200
    assert client.get("/readyz").is_success

    synced, sync_of_answer = False, []
    for line in calls.read_text().splitlines():
        if re.search(r"\bf(data)?sync\([0-9]+<[^>]*record\.db-wal>", line) or "fsync resumed" in line:
            synced = True
        elif re.search(r'"HTTP/1\.1 20', line):
            sync_of_answer.append(synced)
            synced = False
    writes = [1, 5, 1]
    assert sync_of_answer[-1 - sum(writes) : -1] == [True] * sum(writes), "a write was answered before it was synced"
    assert sync_of_answer[-1] is False, "nothing is synced that was not written: the test would see it all the same"
