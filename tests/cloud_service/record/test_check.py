"""``patronus cloud check`` finds what is damaged while the service runs; backups and restores refuse it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_service.cli import app
from cloud_service.index import flat as index_module
from cloud_service.record.backup import Held, back_up, restore
from cloud_service.record.tables import rekeyed
from cloud_service.settings import IndexSettings, Settings
from shared.errors import SetupError
from tests.support.cloud_client import Cloud, random_units
from tests.support.damaging import change_blob, flip_in_file, huge, rows_of
from tests.support.sealed import Key

VECTORS = random_units(51, 40)
KEY, NEXT = Key(8, 1, verify_only=True), Key(8, 2, verify_only=True)


@pytest.fixture(autouse=True)
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find the record of the test."""
    monkeypatch.setattr(index_module, "_MOST", 32)
    monkeypatch.setattr(index_module, "_LEAST", 8)
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    if settings.record.url is not None:
        monkeypatch.setenv("PATRONUS_CLOUD__RECORD__URL", settings.record.url)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=3600, close_timeout_s=0)})


def _check(*options: str) -> tuple[int, list[str], str]:
    """The exit status, the lines on standard output, and standard error."""
    said = CliRunner().invoke(app, ["check", *options], catch_exceptions=False)
    return said.exit_code, said.stdout.splitlines(), said.stderr


@pytest.mark.both_engines
def test_everything_is_read_while_the_service_runs_and_what_is_damaged_is_listed(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        for number in range(8):
            mine = range(number, 40, 8)
            ids = [f"{which:032x}" for which in mine]
            cloud.enroll(f"person-{number}", [VECTORS[which] for which in mine], ids=ids)
        cloud.http.post("/v1/galleries/door/snapshot")
        cloud.put_gallery("sealed", contract=KEY.contract)
        for name in ("anna", "ben"):
            sent = [{"id": "a" * 31 + name[0], "template": KEY.envelope(VECTORS[0], name)}]
            cloud.http.post(f"/v1/galleries/sealed/subjects/{KEY.name(name)}/templates", json={"templates": sent})
        cloud.http.post("/v1/galleries/sealed/rekey", json=KEY.rekey(NEXT, "anna"))
        sound = _check()
        assert sound == (0, ["2 galleries, 42 templates and 1 index file were read: nothing is damaged."], "")
        row, [staged] = rows_of(cloud, "person-3")[0], rows_of(cloud, KEY.name("anna"))
        change_blob(cloud, row, huge(1))
        change_blob(cloud, staged, huge(1), rekeyed)
        [file] = (settings.home / "index").iterdir()
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        status, lines, summary = _check()
        assert (status, lines) == (
            1,
            [
                f"gallery door: template row {row} is damaged",
                f"gallery sealed: template row {staged}, written for the change of the gallery's key, is damaged",
                f"gallery door: the index file {file.name} is missing or not what was written",
            ],
        )
        assert "2 templates are damaged, 1 other fault." in summary
        status, lines, _ = _check("--show-subjects")
        assert lines[0].endswith(f": subject person-3, template {3:032x}")
        for path in ("door/subjects/person-3", "sealed"):
            cloud.http.delete(f"/v1/galleries/{path}")
        assert _check()[0] == 0, "the file of the index went with the erasure"


def test_a_damaged_row_of_an_index_file_is_listed_and_that_file_not_trusted(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        cloud.enroll("anna", VECTORS)
    for values in ("name = x'ff'", "digest = x'ff'", "digest = 'é', first_id = 'x'"):
        with Cloud(settings) as cloud:
            assert cloud.http.post("/v1/galleries/door/snapshot").json()["files"] == 1
        with sqlite3.connect(settings.home / "record.db") as file:
            file.execute(f"UPDATE segment_file SET {values}")
        file.close()
        status, lines, _ = _check()
        assert (status, len(lines)) == (1, 1), "a file"
        with Cloud(settings) as cloud:
            assert cloud.found(VECTORS[0]) == ["anna"]
            assert _check()[0] == 0, "it is not trusted any more"
    with Cloud(settings) as cloud:
        cloud.http.post("/v1/galleries/door/snapshot")
        with sqlite3.connect(settings.home / "record.db") as file:
            file.execute("UPDATE segment_file SET first_id = 'x'")
        file.close()
        assert cloud.http.delete("/v1/galleries/door/subjects/anna").status_code == 200


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("UPDATE subject SET entry_id = NULL WHERE id = 2", "subject"),
        ("UPDATE subject SET entry_id = 7 WHERE id = 3", "subject"),
        ("UPDATE subject SET entry_id = -5 WHERE id = 2", "subject"),
        ("UPDATE subject SET entry_id = 0 WHERE id = 2", "subject"),
        ("UPDATE gallery SET subjects = 3 WHERE id = 1", "gallery"),
        ("UPDATE gallery SET last_entry = 1 WHERE id = 1", "gallery"),
        ("UPDATE gallery SET score = NULL WHERE id = 1", "gallery"),
        ("UPDATE gallery SET score_version = 1 WHERE id = 1", "gallery"),
    ],
)
def test_entries_that_do_not_fit_their_gallery_are_listed(settings: Settings, change: str, table: str) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery(score={"rule": "mean", "exponents": [0.5]})
        cloud.put_gallery("other", score={"rule": "best"})
        for name, gallery in (("anna", "door"), ("ben", "door"), ("carl", "other")):
            cloud.enroll(name, VECTORS[:2], gallery=gallery)
    assert _check()[0] == 0
    with sqlite3.connect(settings.home / "record.db") as file:
        file.execute(change)
    file.close()
    status, lines, _ = _check()
    assert status == 1
    assert any(f"of the table {table} is damaged" in line for line in lines)


def test_a_damaged_page_of_the_file_is_found(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        for number, vector in enumerate(VECTORS[:5]):
            cloud.enroll(f"person-{number}", [vector])
    path = settings.home / "record.db"
    content = path.read_bytes()
    at = content.rindex(b"person-3")  # in an index of subjects, or in their table: the two do not agree any more
    path.write_bytes(content[:at] + b"q" + content[at + 1 :])
    status, lines, _ = _check()
    assert status == 1
    assert lines[-1].startswith("the record's file: ")


def test_a_record_of_an_earlier_version_is_not_called_damaged(settings: Settings) -> None:
    with Cloud(settings):
        pass
    with sqlite3.connect(settings.home / "record.db") as file:
        file.execute("UPDATE alembic_version SET version_num = '0002'")
    file.close()
    with pytest.raises(SetupError, match="start the cloud service once"):
        _check()
    assert back_up(settings.home / "record.db", settings.home / "backup") == Held(0, 0, 0)


def test_a_backup_of_damage_is_refused_and_says_where(settings: Settings, tmp_path: Path) -> None:
    record, backup = settings.home / "record.db", tmp_path / "backup"
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", VECTORS[:3])
        [first, _, last] = rows_of(cloud, "anna")
        change_blob(cloud, first, huge(0))
        change_blob(cloud, last, huge(0))
        with pytest.raises(SetupError, match=rf"door: row {first}, door: row {last}"):
            back_up(record, backup)
        assert list(tmp_path.glob("*backup*")) == [], "nothing half-made is left"
        cloud.http.delete("/v1/galleries/door/subjects/anna")
        assert back_up(record, backup) == Held(1, 0, 0)


def test_a_damaged_backup_replaces_nothing_and_says_where(settings: Settings, tmp_path: Path) -> None:
    record, backup = settings.home / "record.db", tmp_path / "backup"
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", VECTORS[:2])
    back_up(record, backup)
    flip_in_file(backup, VECTORS[1].tobytes())
    before = record.read_bytes()
    with pytest.raises(SetupError, match="door: row 2"):
        restore(backup, record, replace=True)
    assert record.read_bytes() == before
    flip_in_file(backup, huge(0)(VECTORS[1].tobytes()))
    assert restore(backup, record, replace=True).held == Held(1, 1, 2)
