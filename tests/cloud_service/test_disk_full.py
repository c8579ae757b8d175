"""On a full or read-only disk, errors say so, nothing acknowledged is lost, and all works again when there is room."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event

from cloud_service.record.exclusive import ReadOnlyMode
from cloud_service.settings import Settings
from shared.errors import Overloaded, SetupError
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units

VECTORS = random_units(51, 300, 1024)
_SLOW = pytest.mark.slow(reason="fills a disk that it mounts")


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _ready(cloud: Cloud) -> bool:
    answer = cloud.http.get("/readyz")
    checks = answer.json()["checks"]
    assert checks["index"]
    assert answer.status_code == (200 if checks["record"] else 503)
    return bool(checks["record"])


def _opened(cloud: Cloud) -> None:
    cloud.put_gallery(contract=contract_of(1024), tau=0.9)
    assert cloud.enroll("anna", VECTORS[:1]).status_code == 201


def _until_full(cloud: Cloud) -> int:
    """How many were enrolled, ``s1`` and so on, before the disk was full."""
    for number in range(1, len(VECTORS)):
        answer = cloud.enroll(f"s{number}", VECTORS[number : number + 1])
        if answer.status_code != 201:
            assert_problem(answer, 507, "insufficient-storage")
            assert int(answer.headers["Retry-After"]) > 0
            return number - 1
    raise AssertionError("the disk was not full")


def _lost(cloud: Cloud, enrolled: int) -> list[int]:
    return [one for one in range(1, enrolled + 1) if cloud.found(VECTORS[one]) != [f"s{one}"]]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@_SLOW
def test_a_full_disk_is_reported_and_all_works_again_when_there_is_room(small: Path) -> None:
    settings = Settings(home=small / "cloud")
    with Cloud(settings) as cloud:
        _opened(cloud)
        assert _ready(cloud)
        enrolled = _until_full(cloud)
        assert enrolled > 20
        assert not _ready(cloud), "the record answers, but cannot be written"
        assert cloud.found(VECTORS[0]) == ["anna"], "searching goes on"
        assert _lost(cloud, enrolled) == []
        assert cloud.found(VECTORS[enrolled + 1]) == []
        full = small / "full"
        with pytest.raises(OSError, match="No space left"):
            full.write_bytes(bytes(4 << 20))
        answer = cloud.http.delete("/v1/galleries/door/subjects/anna")
        assert answer.status_code in {200, 507}
        if answer.status_code == 507:
            assert_problem(answer, 507, "insufficient-storage")
        full.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert _ready(cloud), "it was tried with a real write"
        assert cloud.http.delete("/v1/galleries/door/subjects/anna").status_code in {200, 404}
        assert cloud.found(VECTORS[0]) == []
        files = b"".join(file.read_bytes() for file in settings.home.iterdir())
        assert VECTORS[0].tobytes() not in files
        assert cloud.enroll("late", VECTORS[-1:]).status_code == 201
    with Cloud(settings) as cloud:
        assert _lost(cloud, enrolled) == []
        assert cloud.found(VECTORS[-1]) == ["late"]


@_SLOW
def test_an_erasure_on_a_full_disk_is_answered_truthfully(small: Path) -> None:
    """Each erasure is done and its bytes are gone, or it is refused and the subject is found as before."""
    settings = Settings(home=small / "cloud")
    with Cloud(settings) as cloud:
        _opened(cloud)
        enrolled = _until_full(cloud)
        (small / "full").write_bytes(bytes(_free(small)))
        for number in range(1, enrolled + 1, 7):
            answer = cloud.http.delete(f"/v1/galleries/door/subjects/s{number}")
            files = b"".join(file.read_bytes() for file in settings.home.iterdir())
            there = cloud.found(VECTORS[number]) == [f"s{number}"]
            if answer.status_code == 200:
                assert not there
                assert VECTORS[number].tobytes() not in files
            else:
                detail = assert_problem(answer, 507, "insufficient-storage")["detail"]
                assert ("nothing was changed" in detail) is there


def _files(settings: Settings) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in settings.home.iterdir() if path.suffix != ".lock"}


@_SLOW
@pytest.mark.parametrize("filled", ["by the record itself", "after it was closed"])
def test_it_starts_and_matches_on_a_full_disk_and_writes_again_when_there_is_room(small: Path, filled: str) -> None:
    settings = Settings(home=small / "cloud")
    with Cloud(settings) as cloud:
        _opened(cloud)
        if filled == "by the record itself":
            enrolled = _until_full(cloud)
        else:
            enrolled = 10
            for number in range(1, enrolled + 1):
                assert cloud.enroll(f"s{number}", VECTORS[number : number + 1]).status_code == 201
    (small / "full").write_bytes(bytes(_free(small)))
    with Cloud(settings) as cloud:
        assert _lost(cloud, enrolled) == []
    files = _files(settings)
    with Cloud(settings) as cloud:
        assert _lost(cloud, enrolled) == [], "started once more, it matches all the same"
        assert not _ready(cloud)
        assert_problem(cloud.enroll("late", VECTORS[-1:]), 507, "insufficient-storage")
        answer = cloud.http.delete("/v1/galleries/door/subjects/anna")
        assert "nothing was changed" in assert_problem(answer, 507, "insufficient-storage")["detail"]
        assert cloud.found(VECTORS[0]) == ["anna"]
        assert _files(settings) == files, "no start takes up more of the disk"

        subprocess.run(["mount", "-o", "remount,size=12m", str(small)], check=True)
        assert _ready(cloud)
        assert cloud.enroll("late", VECTORS[-1:]).status_code == 201
        assert cloud.http.delete("/v1/galleries/door/subjects/anna").status_code == 200
        assert _lost(cloud, enrolled) == []
        assert (cloud.found(VECTORS[0]), cloud.found(VECTORS[-1])) == ([], ["late"])
        assert VECTORS[0].tobytes() not in b"".join(file.read_bytes() for file in settings.home.iterdir())


@_SLOW
def test_a_first_start_on_a_full_disk_is_refused_in_one_sentence(small: Path) -> None:
    settings = Settings(home=small / "cloud")
    with Cloud(settings):
        pass
    for file in settings.home.glob("record.db*"):
        file.unlink()
    (small / "full").write_bytes(bytes(_free(small)))
    with pytest.raises(SetupError, match="make room"), Cloud(settings):
        pass


def test_no_read_without_locks_runs_when_writing_begins() -> None:
    """The change to writing waits for the reads that are under way, and gives up rather than disturb them."""
    mode = ReadOnlyMode(0.05)
    mode.on = True
    with mode.reading(), pytest.raises(Overloaded):
        mode.leave(lambda: None)
    assert mode.on

    def failing() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        mode.leave(failing)
    assert mode.on, "what could not be opened for writing is read as before"
    mode.leave(lambda: None)
    with mode.reading():
        assert not mode.on


@pytest.fixture
def quota(cloud: Cloud) -> Iterator[list[int]]:
    """How many pages the file may have, as SQLite itself sees to it: a full disk without a disk."""
    pages = [100_000]
    engine = cloud.services.store.record.database.engine

    def bound(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[0]}").close()

    event.listen(engine, "checkout", bound)
    yield pages
    event.remove(engine, "checkout", bound)


def test_a_record_that_may_not_grow_says_so_and_takes_erasures(cloud: Cloud, quota: list[int]) -> None:
    _opened(cloud)
    assert cloud.enroll("gone", VECTORS[1:21]).status_code == 201
    quota[0] = 60
    assert_problem(cloud.enroll("ben", VECTORS[21:61]), 507, "insufficient-storage")
    assert cloud.held() == (2, 21), "all or none"
    assert cloud.found(VECTORS[0]) == ["anna"]
    assert cloud.http.delete("/v1/galleries/door/subjects/gone").status_code == 200
    assert cloud.enroll("ben", VECTORS[21:31]).status_code == 201, "the room of what was erased is used again"
    assert _ready(cloud)


def test_a_file_that_may_not_be_written_is_reported_and_searching_goes_on(cloud: Cloud) -> None:
    _opened(cloud)
    engine = cloud.services.store.record.database.engine

    def forbid(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA query_only = ON").close()

    event.listen(engine, "checkout", forbid)
    answer = cloud.enroll("ben", VECTORS[1:2])
    assert_problem(answer, 503, "record-unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert not _ready(cloud)
    assert cloud.found(VECTORS[0]) == ["anna"]
    event.remove(engine, "checkout", forbid)
    event.listen(engine, "checkout", lambda connection, *_: connection.execute("PRAGMA query_only = OFF").close())
    assert _ready(cloud)
    assert cloud.enroll("ben", VECTORS[1:2]).status_code == 201
    assert np.array_equal(sorted(cloud.held()), [2, 2])
