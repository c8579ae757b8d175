"""After an erasure has been answered, no file under the data folder holds any part of the vector."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, insert

from cloud_service.bootstrap import clock_of
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.opening import open_database, upgrade
from cloud_service.record.record import Record
from cloud_service.record.sqlite import SqliteDatabase
from cloud_service.record.tables import subject
from cloud_service.settings import RecordSettings, RetentionSettings, Settings
from cloud_service.subjects.enrollment import Enrollment, NewVector
from shared.wire.cloud import GallerySpec
from shared.wire.common import NewThreshold
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units

DIMS = [8, 128, 512, 1500]  # within a page of SQLite, and spilling over to others
ID = "1" * 32


def _places(folder: Path, vector: np.ndarray) -> int:
    """How many parts of the vector (whole, halves, sixteen-byte pieces) the files hold."""
    raw = vector.astype("<f4").tobytes()
    half = len(raw) // 2
    parts = {raw, raw[:half], raw[half:], *(raw[at : at + 16] for at in range(0, len(raw) - 15, 16))}
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    return sum(part in content for part in parts for content in files)


def _prepare(cloud: Cloud, dim: int) -> tuple[np.ndarray, np.ndarray]:
    cloud.put_gallery(contract=contract_of(dim))
    erased, *kept = random_units(dim, 30, dim)
    cloud.enroll("ben", kept[:15])
    cloud.enroll("anna", [erased], ids=[ID])
    cloud.enroll("carl", kept[15:])
    assert _places(cloud.settings.home, erased) > 0
    return erased, kept[0]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("path", ["/subjects/anna/templates/" + ID, "/subjects/anna", ""])
def test_an_erased_vector_is_nowhere_on_the_disk(cloud: Cloud, dim: int, path: str) -> None:
    erased, kept = _prepare(cloud, dim)
    assert cloud.http.delete(f"/v1/galleries/door{path}").status_code == 200
    assert _places(cloud.settings.home, erased) == 0
    assert (_places(cloud.settings.home, kept) > 0) is bool(path)


def test_many_erasures_in_any_order_leave_nothing(client: Cloud) -> None:
    vectors = random_units(5, 120)
    for number, vector in enumerate(vectors):
        client.enroll(f"s{number:03}", [vector])
    order = np.random.default_rng(6).permutation(len(vectors))
    for number in order[:60]:
        assert client.http.delete(f"/v1/galleries/door/subjects/s{number:03}").status_code == 200
    assert all(_places(client.settings.home, vectors[number]) == 0 for number in order[:60])
    assert all(_places(client.settings.home, vectors[number]) > 0 for number in order[60:])


def _come_and_go(database: SqliteDatabase, folder: Path, seed: int, *, scrub: bool) -> tuple[list[bytes], list[bytes]]:
    """Many people enroll and are erased, so that SQLite balances its pages; the vectors that are there, and are not.

    The seeds are those at which SQLite leaves copies: of four, about one.
    """
    clock = clock_of(RetentionSettings())
    record = Record(database, Snapshots(database, folder / "index"), 10_000, 100, clock)
    spec = {"contract": contract_of(8).model_dump(), "threshold": {"cosine": 0.5, "fmr": 0.001}}
    gallery, _ = record.put_gallery("door", GallerySpec.model_validate(spec), by=None)
    chance, there, gone = random.Random(seed), dict[str, list[bytes]](), list[bytes]()
    vectors = iter(random_units(seed, 900))
    for number in range(300):
        if len(there) < 40 or chance.random() < 0.5:
            rows = {f"{chance.getrandbits(128):032x}": next(vectors) for _ in range(chance.randint(1, 3))}
            new = {uid: NewVector(vector) for uid, vector in rows.items()}
            Enrollment(record).add(gallery, {f"s{number}": new}, by=None)
            there[f"s{number}"] = [vector.tobytes() for vector in rows.values()]
        else:
            name = chance.choice(sorted(there))
            record.erase_subject(gallery, name, by=None)
            gone += there.pop(name)
            if scrub:
                database.scrub()
    return [vector for vectors in there.values() for vector in vectors], gone


def _held(folder: Path, vectors: list[bytes]) -> int:
    content = b"".join(file.read_bytes() for file in folder.iterdir())
    return sum(vector in content for vector in vectors)


def _opened(record: Path) -> SqliteDatabase:
    return SqliteDatabase(f"sqlite:///{record}", record, busy_seconds=1, connections=3)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    opened = _opened(tmp_path / "data" / "record.db")
    upgrade(opened)
    yield opened
    opened.close()


@pytest.mark.slow(reason="fills pages until they are balanced")
@pytest.mark.parametrize("seed", [1, 3])
def test_copies_that_sqlite_leaves_where_it_balances_its_pages_are_overwritten_too(
    database: SqliteDatabase, seed: int, tmp_path: Path
) -> None:
    there, gone = _come_and_go(database, tmp_path, seed, scrub=True)
    assert _held(tmp_path / "data", gone) == 0
    assert _held(tmp_path / "data", there) == len(there)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_start_after_a_crash_overwrites_what_was_left_wherever_it_is(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    there, gone = _come_and_go(database, tmp_path, 1, scrub=False)
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    assert _held(tmp_path / "crashed", gone) > 0
    _opened(tmp_path / "crashed" / "record.db").close()
    assert _held(tmp_path / "crashed", gone) == 0
    assert _held(tmp_path / "crashed", there) == len(there)


@contextmanager
def _long_read(folder: Path) -> Iterator[None]:
    """Somebody else, such as a backup, who reads the record and does not end."""
    reader = sqlite3.connect(folder / "record.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM template").fetchone()
    try:
        yield
    finally:
        reader.close()


@pytest.fixture
def impatient(settings: Settings) -> Settings:
    quick = {"record": RecordSettings(busy_timeout_s=0.05), "retention": RetentionSettings(overwrite_interval_s=0.05)}
    return settings.model_copy(update=quick)


def _pending(cloud: Cloud, erased: dict[str, Any]) -> list[str]:
    """Where an erasure's status says that bytes may still be."""
    status = cloud.http.get(f"/v1/galleries/door/erasures/{erased['receipt']['id']}").json()
    assert status["receipt"] == erased["receipt"]
    assert (status["subjects"], status["templates"]) == (erased["subjects"], erased["templates"])
    assert status["status"] == ("pending" if status["pending"] else "done")
    assert status["due_by"][:10] > erased["receipt"]["at"][:10]
    pending: list[str] = status["pending"]
    return pending


def _age_of_oldest(cloud: Cloud) -> float:
    exposed = cloud.http.get("/metrics").text.splitlines()
    [line] = [line for line in exposed if line.startswith("patronus_cloud_erasure_pending_seconds ")]
    return float(line.split()[1])


def test_an_erasure_whose_bytes_cannot_be_overwritten_yet_says_so_until_they_are(impatient: Settings) -> None:
    with Cloud(impatient) as cloud:
        erased, kept = _prepare(cloud, 128)
        assert _age_of_oldest(cloud) == 0
        with _long_read(impatient.home):
            answer = cloud.http.delete("/v1/galleries/door/subjects/anna")
            assert answer.status_code == 202
            assert answer.json()["pending"] == ["write-ahead log"]
            assert cloud.found(erased) == [], "erased all the same"
            assert_problem(cloud.verify("anna", erased), 404, "not-found", "unknown_subject")
            again = cloud.http.delete("/v1/galleries/door/subjects/anna")
            assert_problem(again, 404, "not-found", "unknown_subject")
            other = cloud.http.delete("/v1/galleries/door/subjects/ben")
            assert other.status_code == 202, "the next one is not held up by the one before"
            assert _pending(cloud, answer.json()) == _pending(cloud, other.json()) == ["write-ahead log"]
            assert _places(impatient.home, erased) > 0, "as was said"
            time.sleep(0.3)
            assert _age_of_oldest(cloud) > 0.2
            assert cloud.enroll("dora", [erased]).status_code == 201, "writers go on"
            assert cloud.http.delete("/v1/galleries/door/subjects/dora").status_code == 202
        for _ in range(100):
            if not _pending(cloud, other.json()):
                break
            time.sleep(0.05)
        assert _pending(cloud, answer.json()) == _pending(cloud, other.json()) == []
        assert _places(impatient.home, erased) == _places(impatient.home, kept) == 0
        assert _age_of_oldest(cloud) == 0


def test_a_file_of_the_index_that_cannot_be_taken_away_is_told_as_pending(
    impatient: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_path: Path) -> None:
        raise OSError(errno.EIO, "as a disk fails")

    with Cloud(impatient) as cloud:
        _prepare(cloud, 8)
        in_the_way = impatient.home / "index" / f"{'0' * 32}.segment"
        in_the_way.parent.mkdir()
        in_the_way.write_bytes(b"of what was erased")
        with monkeypatch.context() as patched:
            patched.setattr(Snapshots, "_erase", staticmethod(failing))
            answer = cloud.http.delete("/v1/galleries/door/subjects/anna")
        assert (answer.status_code, answer.json()["pending"]) == (202, ["index files"])
        cloud.services.store.finish_erasures()
        assert _pending(cloud, answer.json()) == []
        assert not in_the_way.exists()


def test_a_service_that_ends_before_it_could_overwrite_leaves_that_to_its_next_start(impatient: Settings) -> None:
    with ExitStack() as read, Cloud(impatient) as cloud:
        erased, _kept = _prepare(cloud, 128)
        read.enter_context(_long_read(impatient.home))
        answer = cloud.http.delete("/v1/galleries/door/subjects/anna")
        assert (answer.status_code, _pending(cloud, answer.json())) == (202, ["write-ahead log"])
    with Cloud(impatient) as cloud:
        assert _places(impatient.home, erased) == 0
        assert _pending(cloud, answer.json()) == []


def test_the_next_start_empties_the_log_that_a_crash_left(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        erased, _kept = _prepare(cloud, 128)
        record = cloud.services.store.record
        record.erase_subject(record.gallery("door"), "anna", by=None)  # committed, and killed before the log is emptied
        left = {file.name: file.read_bytes() for file in settings.home.iterdir()}
    for name, content in left.items():
        (settings.home / name).write_bytes(content)
    assert _places(settings.home, erased) > 0
    with Cloud(settings):
        assert _places(settings.home, erased) == 0


def test_no_table_but_that_of_the_templates_ever_held_the_vector(client: Cloud) -> None:
    vector = random_units(8, 1, 8)[0]
    client.enroll("anna", [vector])
    raw = vector.astype("<f4").tobytes()
    with sqlite3.connect(f"file:{client.settings.home / 'record.db'}?mode=ro", uri=True) as record:
        tables = [name for (name,) in record.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {"audit", "outbox", "record_value"} < set(tables)
        holding = []
        for table in tables:
            for row in record.execute(f"SELECT * FROM {table}"):
                shown = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
                if any(piece in shown for piece in (raw, raw[:16], raw.hex().encode(), str(vector[0]).encode())):
                    holding.append(table)
    record.close()
    assert holding == ["template"]


def test_only_the_owner_may_read_the_data(client: Cloud) -> None:
    client.enroll("anna", random_units(1, 1))
    assert client.settings.home.stat().st_mode & 0o777 == 0o700
    files = {file.name: file.stat().st_mode & 0o777 for file in client.settings.home.iterdir()}
    assert {"record.db", "record.db-wal", "record.db-shm", "api_key", "api_keys.json"} <= set(files)
    assert set(files.values()) == {0o600}


def test_a_copy_of_a_name_in_a_page_of_an_index_is_overwritten(settings: Settings) -> None:
    """SQLite leaves some where it splits pages of the index of names, one of some thousands."""
    settings.home.mkdir(mode=0o700)
    database = open_database(settings.record_url, RecordSettings(), 2)
    chance = random.Random(3)
    names = [f"{chance.choice('abcdefgh')}{at:05d}-{'y' * chance.randrange(3, 100)}" for at in range(6000)]
    spec = GallerySpec(contract=contract_of(), threshold=NewThreshold(cosine=0.5, fmr=0.1))
    record = Record(database, Snapshots(database, settings.home / "index"), 10**6, 10, clock_of(RetentionSettings()))
    pinned, _ = record.put_gallery("door", spec, None)
    now = record.clock.now()
    with database.write() as connection:
        connection.execute(
            insert(subject), [{"gallery_id": pinned.id, "name": one, "created_at": now} for one in names]
        )

    def often(name: str, more_than: int) -> bool:
        return sum(file.read_bytes().count(name.encode()) for file in settings.home.iterdir()) > more_than

    content = b"".join(file.read_bytes() for file in settings.home.iterdir())
    copied = [name for name in names if content.count(name.encode()) > 2]  # one in the table, one in the index
    assert copied
    with database.write() as connection:
        connection.execute(delete(subject).where(subject.c.name.in_(copied)))
    database.scrub()
    assert not [name for name in copied if often(name, 0)]
    assert often(names[0], 1), "who was not erased is there"
    database.close()
