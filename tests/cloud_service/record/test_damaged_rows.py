"""A row of the record that holds what was never written: one sentence that names it, and other galleries go on."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cloud_service.cli import app
from cloud_service.record.backup import back_up, restore
from cloud_service.settings import Settings
from shared.errors import PatronusError, SetupError
from tests.support.cloud_client import Cloud, assert_problem, random_units

VECTORS = random_units(81, 3)
DOOR = "/v1/galleries/door"


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a cloud with two galleries; ``gone`` was erased from the first."""
    home = tmp_path_factory.mktemp("lived") / "cloud"
    with Cloud(Settings(home=home)) as cloud:
        for gallery in ("door", "other"):
            cloud.put_gallery(gallery)
            cloud.enroll("anna", VECTORS[:1], gallery=gallery)
        cloud.enroll("gone", VECTORS[1:2])
        cloud.erase("/subjects/gone")
    return home


@pytest.fixture
def record(lived: Path, settings: Settings) -> Path:
    shutil.copytree(lived, settings.home)
    return settings.home / "record.db"


def _damage(record: Path, change: str) -> None:
    with closing(sqlite3.connect(record)) as file:
        assert file.execute(change).rowcount == 1
        file.commit()


NOTES = {
    "time_seen": [
        "UPDATE record_value SET value = 'yesterday' WHERE name = 'time_seen'",
        "DELETE FROM record_value WHERE name = 'time_seen'",
    ],
    "audit_head": ["UPDATE record_value SET value = 'x' WHERE name = 'audit_head'"],
    "audit_salt": ["UPDATE record_value SET value = 'zz' WHERE name = 'audit_salt'"],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, changes in NOTES.items() for change in changes])
def test_a_damaged_note_stops_the_start_and_copies_with_one_sentence(
    record: Path, settings: Settings, tmp_path: Path, name: str, change: str
) -> None:
    _damage(record, change)
    with pytest.raises(SetupError, match=f"The row {name} of the table record_value is"), Cloud(settings):
        pass
    with pytest.raises(SetupError, match=f"the row {name} of the table record_value is"):
        back_up(record, tmp_path / "backup")
    copy = tmp_path / "copy"
    record.rename(copy)
    with pytest.raises(SetupError, match=f"the row {name} of the table record_value is"):
        restore(copy, record)
    assert not record.exists()


@pytest.mark.parametrize(
    "values",
    [
        "contract = '{'",
        "contract = '{}'",
        "created_at = 'nonsense'",
        "threshold_cosine = 7",
        "threshold_fmr = 'x'",
        "dim = 9",
        "max_age_seconds = 'x'",
        "next_contract = '{'",
        f"contract = '{'[' * 100_000}'",
        "max_age_seconds = 4611686018427387904",
        "max_age_seconds = 0",
        "threshold_cosine = -0.5",
        "threshold_cosine = 0.096",
        "threshold_fmr = 0.5",
        "max_age_seconds = 7776000",
        "key_version = 1",
        f"contract_digest = '{'0' * 64}'",
        "contract = replace(contract, 'sface', 'sfade')",
        "checksum = NULL",
        "contract_digest = x'00ff'",
        "templates = 4611686018427387904",
    ],
)
def test_a_damaged_gallery_is_not_answered_for_and_the_others_are(
    record: Path, settings: Settings, tmp_path: Path, values: str
) -> None:
    _damage(record, f"UPDATE gallery SET {values} WHERE name = 'door'")
    with Cloud(settings) as cloud:
        answer = cloud.http.get("/readyz")
        checks = {"record": True, "galleries": False, "templates": True, "index": True, "keys": True}
        assert (answer.status_code, answer.json()["checks"]) == (503, checks)
        assert cloud.verify("anna", VECTORS[0], gallery="other").json()["decision"] == "match"
        assert cloud.found(VECTORS[0], gallery="other") == ["anna"]
        assert cloud.enroll("ben", VECTORS[1:2], gallery="other").status_code == 201
        assert [one["gallery"] for one in cloud.http.get("/v1/galleries").json()["items"]] == ["other"]
        asked = [
            cloud.verify("anna", VECTORS[0]),
            cloud.identify(VECTORS[0]),
            cloud.enroll("ben", VECTORS[1:2]),
            cloud.put_gallery(),
            cloud.http.get(DOOR),
            cloud.http.get(f"{DOOR}/names"),
            cloud.http.get(f"{DOOR}/stats"),
            cloud.http.get(f"{DOOR}/rekey"),
            cloud.http.delete(f"{DOOR}/subjects/anna"),
        ]
        for refused in asked:
            assert_problem(refused, 503, "record-damaged")
    with pytest.raises(SetupError, match="the row 1 of the table gallery is damaged"):
        back_up(record, tmp_path / "backup")


def test_a_threshold_that_changes_under_a_running_cloud_accepts_nobody(
    record: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    with Cloud(settings) as cloud:
        assert cloud.verify("anna", VECTORS[1]).json()["decision"] == "no_match"
        _damage(record, "UPDATE gallery SET threshold_cosine = 0.0001 WHERE name = 'door'")
        assert_problem(cloud.verify("anna", VECTORS[1]), 503, "record-damaged")
        assert_problem(cloud.identify(VECTORS[1]), 503, "record-damaged")
        assert cloud.found(VECTORS[0], gallery="other") == ["anna"]
        said = CliRunner().invoke(app, ["check"], catch_exceptions=False)
        assert (said.exit_code, "row 1 of the table gallery is damaged" in said.output) == (1, True)


@pytest.mark.parametrize("name", ["x'ff'", "CAST(x'ff' AS TEXT)", "'a b'", "CAST(name AS BLOB)"])
def test_a_gallery_whose_name_is_damaged_leaves_the_others_answered(
    record: Path, settings: Settings, tmp_path: Path, name: str
) -> None:
    _damage(record, f"UPDATE gallery SET name = {name} WHERE name = 'door'")
    with Cloud(settings) as cloud:
        assert cloud.http.get("/readyz").json()["checks"]["galleries"] is False
        assert cloud.found(VECTORS[0], gallery="other") == ["anna"]
        assert [one["gallery"] for one in cloud.http.get("/v1/galleries").json()["items"]] == ["other"]
        assert_problem(cloud.verify("anna", VECTORS[0]), 404, "not-found")
    with pytest.raises(SetupError, match="the row 1 of the table gallery is damaged"):
        back_up(record, tmp_path / "backup")


VALUES = {
    "text": "'abc'",
    "text-of-the-right-length": f"'{'x' * (4 * 8 + 8)}'",
    "text-that-is-not-utf8": "CAST(x'ff' AS TEXT)",
    "integer": "7",
    "large-integer": str(2**62),
    "float": "0.5",
    "empty": "x''",
    "longer": "vector || x'00'",
    "truncated": "substr(vector, 1, 9)",
}


def test_a_value_of_any_type_in_a_row_damages_that_row_alone(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    record, vectors = settings.home / "record.db", random_units(82, len(VALUES) + 4)
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", vectors[-1:])
        for name, vector in zip((*VALUES, "blob-name", "not-utf8-name", "renamed"), vectors, strict=False):
            cloud.enroll(name, [vector])
    with Cloud(settings) as running:
        with closing(sqlite3.connect(record)) as file:
            for name, value in VALUES.items():
                mine = "(SELECT id FROM subject WHERE name = ?)"
                file.execute(f"UPDATE template SET vector = {value} WHERE subject_id = {mine}", (name,))
            file.execute("UPDATE subject SET name = x'ff' WHERE name = 'blob-name'")
            file.execute("UPDATE subject SET name = CAST(x'66ff' AS TEXT) WHERE name = 'not-utf8-name'")
            file.execute("UPDATE subject SET name = CAST('re named' AS BLOB) WHERE name = 'renamed'")
            file.commit()
        _only_anna_is_answered_for(running, vectors)
    with Cloud(settings) as started:
        _only_anna_is_answered_for(started, vectors)
        said = CliRunner().invoke(app, ["check", "--show-subjects"], catch_exceptions=False)
        found = [line for line in said.stdout.splitlines() if "gallery door: template row" in line]
        assert (said.exit_code, len(found)) == (1, len(VALUES) + 3)
    with pytest.raises(SetupError, match="damaged"):
        back_up(record, tmp_path / "backup")
    with pytest.raises(SetupError, match="damaged"):
        restore(record, tmp_path / "other.db")


def _only_anna_is_answered_for(cloud: Cloud, vectors: np.ndarray) -> None:
    assert cloud.verify("anna", vectors[-1]).json()["decision"] == "match"
    for name, vector in zip(VALUES, vectors, strict=False):
        assert_problem(cloud.verify(name, vector), 503, "record-damaged", "template_damaged")
    assert all(cloud.found(vector) in ([], ["anna"]) for vector in vectors)
    assert cloud.found(vectors[-1]) == ["anna"]
    assert cloud.http.get("/readyz").json()["checks"]["templates"] is False
    listed = cloud.http.get(f"{DOOR}/names")
    assert listed.status_code == 200
    assert "anna" in {one["subject"] for one in listed.json()["items"]}


def test_a_record_of_two_versions_does_not_start_and_says_why(record: Path, settings: Settings) -> None:
    _damage(record, "INSERT INTO alembic_version VALUES ('0002')")
    with pytest.raises(SetupError, match="alembic_version"), Cloud(settings):
        pass


def test_damage_in_the_log_or_in_a_template_s_time_is_told_by_whatever_reads_it(
    record: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    _damage(record, "UPDATE audit SET details = '{' WHERE action = 'subject_erased'")
    _damage(record, "UPDATE template SET created_at = 'nonsense' WHERE id = 1")
    with Cloud(settings) as cloud:
        assert_problem(cloud.http.get("/v1/audit"), 503, "record-damaged")
        assert_problem(cloud.http.get(f"{DOOR}/subjects/anna"), 503, "record-damaged")
        assert cloud.verify("anna", VECTORS[0]).json()["decision"] == "match"
    for words in (
        ["erasures", "export", str(tmp_path / "list")],
        ["backup", str(tmp_path / "backup")],
    ):
        said = CliRunner().invoke(app, words)
        assert isinstance(said.exception, PatronusError), "one sentence and status 1"
        assert "damaged" in said.exception.detail
    assert CliRunner().invoke(app, ["audit", "verify"]).exit_code == 1


@pytest.mark.parametrize("name", ["x'00ff'", "char(7) || 'door'"])
def test_a_gallery_whose_name_is_none_is_left_out_of_lists(record: Path, settings: Settings, name: str) -> None:
    _damage(record, f"UPDATE gallery SET name = {name} WHERE name = 'door'")
    with Cloud(settings) as cloud:
        assert cloud.http.get("/readyz").json()["checks"]["galleries"] is False
        assert [one["gallery"] for one in cloud.http.get("/v1/galleries").json()["items"]] == ["other"]


def test_a_damaged_name_or_id_costs_one_subject_and_check_names_the_row(
    record: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    with Cloud(settings) as cloud:
        cloud.enroll("ben", VECTORS[1:2])
    _damage(record, "UPDATE subject SET name = 'bi/den' WHERE name = 'ben'")
    _damage(record, "UPDATE template SET uid = 'zz' WHERE id = 1")
    _damage(record, "UPDATE gallery SET max_age_seconds = 1000000000000 WHERE name = 'other'")
    with Cloud(settings) as cloud:
        assert [one["subject"] for one in cloud.http.get(f"{DOOR}/names").json()["items"]] == ["anna"]
        assert_problem(cloud.http.get(f"{DOOR}/subjects/anna"), 503, "record-damaged")
    said = CliRunner().invoke(app, ["check"])
    assert said.exit_code == 1
    for row in ("row 1 of the table template", "of the table subject", "row 2 of the table gallery"):
        assert row in said.output
