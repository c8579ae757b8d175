"""A backup is what the record was at one moment, is checked, and takes the record's place whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_service.cli import app
from cloud_service.record.backup import Held, back_up, restore
from cloud_service.settings import Settings
from shared.errors import Conflict, NotFound, PatronusError, SetupError
from tests.support.cloud_client import Cloud, random_units

VECTORS = random_units(31, 40)


@pytest.fixture
def record(settings: Settings) -> Path:
    """The record of a cloud that was stopped, with two subjects; ``gone`` was erased."""
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        for number, name in enumerate(("anna", "bert", "gone")):
            cloud.enroll(name, [VECTORS[number]])
        assert cloud.http.delete("/v1/galleries/door/subjects/gone").status_code == 200
    return settings.home / "record.db"


def test_what_was_backed_up_can_be_restored_and_matched(record: Path, settings: Settings, tmp_path: Path) -> None:
    backup = tmp_path / "saved" / "record.backup"
    backup.parent.mkdir()
    assert back_up(record, backup) == Held(1, 2, 2)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert VECTORS[0].tobytes() in backup.read_bytes()
    assert VECTORS[2].tobytes() not in backup.read_bytes(), "erased is erased in the backup too"
    with Cloud(settings) as cloud:
        cloud.enroll("later", [VECTORS[3]])
    with pytest.raises(Conflict, match="say --force"):
        restore(backup, record)
    assert restore(backup, record, replace=True).held == Held(1, 2, 2)
    with Cloud(settings) as cloud:
        assert cloud.found(VECTORS[0]) == ["anna"]
        assert cloud.found(VECTORS[3]) == []
    assert sorted(path.name for path in backup.parent.iterdir()) == ["record.backup"]


def test_a_backup_of_a_record_that_is_written_to_is_of_one_moment(settings: Settings, tmp_path: Path) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        over = threading.Event()

        def come() -> None:
            for number in range(4, 40):
                assert cloud.enroll(f"s{number}", [VECTORS[number]]).status_code == 201
            over.set()

        writer = threading.Thread(target=come)
        writer.start()
        seen = []
        while not over.is_set():
            held = back_up(settings.home / "record.db", tmp_path / "backup", replace=True)
            assert held.subjects == held.templates
            seen.append(held.templates)
        writer.join()
        assert seen == sorted(seen)
        assert back_up(settings.home / "record.db", tmp_path / "backup", replace=True).templates == 36


def test_the_service_must_not_run_when_it_is_restored(record: Path, settings: Settings, tmp_path: Path) -> None:
    back_up(record, tmp_path / "backup")
    with Cloud(settings):
        before = record.read_bytes()
        with pytest.raises(SetupError, match="using the record"):
            restore(tmp_path / "backup", record, replace=True)
        assert record.read_bytes() == before


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + os.urandom(4096) + content[middle + 4096 :]


@pytest.mark.parametrize("how", ["empty", "text", "cut", "bytes changed", "another database", "newer"])
def test_what_is_no_sound_backup_replaces_nothing(record: Path, tmp_path: Path, how: str) -> None:
    backup = tmp_path / "backup"
    back_up(record, backup)
    content = backup.read_bytes()
    if how == "another database":
        backup.unlink()
        with sqlite3.connect(backup) as other:
            other.execute("CREATE TABLE letters (a)")
        other.close()
    elif how == "newer":
        with sqlite3.connect(backup) as file:
            file.execute("UPDATE alembic_version SET version_num = 'f00'")
        file.close()
    else:
        changed = {"empty": b"", "text": b"dear", "cut": content[:-5000], "bytes changed": damaged(content)}
        backup.write_bytes(changed[how])
    before = record.read_bytes()
    with pytest.raises(SetupError):
        restore(backup, record, replace=True)
    assert record.read_bytes() == before
    assert [path.name for path in record.parent.glob(".record.db*")] == [".record.db.lock"], "nothing half-made is left"


def test_mistakes_are_told_and_change_nothing(record: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no record"):
        back_up(tmp_path / "none.db", tmp_path / "backup")
    with pytest.raises(NotFound, match="no backup"):
        restore(tmp_path / "none", record)
    (tmp_path / "there").write_text("dear")
    with pytest.raises(Conflict, match="is there already"):
        back_up(record, tmp_path / "there")
    for target in (record, tmp_path):
        with pytest.raises(Conflict, match="is there already"):
            back_up(record, target, replace=True)
    with pytest.raises(Conflict):
        restore(record, record, replace=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(PatronusError, match="There is no folder"):
        back_up(record, tmp_path / "file" / "backup")
    assert (tmp_path / "there").read_text() == "dear"


def test_a_backup_makes_no_folder_for_a_disk_may_not_be_mounted(record: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="There is no folder"):
        back_up(record, tmp_path / "disk" / "backup")
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("word", [b"CREATE TABLE ", b"CREATE INDEX "])
def test_a_damaged_schema_is_told_by_every_command(
    record: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: bytes
) -> None:
    content = bytearray(record.read_bytes())
    content[content.index(word) + 7] = 0xCC  # SQLite's own message is not UTF-8 then
    record.write_bytes(content)
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    commands = (["check"], ["audit", "verify"], ["erasures", "export", f"{tmp_path}/list"], ["backup", f"{tmp_path}/b"])
    errors = [CliRunner().invoke(app, words).exception for words in commands]
    with pytest.raises(SetupError) as refused, Cloud(settings):
        pass
    for error in (*errors, refused.value):
        assert isinstance(error, SetupError)
        assert error.detail == f"The record {record} is not a sound SQLite file; restore it from a backup."


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_record_in_postgresql_is_left_to_its_own_tools(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__RECORD__URL", "postgresql://patronus:hush@db/record")
    said = CliRunner().invoke(app, [command, str(tmp_path / "b")])
    assert isinstance(said.exception, SetupError)
    assert "pg_dump" in said.exception.detail
    assert "hush" not in said.exception.detail


def test_the_commands_do_it(record: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    said = CliRunner().invoke(app, ["backup", str(tmp_path / "b")], catch_exceptions=False)
    assert "1 gallery, 2 subjects, 2 templates" in said.output
    record.unlink()
    said = CliRunner().invoke(app, ["restore", str(tmp_path / "b")], catch_exceptions=False)
    assert said.exit_code == 0
    with Cloud(settings) as cloud:
        assert cloud.found(VECTORS[1]) == ["bert"]
