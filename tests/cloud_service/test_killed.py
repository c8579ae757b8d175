"""A service that was killed starts with everything that it acknowledged and nothing that it erased."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from shared.processes.pair import free_port
from tests.load.crash.model import Gallery, Model, Seen, contract_of
from tests.load.crash.scan import held_in, pieces_of
from tests.load.crash.series import Series
from tests.support.servers import wait_until_ready

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, record_url: str | None, monkeypatch: pytest.MonkeyPatch) -> Path:
    if record_url is not None:
        monkeypatch.setenv("PATRONUS_CLOUD__RECORD__URL", record_url)
    return tmp_path


@contextmanager
def _served(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Runs a service in a process of its own; yields it and a client with its first key."""
    port = free_port()
    environment = {**os.environ, "PATRONUS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cloud_service", "serve", "--port", str(port)]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until_ready(process, client)
                client.headers["Authorization"] = f"Bearer {(home / 'cloud/api_key').read_text().strip()}"
                yield process, client
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.mark.slow(reason="kills and starts a service five times: 20 s")
def test_a_series_of_kills_under_load_loses_nothing_and_brings_nothing_back(tmp_path: Path) -> None:
    with Series(tmp_path, seed=11) as series:
        cycles = list(series.cycles(5))
    assert [cycle for cycle in cycles if not cycle.sound] == []
    assert sum(cycle.acknowledged for cycle in cycles) > 5, "nothing was put to the test"
    assert sum(cycle.unsure for cycle in cycles) > 0, "no write was on its way when it was killed"


def test_the_series_of_kills_finds_what_was_lost_came_back_or_was_mixed_up(tmp_path: Path) -> None:
    model = Model(seed=1)
    model.galleries["common"] = Gallery()
    model.enrolled("common", "anna", {"1": 1, "2": 2})
    model.enrolled("common", "ben", {"3": 3})
    model.erased("common", "ben")
    there = Seen({"common": contract_of(0).digest()}, {"common": {"anna": {"1", "2"}}})
    assert model.differences(there) == ([], [], [])
    wrong = Seen({"common": contract_of(1).digest()}, {"common": {"anna": {"1"}, "ben": {"3"}}})
    lost, back, mixed = model.differences(wrong)
    assert (len(lost), len(back), len(mixed)) == (1, 1, 1)
    lost, _, _ = model.differences(Seen())
    assert lost == ["gallery common"]

    (file := tmp_path / "record.db").write_bytes(b"x" * 4093 + model.vectors.sealed([3], 0)[0, 8:16].tobytes())
    assert held_in(tmp_path, pieces_of(model.vectors.sealed([3], 0))) == {file.name: 4}
    assert held_in(tmp_path, pieces_of(model.vectors.sealed([1, 2], 0))) == {}


@pytest.mark.both_engines
def test_a_second_service_on_the_same_record_is_refused_in_one_sentence(home: Path) -> None:
    with _served(home):
        second = subprocess.run(
            [sys.executable, "-m", "cloud_service", "serve", "--port", str(free_port())],
            env={**os.environ, "PATRONUS_HOME": str(home), "PYTHONPATH": str(ROOT)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1].startswith("A cloud service is using the record")
    assert "Traceback" not in second.stderr


def test_sigterm_ends_it_gracefully_with_the_record_closed(home: Path) -> None:
    with _served(home) as (process, client):
        assert client.get("/v1/info").headers.get("server") is None
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert not (home / "cloud/record.db-wal").exists()
    log = (home / "log").read_text()
    assert "patronus_" not in log.replace("patronus_cloud", ""), "no key in the log"
