"""The database is one private SQLite file, durable, used by one process, and brought up to date at each start."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, text
from sqlalchemy.exc import OperationalError

from cloud_service.bootstrap import open_store
from cloud_service.record.database import Database
from cloud_service.record.opening import open_database
from cloud_service.record.sqlite import SqliteDatabase
from cloud_service.record.tables import metadata
from cloud_service.settings import RecordSettings, Settings
from shared.errors import Overloaded, SetupError
from shared.metrics import Metrics
from tests.support.cloud_client import Cloud, assert_problem


def _opened(path: Path, busy_seconds: float = 0.05) -> Database:
    return open_database(f"sqlite:///{path}", RecordSettings(busy_timeout_s=busy_seconds), 2)


def test_the_migrations_make_the_tables_that_the_queries_use(tmp_path: Path) -> None:
    database = _opened(tmp_path / "record.db")
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def test_the_record_is_durable_and_overwrites_what_it_deletes(tmp_path: Path) -> None:
    database = _opened(tmp_path / "record.db")
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "temp_store": 2}
    with database.write() as connection:
        assert {name: connection.scalar(text(f"PRAGMA {name}")) for name in wanted} == wanted
    database.close()


def test_a_second_store_on_the_same_record_is_refused_until_the_first_is_closed(settings: Settings) -> None:
    first = open_store(settings, Metrics("cloud"))
    with pytest.raises(SetupError, match="A cloud service is using"):
        open_store(settings, Metrics("cloud"))
    first.close()
    open_store(settings, Metrics("cloud")).close()


def test_a_record_of_no_bytes_was_lost_for_no_start_leaves_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = settings.home / "record.db"

    def killed(_database: SqliteDatabase) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SqliteDatabase, "_start", killed)
    with pytest.raises(KeyboardInterrupt):
        open_store(settings, Metrics("cloud"))
    monkeypatch.undo()
    assert record.stat().st_mode & 0o777 == 0o600
    open_store(settings, Metrics("cloud")).close()
    record.write_bytes(b"")
    with pytest.raises(SetupError, match=r"has no bytes.*backup.*delete the file"):
        open_store(settings, Metrics("cloud"))
    record.unlink()
    open_store(settings, Metrics("cloud")).close()


def test_a_record_of_a_newer_version_is_refused_and_let_go_of(settings: Settings) -> None:
    open_store(settings, Metrics("cloud")).close()
    file = sqlite3.connect(settings.home / "record.db")
    file.execute("UPDATE alembic_version SET version_num = '9999'")
    file.commit()
    for _ in range(2):
        with pytest.raises(SetupError, match="newer version"):
            open_store(settings, Metrics("cloud"))
    file.execute("UPDATE alembic_version SET version_num = '0007'")
    file.commit()
    file.close()
    open_store(settings, Metrics("cloud")).close()


def test_what_is_not_a_sound_database_is_refused(settings: Settings) -> None:
    settings.home.mkdir()
    (settings.home / "record.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(SetupError, match="not a sound SQLite file"):
        open_store(settings, Metrics("cloud"))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/db", "no url"])
def test_only_a_sqlite_file_and_postgresql_are_taken(url: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="looks like") as refused:
        open_store(Settings(home=tmp_path, record=RecordSettings(url=url)), Metrics("cloud"))
    assert "secret" not in refused.value.detail


def test_a_sqlite_file_is_not_shared(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="PostgreSQL"):
        open_database(f"sqlite:///{tmp_path / 'record.db'}", RecordSettings(), 2, shared=True)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match="PATRONUS_CLOUD__HOME"):
        _opened(tmp_path / "file" / "record.db")


def test_a_record_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record.db").mkdir()
    with pytest.raises(SetupError, match="cannot be opened"):
        _opened(tmp_path / "record.db")


def test_a_write_takes_its_right_at_once_so_that_two_cannot_deadlock(tmp_path: Path) -> None:
    database = _opened(tmp_path / "record.db")
    with database.write(), pytest.raises(Overloaded), database.write():
        pytest.fail("two writers at once")
    database.close()


def test_a_writer_does_not_keep_readers_out(tmp_path: Path) -> None:
    database = _opened(tmp_path / "record.db")
    answered = threading.Event()

    def ping() -> None:
        database.ping()
        answered.set()

    with database.write():
        threading.Thread(target=ping).start()
        assert answered.wait(5)
    database.close()


def test_other_errors_of_the_database_are_not_called_busy(tmp_path: Path) -> None:
    database = _opened(tmp_path / "record.db")
    with pytest.raises(OperationalError), database.write() as connection:
        connection.execute(text("DROP TABLE nothing"))
    with pytest.raises(Exception, match="NOT NULL"), database.write() as connection:
        connection.execute(insert(metadata.tables["subject"]).values(gallery_id=1))
    database.close()


def test_a_record_that_is_written_by_another_is_answered_as_overload(settings: Settings) -> None:
    impatient = settings.model_copy(update={"record": RecordSettings(busy_timeout_s=0.05)})
    with Cloud(impatient) as cloud:
        other = sqlite3.connect(settings.home / "record.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = cloud.put_gallery()
        assert_problem(answer, 429, "overloaded")
        assert answer.headers["Retry-After"] == "1"
        other.execute("ROLLBACK")
        other.close()
        assert cloud.put_gallery().status_code == 201


def test_a_record_that_does_not_answer_makes_the_service_not_ready(client: Cloud) -> None:
    with client.services.store.record.database.write() as connection:
        connection.execute(text("ALTER TABLE gallery RENAME TO hidden"))
    answer = client.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {
        "record": False,
        "galleries": True,
        "templates": True,
        "index": True,
        "keys": True,
    }


def test_a_full_disk_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("CREATE TABLE a (b)").execute("INSERT INTO a VALUES (zeroblob(100000))")
    connection.close()
    path = tmp_path / "record.db"
    with closing(SqliteDatabase(f"sqlite:///{path}", path, busy_seconds=1, connections=1)) as database:
        assert "make room" in database.unusable(full.value).detail
        assert "backup" in database.unusable(sqlite3.DatabaseError()).detail


def test_damage_within_the_file_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    open_store(settings, Metrics("cloud")).close()
    path = tmp_path / "record.db"
    content = bytearray(path.read_bytes())
    content[5000:] = np.random.default_rng(0).bytes(len(content) - 5000)
    path.write_bytes(content)
    with pytest.raises(SetupError, match="restore it from a backup"):
        open_store(settings, Metrics("cloud"))
