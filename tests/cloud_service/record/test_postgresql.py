"""PostgreSQL: what it is asked to hold to, whose it is, and what callers are told when it is away, slow or full."""

from __future__ import annotations

import contextlib
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
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, make_url, select, text, update

from cloud_service.record.database import Database
from cloud_service.record.opening import open_database
from cloud_service.record.tables import gallery, metadata, note
from cloud_service.settings import RecordSettings, Settings
from shared.errors import Overloaded, RecordUnavailable, SetupError
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units
from tests.support.postgres_server import PostgresServer, served

VECTORS = random_units(41, 40, 64)
QUICK = RecordSettings(busy_timeout_s=0.3, statement_timeout_s=1.0)


@pytest.fixture
def engine() -> str:
    return "postgresql"


@pytest.fixture
def url(record_url: str | None) -> str:
    assert record_url is not None
    return record_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url, QUICK, 4)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def fragile(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of its own for those who stop, kill and freeze it; it loses nothing in a crash."""
    yield from served("fsync=on")


@pytest.fixture
def shaken(fragile: PostgresServer, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud, impatient, with a gallery, on a server that is going to be away."""
    settings = Settings(home=tmp_path / "cloud", record=QUICK.model_copy(update={"url": _new(fragile)}))
    with Cloud(settings) as cloud:
        cloud.put_gallery(contract=contract_of(64), tau=0.9)
        cloud.enroll("anna", VECTORS[:1])
        yield cloud


def _new(server: PostgresServer, options: str = "") -> str:
    return server.url(server.new_database(options))


def _name(url: str) -> str:
    return str(make_url(url).database)


def _ready(cloud: Cloud) -> bool:
    answer = cloud.http.get("/readyz")
    assert answer.status_code == (200 if answer.json()["checks"]["record"] else 503)
    return bool(answer.json()["checks"]["record"])


def _until_ready(cloud: Cloud) -> None:
    for _ in range(100):
        if _ready(cloud):
            return
        time.sleep(0.1)
    pytest.fail("it did not become ready again")


def _setting(connection: Connection, name: str) -> Any:
    return connection.scalar(text(f"SHOW {name}"))


def test_the_migrations_make_the_tables_that_the_queries_use(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_names_are_in_the_order_of_their_bytes_whatever_the_servers_locale(database: Database) -> None:
    with database.read() as connection:
        query = "SELECT table_name, column_name FROM information_schema.columns WHERE collation_name = 'C'"
        ordered = {tuple(row) for row in connection.execute(text(query))}
    assert {("gallery", "name"), ("subject", "name"), ("template", "uid")} <= ordered


def test_a_commit_is_durable_and_no_wait_is_without_end(database: Database) -> None:
    with database.write() as connection:
        assert _setting(connection, "synchronous_commit") == "on", "the server's own is off"
        assert _setting(connection, "lock_timeout") == "300ms"
        assert _setting(connection, "statement_timeout") == "1s"
        assert _setting(connection, "idle_in_transaction_session_timeout") == "1min"
        assert _setting(connection, "transaction_isolation") == "read committed"
    with database.write(long=True) as connection:
        assert _setting(connection, "statement_timeout") == "10min"
    with database.write() as connection:
        assert _setting(connection, "statement_timeout") == "1s", "for one transaction only"


def test_a_stricter_commit_is_left_as_it_is(postgres: PostgresServer, url: str) -> None:
    name = _name(url)
    postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = 'remote_apply'")
    try:
        database = open_database(url, QUICK, 2)
        with database.read() as connection:
            assert _setting(connection, "synchronous_commit") == "remote_apply"
        database.close()
    finally:
        postgres.run(f"ALTER DATABASE {name} RESET synchronous_commit")


def test_a_reader_sees_one_state_throughout_and_cannot_write(database: Database) -> None:
    with database.read() as reader:
        before = reader.scalars(select(note.c.name)).all()
        with database.write() as writer:
            writer.execute(insert(note).values(name="meanwhile", value="1"))
        assert reader.scalars(select(note.c.name)).all() == before
    with pytest.raises(RecordUnavailable, match="read-only"), database.read() as reader:
        reader.execute(insert(note).values(name="by a reader", value="1"))


def _a_gallery(connection: Connection) -> None:
    values = {"name": "door", "contract": {}, "contract_digest": "0" * 64, "dim": 8, "threshold_cosine": 0.5}
    now = {"threshold_fmr": 0.1, "created_at": np.datetime64("2026-01-01", "s").astype(object).astimezone()}
    connection.execute(insert(gallery).values(**values, **now))


def test_who_waits_for_another_writer_of_a_gallery_is_told_to_come_again(database: Database) -> None:
    with database.write() as connection:
        _a_gallery(connection)
    change = update(gallery).values(templates=gallery.c.templates + 1)
    with database.write() as first:
        first.execute(change)
        with pytest.raises(Overloaded), database.write() as second:
            second.execute(change)
    with database.read() as connection:
        assert connection.scalar(select(gallery.c.templates)) == 1


def test_of_two_who_write_the_same_at_once_the_second_is_told_to_come_again(database: Database) -> None:
    with database.write() as connection:
        _a_gallery(connection)
    with pytest.raises(Overloaded), database.write() as connection:
        _a_gallery(connection)


def test_a_deadlock_is_told_as_a_clash_and_one_of_the_two_goes_on(url: str) -> None:
    database = open_database(url, QUICK.model_copy(update={"busy_timeout_s": 20, "statement_timeout_s": 30}), 4)
    with database.write() as connection:
        connection.execute(insert(note), [{"name": name, "value": "0"} for name in "ab"])
    both = threading.Barrier(2, timeout=10)

    def crosswise(order: str) -> bool:
        try:
            with database.write() as connection:
                connection.execute(update(note).where(note.c.name == order[0]).values(value=order))
                both.wait()
                connection.execute(update(note).where(note.c.name == order[1]).values(value=order))
        except Overloaded:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(crosswise, ("ab", "ba"))) == [False, True]
    database.close()


def test_a_slow_statement_is_broken_off(database: Database) -> None:
    began = time.monotonic()
    with pytest.raises(RecordUnavailable), database.read() as connection:
        connection.execute(text("SELECT pg_sleep(30)"))
    assert time.monotonic() - began < 10


def test_ids_are_not_used_again_not_even_those_of_what_was_undone(database: Database) -> None:
    undone = 0
    with contextlib.suppress(ZeroDivisionError), database.write() as connection:
        _a_gallery(connection)
        undone = connection.scalar(select(gallery.c.id)) // 1
        undone // 0
    assert undone
    with database.write() as connection:
        _a_gallery(connection)
        assert connection.scalar(select(gallery.c.id)) > undone


# ---- whose it is


def test_a_second_service_is_refused_until_the_first_is_closed(url: str) -> None:
    first = open_database(url, QUICK, 2)
    for shared in (False, True):
        with pytest.raises(SetupError, match="A cloud service is using"):
            open_database(url, QUICK, 2, shared=shared)
    first.close()
    open_database(url, QUICK, 2).close()


def test_several_that_share_it_keep_out_the_one_that_does_not(url: str) -> None:
    shared = [open_database(url, QUICK, 2, shared=True) for _ in range(2)]
    for number, each in enumerate(shared):
        with each.write() as connection:
            connection.execute(insert(note).values(name=f"by {number}", value="1"))
    with pytest.raises(SetupError, match="A cloud service is using"):
        open_database(url, QUICK, 2)
    for each in shared:
        each.close()
    open_database(url, QUICK, 2).close()


def test_several_that_start_at_once_make_the_tables_once(url: str) -> None:
    patient = RecordSettings(url=url)
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: open_database(url, patient, 2, shared=True), range(4)))
    for each in opened:
        each.ping()
        each.close()


def _cut_lock(server: PostgresServer) -> None:
    """Ends the connections that hold advisory locks, as a restart or a firewall does."""
    assert server.run("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    for _ in range(100):
        if not server.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"):
            return
        time.sleep(0.02)


def test_a_lost_lock_is_got_back_before_the_next_write(postgres: PostgresServer, database: Database, url: str) -> None:
    _cut_lock(postgres)
    with database.write() as connection:
        connection.execute(insert(note).values(name="after", value="1"))
    with pytest.raises(SetupError, match="A cloud service is using"):
        open_database(url, QUICK, 2)


def test_who_lost_the_record_to_another_neither_writes_nor_reads_it_any_more(
    postgres: PostgresServer, cloud: Cloud, url: str
) -> None:
    cloud.put_gallery(contract=contract_of(64))
    _cut_lock(postgres)
    other = open_database(url, QUICK, 2)
    for _ in range(2):
        answer = cloud.enroll("anna", VECTORS[:1])
        assert_problem(answer, 503, "record-unavailable", "taken_over")
        assert int(answer.headers["Retry-After"]) > 0
        assert_problem(cloud.identify(VECTORS[0]), 503, "record-unavailable", "taken_over")
        assert not _ready(cloud)
    other.close()
    time.sleep(1.1)
    assert_problem(cloud.enroll("anna", VECTORS[:1]), 503, "record-unavailable", "taken_over")
    assert not _ready(cloud), "what is in its memory may be outdated: it must be restarted"


def test_a_write_that_was_begun_before_the_record_was_taken_over_is_not_committed_after(
    postgres: PostgresServer, url: str
) -> None:
    """The lock is lost while a transaction runs, unnoticed: the new owner waits for it, or it is refused."""
    first = open_database(url, RecordSettings(), 4)
    second: list[Database] = []
    with first.write() as connection:
        connection.execute(insert(note).values(name="during", value="1"))
        _cut_lock(postgres)
        taking = threading.Thread(target=lambda: second.append(open_database(url, RecordSettings(), 4)))
        taking.start()
        taking.join(0.5)
        assert not second, "it waits for those who write"
    taking.join(10)
    with second[0].read() as connection:
        assert connection.scalar(select(note.c.value).where(note.c.name == "during")) == "1"
    first._make_sure = lambda: None  # type: ignore[method-assign] - the loss is not noticed in time
    with pytest.raises(RecordUnavailable, match="taken the record over"), first.write():
        pytest.fail("it must not come to write")
    for each in (first, *second):
        each.close()


# ---- away, slow, full, read-only


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_server_that_goes_away_is_told_and_when_it_is_back_all_goes_on(
    fragile: PostgresServer, shaken: Cloud, how: signal.Signals
) -> None:
    assert _ready(shaken)
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
        assert not _ready(shaken)
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
    assert _ready(shaken)


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
    name = _name(str(shaken.settings.record.url))
    fragile.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    fragile.run(others)
    answer = shaken.enroll("ben", VECTORS[1:2])
    assert "read-only" in assert_problem(answer, 503, "record-unavailable")["detail"]
    assert not _ready(shaken)
    assert shaken.found(VECTORS[0]) == ["anna"], "searching goes on"
    fragile.run(f"ALTER DATABASE {name} RESET default_transaction_read_only", others)
    assert _ready(shaken), "it was tried with a real write"
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
    url = _new(fragile, f"TABLESPACE {space}")
    name = _name(url)
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
            assert erased.status_code in (200, 202), "an erasure needs no room, but for making some"
            assert cloud.found(vectors[0]) == []
            ballast.unlink()
            assert _ready(cloud)
            assert cloud.enroll(f"s{number}", vectors[number : number + 1]).status_code == 201
    finally:
        fragile.run(f"DROP DATABASE {name} WITH (FORCE)", f"DROP TABLESPACE {space}")


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


# ---- what is left of what was erased


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


def test_what_is_erased_is_gone_from_the_tables_once_they_are_written_anew_and_from_the_log_once_it_was_reused(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """What docs/operating.md tells an operator, as it is: PostgreSQL overwrites nothing by itself."""
    url = _new(postgres)
    vectors = random_units(44, 6, 128)
    with Cloud(Settings(home=tmp_path / "cloud", record=RecordSettings(url=url))) as cloud:
        cloud.put_gallery(contract=contract_of(128))
        cloud.enroll("ben", vectors[:5])
        cloud.enroll("anna", vectors[-1:])
        assert _places(postgres, vectors[-1]) == {"base", "pg_wal"}
        assert cloud.http.delete("/v1/galleries/door/subjects/anna").status_code == 200
        assert cloud.found(vectors[-1]) == []
        assert _places(postgres, vectors[-1]) == {"base", "pg_wal"}, "free, and not overwritten"
        postgres.run("VACUUM FULL template", database=_name(url))
        assert _places(postgres, vectors[-1]) == {"pg_wal"}
        assert cloud.found(vectors[0]) == ["ben"]
        postgres.run(  # more than the 8 MB of log that are kept
            "CREATE TABLE filler (a int)",
            "INSERT INTO filler SELECT generate_series(1, 400000)",
            database=_name(url),
        )
        assert _places(postgres, vectors[-1]) == set()


def test_the_room_of_what_was_erased_is_freed_at_once(database: Database, url: str, postgres: PostgresServer) -> None:
    database.scrub()
    for _ in range(50):
        count = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'template'"
        if postgres.run(count, database=_name(url)) == [(1,)]:
            return
        time.sleep(0.1)
    pytest.fail("the table was not vacuumed")


# ---- at the start


def test_a_start_that_cannot_reach_or_use_the_server_says_why_in_one_sentence(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    name = _name(url)
    postgres.run("DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN PASSWORD 'hush-guest'")
    postgres.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database=name)
    for wrong, said in (
        ("postgresql://patronus:hush-away@127.0.0.1:1/record", "cannot be reached"),
        (f"postgresql://patronus:hush-away@/record?host={tmp_path}", "cannot be reached"),
        (postgres.url(name, password="hush-wrong"), "does not accept the user or password"),
        (postgres.url("nowhere"), "no such database"),
        (postgres.url(name, user="guest", password="hush-guest"), "may not make or change tables"),
    ):
        with pytest.raises(SetupError, match=said) as refused:
            open_database(wrong, QUICK, 2)
        assert "hush" not in refused.value.detail
        assert "\n" not in refused.value.detail
    open_database(url, QUICK, 2).close()
