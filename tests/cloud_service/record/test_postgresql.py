"""PostgreSQL: durable, owned by one service at a time, and refused with one sentence where it cannot be used."""

from __future__ import annotations

import contextlib
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
from sqlalchemy import Connection, Engine, create_engine, insert, make_url, select, text, update

from cloud_service.audit.check import check, reading
from cloud_service.audit.log import HEAD, NO_ENTRY, Action, append, head
from cloud_service.record.database import Database
from cloud_service.record.opening import open_database
from cloud_service.record.tables import gallery, metadata, record_value
from cloud_service.settings import RecordSettings
from shared.errors import Overloaded, RecordUnavailable, SetupError
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units
from tests.support.damaging import checks
from tests.support.postgres_server import PostgresServer, database_of

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
    name = database_of(url)
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
        before = reader.scalars(select(record_value.c.name)).all()
        with database.write() as writer:
            writer.execute(insert(record_value).values(name="meanwhile", value="1"))
        assert reader.scalars(select(record_value.c.name)).all() == before
    with pytest.raises(RecordUnavailable, match="read-only"), database.read() as reader:
        reader.execute(insert(record_value).values(name="by a reader", value="1"))


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
        connection.execute(insert(record_value), [{"name": name, "value": "0"} for name in "ab"])
    both = threading.Barrier(2, timeout=10)

    def crosswise(order: str) -> bool:
        try:
            with database.write() as connection:
                connection.execute(update(record_value).where(record_value.c.name == order[0]).values(value=order))
                both.wait()
                connection.execute(update(record_value).where(record_value.c.name == order[1]).values(value=order))
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
            connection.execute(insert(record_value).values(name=f"by {number}", value="1"))
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
        connection.execute(insert(record_value).values(name="after", value="1"))
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
        assert not checks(cloud)["record"]
    other.close()
    time.sleep(1.1)
    assert_problem(cloud.enroll("anna", VECTORS[:1]), 503, "record-unavailable", "taken_over")
    assert not checks(cloud)["record"], "what is in its memory may be outdated: it must be restarted"


def test_a_write_that_was_begun_before_the_record_was_taken_over_is_not_committed_after(
    postgres: PostgresServer, url: str
) -> None:
    """The lock is lost while a transaction runs, unnoticed: the new owner waits for it, or it is refused."""
    first = open_database(url, RecordSettings(), 4)
    second: list[Database] = []
    with first.write() as connection:
        connection.execute(insert(record_value).values(name="during", value="1"))
        _cut_lock(postgres)
        taking = threading.Thread(target=lambda: second.append(open_database(url, RecordSettings(), 4)))
        taking.start()
        taking.join(0.5)
        assert not second, "it waits for those who write"
    taking.join(10)
    with second[0].read() as connection:
        assert connection.scalar(select(record_value.c.value).where(record_value.c.name == "during")) == "1"
    first._check_owner = lambda: None  # type: ignore[method-assign] - the loss is not noticed in time
    with pytest.raises(RecordUnavailable, match="taken the record over"), first.write():
        pytest.fail("it must not come to write")
    for each in (first, *second):
        each.close()


def test_the_room_of_what_was_erased_is_freed_at_once(database: Database, url: str, postgres: PostgresServer) -> None:
    database.scrub()
    for _ in range(50):
        count = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'template'"
        if postgres.run(count, database=database_of(url)) == [(1,)]:
            return
        time.sleep(0.1)
    pytest.fail("the table was not vacuumed")


# ---- at the start


def test_a_start_that_cannot_reach_or_use_the_server_says_why_in_one_sentence(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    name = database_of(url)
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


def test_services_that_write_at_the_same_moment_make_one_chain_of_the_audit_log(url: str) -> None:
    url = make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    first = create_engine(url)
    metadata.create_all(first)
    with first.begin() as connection:
        connection.execute(insert(record_value).values(name=HEAD, value=f"0:{NO_ENTRY}"))
    first.dispose()

    def write(engine: Engine, by: str) -> None:
        for number in range(25):
            with engine.begin() as connection:
                append(connection, Action.TEMPLATES_ENROLLED, by=by, gallery="door", details={"templates": number})
                if number % 5 == 4:
                    connection.rollback()  # what was undone was never in the log, and leaves no gap

    engines = [create_engine(url, isolation_level="READ COMMITTED") for _ in range(6)]
    writers = [threading.Thread(target=write, args=(engine, f"{at:012x}")) for at, engine in enumerate(engines)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for engine in engines:
        engine.dispose()
    with reading(url) as connection:
        found = check(connection)
        assert (found.head.seq, found.wrong) == (6 * 20, None)
        assert head(connection) == found.head
