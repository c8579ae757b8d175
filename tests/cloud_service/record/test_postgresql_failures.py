"""PostgreSQL away, slow, full, frozen or killed: what callers get meanwhile, and what is left of erased templates."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection

from cloud_service.settings import RecordSettings, Settings
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units
from tests.support.damaging import checks
from tests.support.postgres_server import PostgresServer, database_of, served

pytestmark = pytest.mark.slow(reason="a server that is stopped, frozen or filled")

VECTORS = random_units(41, 40, 64)
QUICK = RecordSettings(busy_timeout_s=0.3, statement_timeout_s=1.0)


@pytest.fixture(scope="module")
def fragile(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of its own for those who stop, kill and freeze it; it loses nothing in a crash."""
    yield from served("fsync=on")


@pytest.fixture
def shaken(fragile: PostgresServer, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud, impatient, with a gallery, on a server that is going to be away."""
    settings = Settings(home=tmp_path / "cloud", record=QUICK.model_copy(update={"url": fragile.new_url()}))
    with Cloud(settings) as cloud:
        cloud.put_gallery(contract=contract_of(64), tau=0.9)
        cloud.enroll("anna", VECTORS[:1])
        yield cloud


def _until_ready(cloud: Cloud) -> None:
    for _ in range(100):
        if checks(cloud)["record"]:
            return
        time.sleep(0.1)
    pytest.fail("it did not become ready again")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_server_that_goes_away_is_told_and_when_it_is_back_all_goes_on(
    fragile: PostgresServer, shaken: Cloud, how: signal.Signals
) -> None:
    assert checks(shaken)["record"]
    fragile.stop(how)
    try:
        for answer in (
            shaken.enroll("ben", VECTORS[1:2], ids=["b" * 32]),
            shaken.identify(VECTORS[0]),
            shaken.verify("anna", VECTORS[0]),
            shaken.http.get("/v1/galleries"),
            shaken.http.delete("/v1/galleries/door/subjects/anna"),
        ):
            assert_problem(answer, 503, "record-unavailable")
            assert int(answer.headers["Retry-After"]) > 0
        assert not checks(shaken)["record"]
    finally:
        fragile.start()
    _until_ready(shaken)
    assert shaken.enroll("ben", VECTORS[1:2], ids=["b" * 32]).status_code == 201
    assert shaken.found(VECTORS[0]) == ["anna"]
    assert shaken.found(VECTORS[1]) == ["ben"]


def test_a_crash_of_the_server_under_load_loses_nothing_that_was_acknowledged(
    fragile: PostgresServer, shaken: Cloud
) -> None:
    acknowledged: set[str] = set()
    refused: list[int] = []
    over = threading.Event()

    def come(part: int) -> None:
        for number in range(part, len(VECTORS), 2):
            while shaken.enroll(f"s{number}", VECTORS[number : number + 1], ids=[f"{number:032x}"]).status_code != 201:
                refused.append(number)
                if over.is_set():
                    return
                time.sleep(0.05)
            acknowledged.add(f"s{number}")
            time.sleep(0.02)

    with ThreadPoolExecutor(2) as threads:
        writers = [threads.submit(come, part) for part in (0, 1)]
        time.sleep(0.4)
        fragile.stop(signal.SIGKILL)
        try:
            time.sleep(0.2)
        finally:
            fragile.start()
        _until_ready(shaken)
        time.sleep(2)
        over.set()
        for writer in writers:
            writer.result()
    assert refused
    assert len(acknowledged) > len(VECTORS) // 2
    for number, vector in enumerate(VECTORS):
        if f"s{number}" in acknowledged:
            assert f"s{number}" in shaken.found(vector)


def test_what_was_committed_while_the_server_went_away_is_searchable_once_it_is_acknowledged(
    fragile: PostgresServer, shaken: Cloud
) -> None:
    """The answer to COMMIT is lost: the record has the template, and the index must come to have it."""
    record = shaken.services.store.record
    writer = record.database._writer
    cut: list[int] = []

    class Cut:
        """Commits, and loses the connection before it hears of it."""

        def connect(self) -> Connection:
            connection: Connection = writer.connect()
            driver: Any = connection.connection.driver_connection
            commit = driver.commit

            def commit_unheard() -> None:
                commit()
                if not cut:
                    cut.append(1)
                    driver.pgconn.finish()
                    driver.execute("SELECT 1")

            driver.commit = commit_unheard
            return connection

    record.database._writer = Cut()
    problem = assert_problem(shaken.enroll("ben", VECTORS[1:2], ids=["b" * 32]), 503, "record-unavailable")
    assert problem["reason"] == "outcome_unknown"
    record.database._writer = writer
    assert shaken.found(VECTORS[1]) == ["ben"]
    assert shaken.enroll("ben", VECTORS[1:2], ids=["b" * 32]).status_code == 201
    assert shaken.held() == (2, 2)
    assert checks(shaken)["record"]


def test_a_server_that_hangs_hangs_nobody_here(fragile: PostgresServer, shaken: Cloud) -> None:
    fragile.freeze()
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(24) as threads:
            asked = [threads.submit(shaken.identify, VECTORS[0]) for _ in range(8)]
            asked += [threads.submit(shaken.enroll, f"s{n}", VECTORS[n : n + 1]) for n in range(8)]
            asked += [threads.submit(shaken.http.get, "/readyz") for _ in range(4)]
            statuses = [one.result().status_code for one in asked]
        assert set(statuses) <= {429, 503}
        assert time.monotonic() - began < 30
    finally:
        fragile.freeze(signal.SIGCONT)
    _until_ready(shaken)
    assert shaken.found(VECTORS[0]) == ["anna"]


def test_a_server_that_is_read_only_makes_the_service_not_ready_until_it_is_not(
    fragile: PostgresServer, shaken: Cloud
) -> None:
    name = database_of(str(shaken.settings.record.url))
    fragile.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    fragile.run(others)
    answer = shaken.enroll("ben", VECTORS[1:2])
    assert "read-only" in assert_problem(answer, 503, "record-unavailable")["detail"]
    assert not checks(shaken)["record"]
    assert shaken.found(VECTORS[0]) == ["anna"], "searching goes on"
    fragile.run(f"ALTER DATABASE {name} RESET default_transaction_read_only", others)
    assert checks(shaken)["record"], "it was tried with a real write"
    assert shaken.enroll("ben", VECTORS[1:2]).status_code == 201


@pytest.fixture
def small(fragile: PostgresServer) -> Iterator[Path]:
    """A disk of 16 MB that the server may write to."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = Path(tempfile.mkdtemp(prefix="patronus-small-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,uid=65534,gid=65534,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_of_the_server_is_told_and_when_there_is_room_all_goes_on(
    fragile: PostgresServer, small: Path, tmp_path: Path
) -> None:
    space = f"small_{secrets.token_hex(4)}"
    fragile.run(f"CREATE TABLESPACE {space} LOCATION '{small}'")
    url = fragile.new_url(f"TABLESPACE {space}")
    name = database_of(url)
    vectors = random_units(43, 400, 1024)
    try:
        with Cloud(Settings(home=tmp_path / "cloud", record=RecordSettings(url=url))) as cloud:
            cloud.put_gallery(contract=contract_of(1024), tau=0.9)
            assert cloud.enroll("anna", vectors[:1]).status_code == 201
            ballast = small / "ballast"
            ballast.write_bytes(bytes(_free(small) - 256 * 1024))
            acknowledged = []
            for number in range(1, len(vectors)):
                answer = cloud.enroll(f"s{number}", vectors[number : number + 1])
                if answer.status_code != 201:
                    break
                acknowledged.append(number)
            assert_problem(answer, 507, "insufficient-storage")
            assert int(answer.headers["Retry-After"]) > 0
            assert cloud.found(vectors[0]) == ["anna"], "searching goes on"
            assert all(cloud.found(vectors[one]) == [f"s{one}"] for one in acknowledged), "nothing acknowledged is lost"
            assert cloud.found(vectors[number]) == []
            erased = cloud.http.delete("/v1/galleries/door/subjects/anna")
            if erased.status_code == 507:  # its entry in the audit log needed a page, and there was none
                assert cloud.found(vectors[0]) == ["anna"], "nothing was changed"
                ballast.write_bytes(bytes(ballast.stat().st_size - 64 * 1024))
                erased = cloud.http.delete("/v1/galleries/door/subjects/anna")
            assert erased.status_code in (200, 202), "an erasure needs no room but for one entry"
            assert cloud.found(vectors[0]) == []
            ballast.unlink()
            assert checks(cloud)["record"]
            assert cloud.enroll(f"s{number}", vectors[number : number + 1]).status_code == 201
    finally:
        fragile.run(f"DROP DATABASE {name} WITH (FORCE)", f"DROP TABLESPACE {space}")


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _places(server: PostgresServer, vector: np.ndarray) -> set[str]:
    """The parts of the server's folder in which any sixteen bytes of a vector are left."""
    server.run("CHECKPOINT")
    raw = vector.astype("<f4").tobytes()
    pieces = [raw[at : at + 16] for at in range(0, len(raw) - 15, 16)]
    found = set()
    for file in server.data.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            if any(piece in content for piece in pieces):
                found.add(file.relative_to(server.data).parts[0])
    return found


def test_what_is_erased_is_gone_from_the_tables_once_they_are_rewritten_and_from_the_log_once_it_was_reused(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """What docs/operating.md tells an operator, as it is: PostgreSQL overwrites nothing by itself."""
    url = postgres.new_url()
    vectors = random_units(44, 6, 128)
    with Cloud(Settings(home=tmp_path / "cloud", record=RecordSettings(url=url))) as cloud:
        cloud.put_gallery(contract=contract_of(128), score={"rule": "best"})
        cloud.enroll("ben", vectors[:5])
        cloud.enroll("anna", vectors[-1:])
        assert _places(postgres, vectors[-1]) == {"base", "pg_wal"}
        assert cloud.http.delete("/v1/galleries/door/subjects/anna").status_code == 200
        assert cloud.found(vectors[-1]) == []
        assert _places(postgres, vectors[-1]) == {"base", "pg_wal"}, "free, and not overwritten"
        postgres.run("VACUUM FULL template", database=database_of(url))
        assert _places(postgres, vectors[-1]) == {"pg_wal"}
        assert cloud.found(vectors[0]) == ["ben"]
        postgres.run(  # more than the 8 MB of log that are kept
            "CREATE TABLE filler (a int)",
            "INSERT INTO filler SELECT generate_series(1, 400000)",
            database=database_of(url),
        )
        assert _places(postgres, vectors[-1]) == set()
