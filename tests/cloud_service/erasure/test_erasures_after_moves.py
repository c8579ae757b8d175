"""Who was merged, moved or renamed since a backup and then erased does not come back with it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_service.cli import app
from cloud_service.erasure.carry_over import Repeated, apply_list
from cloud_service.record.backup import back_up, restore
from cloud_service.settings import Settings
from tests.support.cloud_client import Cloud, random_units
from tests.support.sealed import Key

DOOR = "/v1/galleries/door"
ROWS = random_units(211, 8)
IDS = [f"{number:032x}" for number in range(8)]


def _move(cloud: Cloud, who: str, to: str, *templates: str) -> None:
    some = {"templates": list(templates)} if templates else {}
    cloud.http.post(f"{DOOR}/subjects/{who}/move", json={"to": to, "onto": "either"} | some).raise_for_status()


def _backed_up(cloud: Cloud, name: str) -> Path:
    target = cloud.settings.home.parent / name
    back_up(cloud.settings.home / "record.db", target)
    return target


def _found(settings: Settings) -> list[int]:
    with Cloud(settings) as cloud:
        return [at for at in range(len(ROWS)) if cloud.found(ROWS[at])]


@pytest.fixture
def lived(settings: Settings) -> tuple[Path, Path]:
    """Two backups of a record whose people were merged, moved and renamed, and then in part erased."""
    with Cloud(settings) as cloud:
        cloud.put_gallery(tau=0.99, score={"rule": "best"})
        for at, name in enumerate(("anna", "ben", "carl", "dora", "emil", "emil")):
            cloud.enroll(name, ROWS[at : at + 1], ids=IDS[at : at + 1])
        first = _backed_up(cloud, "first")
        _move(cloud, "anna", "ben")
        _move(cloud, "emil", "ben", IDS[4])
        second = _backed_up(cloud, "second")
        _move(cloud, "ben", "eve")
        _move(cloud, "carl", "eve")
        cloud.enroll("anna", ROWS[6:7], ids=IDS[6:7])
        cloud.erase("/subjects/eve")
    return first, second


def test_what_was_moved_to_somebody_who_was_erased_goes_from_each_older_backup(
    lived: tuple[Path, Path], settings: Settings
) -> None:
    record = settings.home / "record.db"
    for backup in (*lived, *lived, lived[0]):  # from restore to restore
        restore(backup, record, replace=True)
        assert _found(settings) == [3, 5]
        content = record.read_bytes()
        assert not [at for at in (0, 1, 2, 4) if ROWS[at].astype("<f4").tobytes() in content]


def test_a_list_of_erasures_knows_of_it_too(lived: tuple[Path, Path], settings: Settings, tmp_path: Path) -> None:
    record, listed = settings.home / "record.db", tmp_path / "list"
    env = {"PATRONUS_CLOUD__HOME": str(settings.home)}
    assert CliRunner().invoke(app, ["erasures", "export", str(listed)], env=env).exit_code == 0
    for backup in lived:
        record.unlink()
        restore(backup, record)
        subjects = 3 if backup == lived[0] else 2  # anna, ben and carl; or ben and carl
        assert apply_list(settings, listed) == Repeated(1, subjects, 4)
        assert _found(settings) == [3, 5]


def test_a_list_that_was_written_before_there_were_moves_is_still_what_was_written(
    settings: Settings, tmp_path: Path
) -> None:
    from cloud_service.erasure.erasure_list import load_erasures

    with Cloud(settings) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", ROWS[:1])
        cloud.erase("/subjects/anna")
    env = {"PATRONUS_CLOUD__HOME": str(settings.home)}
    CliRunner().invoke(app, ["erasures", "export", str(tmp_path / "list")], env=env)
    assert "moved" not in (tmp_path / "list").read_text(), "as before: the digest is over the same text"
    assert len(load_erasures(tmp_path / "list").erasures) == 1


def test_a_mark_outlives_a_change_of_key_and_a_rename(settings: Settings) -> None:
    old, new = Key(8, 1), Key(8, 2)
    with Cloud(settings) as cloud:
        cloud.put_gallery(contract=old.contract, tau=0.99)
        for at, name in enumerate(("anna", "ben")):
            sent = [{"id": IDS[at], "template": old.envelope(ROWS[at])}]
            cloud.http.post(f"{DOOR}/subjects/{old.name(name)}/templates", json={"templates": sent}).raise_for_status()
        backup = _backed_up(cloud, "backup")
        assert cloud.http.post(f"{DOOR}/rekey", json=old.rekey(new)).json()["state"] == "settled"
        _move(cloud, new.name("anna"), new.name("amy"))
        cloud.erase(f"/subjects/{new.name('amy')}")
    assert restore(backup, settings.home / "record.db", replace=True).carried.repeated == Repeated(1, 1, 1)
    with Cloud(settings) as cloud:
        assert [one["subject"] for one in cloud.http.get(f"{DOOR}/names").json()["items"]] == [old.name("ben")]


def test_the_log_is_searched_by_a_subject_that_is_there_and_by_the_mark_of_one_that_is_not(
    lived: tuple[Path, Path], settings: Settings
) -> None:
    env = {"PATRONUS_CLOUD__HOME": str(settings.home)}
    with closing(sqlite3.connect(settings.home / "record.db")) as record:
        [(mark,)] = record.execute("SELECT json_extract(details, '$.subject') FROM audit WHERE action='subject_erased'")
    found = CliRunner().invoke(app, ["audit", "find", "door", mark], env=env)
    assert [line.count("templates_moved") for line in found.output.splitlines()] == [1, 1, 0, 1, 0]
    found = CliRunner().invoke(app, ["audit", "find", "door", "emil"], env=env)
    assert (found.exit_code, found.output.count("templates_moved")) == (0, 1)
    none = CliRunner().invoke(app, ["audit", "find", "door", "eve"], env=env)
    assert "give the id of its receipt" in none.output
    shutil.rmtree(settings.home)
