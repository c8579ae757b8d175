"""A service killed at any moment of a change of key has, at its next start, the whole gallery under one of the two."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.cloud_service.test_killed import _served
from tests.support.cloud_client import random_units
from tests.support.sealed import Key

DIM, COUNT, CYCLES = 32, 4_000, 5
PATH = "/v1/galleries/door"
ROWS = random_units(51, COUNT, DIM)
PROBES = [0, 1, COUNT // 2, COUNT - 1]


def _make(client: httpx.Client, key: Key) -> None:
    spec: dict[str, Any] = {"contract": key.contract.model_dump(mode="json")}
    spec |= {"threshold": {"cosine": 0.9, "fmr": 0.001}, "score": {"rule": "best"}, "sealed_names": True}
    client.put(PATH, json=spec).raise_for_status()
    for start in range(0, COUNT, 100):
        sent = [
            {"id": f"{number:032x}", "template": key.envelope(ROWS[number])} for number in range(start, start + 100)
        ]
        client.post(f"{PATH}/subjects/{key.name(f's{start}')}/templates", json={"templates": sent}).raise_for_status()


def _assert_whole(client: httpx.Client, now: Key, other: Key) -> None:
    """Everybody is found under the one key, by the record and by the index; and the other is refused."""
    body: dict[str, Any] = {"probes": [now.envelope(ROWS[number]) for number in PROBES], "top_k": 1}
    results = client.post(f"{PATH}/identify", json=body).raise_for_status().json()["results"]
    for number, result in zip(PROBES, results, strict=True):
        [found] = result["candidates"]
        name = now.name(f"s{number - number % 100}")
        assert (found["subject"], found["similarity"] > 0.99999) == (name, True)
        probe = {"probe": now.envelope(ROWS[number])}
        answer = client.post(f"{PATH}/subjects/{name}/verify", json=probe).json()
        assert answer["similarity"] > 0.99999
    refused = client.post(f"{PATH}/identify", json={"probes": [other.envelope(ROWS[0])], "top_k": 1})
    assert (refused.status_code, refused.json()["expected"]) == (409, now.contract.digest())


def _ask(client: httpx.Client, request: dict[str, Any]) -> None:
    with contextlib.suppress(httpx.TransportError):  # killed before the answer
        client.post(f"{PATH}/rekey", json=request)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _finish(client: httpx.Client, before: Key, after: Key) -> None:
    """Asks for the change until it is done; it goes on where it was, or is done already."""
    deadline = time.monotonic() + 60
    while (answer := client.post(f"{PATH}/rekey", json=before.rekey(after)).json())["state"] != "settled":
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    _assert_whole(client, after, before)
    assert client.get(PATH).json()["templates"] == COUNT


@pytest.mark.slow(reason="kill series")
def test_kill_9_at_random_moments_of_changes_of_key(tmp_path: Path) -> None:
    moments = np.random.default_rng(53)
    keys = [Key(DIM, number) for number in range(CYCLES + 2)]
    takes = 0.0
    for cycle, (before, now, after) in enumerate(zip([None, *keys], keys, keys[1:], strict=False)):
        with _served(tmp_path) as (process, client):
            if before is None:
                _make(client, now)
            else:  # killed while it was turned from the one to the other
                turned = client.get(f"{PATH}/rekey").json()["contract_digest"] == now.contract.digest()
                _assert_whole(client, *((now, before) if turned else (before, now)))
                began = time.monotonic()
                _finish(client, before, now)
                takes = takes or time.monotonic() - began
            if cycle > CYCLES:
                break
            asking = threading.Thread(target=_ask, args=(client, now.rekey(after)))
            asking.start()
            time.sleep(float(moments.uniform(0, takes)))
            _kill(process)
            asking.join()
    assert "data" not in (tmp_path / "log").read_text()


@pytest.mark.slow(reason="kill series")
def test_what_a_killed_service_had_still_to_overwrite_is_overwritten_by_its_next_start(tmp_path: Path) -> None:
    old, new = Key(DIM, 1), Key(DIM, 2)
    with _served(tmp_path) as (process, client):
        _make(client, old)
        asking = threading.Thread(target=_ask, args=(client, old.rekey(new)))
        asking.start()
        while client.get(f"{PATH}/rekey").json()["contract_digest"] != new.contract.digest():
            time.sleep(0.001)
        _kill(process)  # turned a moment ago: the settling has hardly begun
        asking.join()
    with _served(tmp_path) as (_process, client):
        deadline = time.monotonic() + 30
        while client.get(f"{PATH}/rekey").json()["state"] != "settled":  # nobody sends the matrix again
            assert time.monotonic() < deadline
            time.sleep(0.05)
        _assert_whole(client, new, old)
        files = b"".join(file.read_bytes() for file in (tmp_path / "cloud").iterdir())
    for row in ROWS[:: COUNT // 200]:
        assert old.template(row).astype("<f4").tobytes()[:16] not in files
