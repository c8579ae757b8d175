"""A record whose templates have no checksums yet gets them at the start; what was damaged before stays damaged."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, text, update

from cloud_service.record.backup import back_up, restore
from cloud_service.record.check import check_record
from cloud_service.record.checksums import to_blobs
from cloud_service.record.opening import open_database
from cloud_service.record.queries import PinnedGallery, Stored, read_value, renew_checksum
from cloud_service.record.tables import gallery, rekeyed, subject, template
from cloud_service.rekey.steps import RekeySteps
from cloud_service.settings import RecordSettings, Settings
from shared.errors import SetupError
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units
from tests.support.damaging import change_blob, checks, huge, set_value
from tests.support.sealed import Key, plain

VECTORS = random_units(61, 60)
OLD, NEW = Key(8, 1), Key(8, 2)
SUBJECTS = "/v1/galleries/door/subjects"


# What the record of a running cloud was at earlier revisions, as changes of the one after; in either engine's SQL.
EARLIER = {
    "0006": [
        "DROP INDEX ix_subject_gallery_id_id",
        "DROP INDEX ix_subject_gallery_id_expires_at",
        *(f"ALTER TABLE subject DROP COLUMN {one}" for one in ("next_name", "mark", "version", "expires_at")),
        "ALTER TABLE template DROP COLUMN moved",
        *(f"ALTER TABLE gallery DROP COLUMN {one}" for one in ("sealed_names", "subjects_version", "removed_version")),
    ],
    "0005": [
        "ALTER TABLE template DROP COLUMN weight",
        "DROP INDEX ix_subject_gallery_id_entry_id",
        "ALTER TABLE subject DROP COLUMN entry_id",
        *(f"ALTER TABLE gallery DROP COLUMN {one}" for one in ("score", "score_version", "last_entry", "subjects")),
    ],
    "0004": [
        "ALTER TABLE gallery RENAME COLUMN key_version TO turn",
        "ALTER TABLE gallery RENAME COLUMN next_contract TO turning_to",
        "ALTER TABLE segment_file RENAME COLUMN key_version TO turn",
        "ALTER TABLE outbox RENAME COLUMN acknowledged_at TO told_at",
        "CREATE TABLE turned AS SELECT id, gallery_id, template_id, key_version AS turn, vector FROM rekeyed_template",
        "CREATE TABLE answered (key_id VARCHAR(12), idempotency_key VARCHAR(128), request_digest VARCHAR(64))",
        "INSERT INTO answered VALUES ('k', 'once', 'digest')",
        "CREATE TABLE note AS SELECT name, value FROM record_value",
        "DROP TABLE rekeyed_template",
        "DROP TABLE record_value",
    ],
    "0003": ["ALTER TABLE gallery DROP COLUMN checksum"],
    "0002": [],
    "0001": [
        "DROP INDEX ix_template_gallery_id_created_at",
        *(
            f"ALTER TABLE gallery DROP COLUMN {column}"
            for column in ("templates", "turn", "turning_to", "max_age_seconds", "index_kind")
        ),
        *(f"DROP TABLE {table}" for table in ("turned", "segment_file", "outbox", "audit", "answered", "note")),
    ],
}


def _as_of(cloud: Cloud, revision: str) -> None:
    """Makes the record of a running cloud what a program of an earlier revision would have written."""
    with cloud.services.store.record.database.write() as connection:
        if revision <= "0002":
            for table in (template, rekeyed):
                values = func.substr(table.c.vector, 1, func.length(table.c.vector) - 8)
                connection.execute(update(table).values(vector=values))
        for at, statements in EARLIER.items():
            for statement in statements if at >= revision else ():
                connection.execute(text(statement))
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{revision}'"))


def _as_before_the_choice_of_a_rule(cloud: Cloud) -> None:
    """Galleries as an earlier version made them, before anybody is enrolled."""
    with cloud.services.store.record.database.write() as connection:
        for row in connection.execute(select(gallery.c.id).where(gallery.c.templates == 0)).all():
            connection.execute(update(gallery).where(gallery.c.id == row.id).values(score=None))
            renew_checksum(connection, row.id)


def _without_checksums(cloud: Cloud) -> None:
    _as_of(cloud, "0002")


def _enroll(cloud: Cloud, key: Key, gallery: str) -> None:
    cloud.put_gallery(gallery, contract=key.contract, sealed_names=False)
    _as_before_the_choice_of_a_rule(cloud)
    for number, vector in enumerate(VECTORS[:4]):
        sent: list[dict[str, Any]] = [{"id": f"{number:032x}", "template": key.envelope(vector)}]
        path = f"/v1/galleries/{gallery}/subjects/s{number}/templates"
        assert cloud.http.post(path, json={"templates": sent}).status_code == 201


def _stage(cloud: Cloud, gallery: str) -> RekeySteps:
    """Begins a change of a gallery's key and stages all templates."""
    record = cloud.services.store.record
    steps = RekeySteps(record)
    pinned = record.gallery(gallery)
    steps.begin(pinned, NEW.contract, None)
    steps.name(pinned, NEW.contract, {f"s{number}": NEW.name(f"s{number}") for number in range(4)})
    unstaged = steps.unstaged(pinned, 0, 100)
    steps.stage(pinned, NEW.contract, unstaged, _rotated(unstaged))
    return steps


def _switch(cloud: Cloud, gallery: str) -> None:
    """Changes a gallery's key, and settles nothing: matching reads ``rekeyed_template``."""
    record = cloud.services.store.record
    _stage(cloud, gallery).switch(record.gallery(gallery), NEW.contract, _rotated, 0, None)
    _unseal(cloud, record.gallery(gallery))


def _unseal(cloud: Cloud, pinned: PinnedGallery) -> None:
    """Names and checksums as an earlier version left them after a change of key."""
    key = pinned.id, pinned.key_version
    rows = (
        select(rekeyed.c.id, rekeyed.c.vector, subject.c.id.label("subject_id"), subject.c.name)
        .join(template, template.c.id == rekeyed.c.template_id)
        .join(subject, subject.c.id == template.c.subject_id)
        .where(rekeyed.c.gallery_id == pinned.id)
    )
    with cloud.services.store.record.database.write() as connection:
        for row in connection.execute(rows).all():
            values = np.frombuffer(row.vector[:-8], np.float32)[np.newaxis]
            [blob] = to_blobs(values, np.ones(1), [plain(row.name)], *key)
            connection.execute(update(rekeyed).where(rekeyed.c.id == row.id).values(vector=blob))
            renamed = update(subject).where(subject.c.id == row.subject_id)
            connection.execute(renamed.values(name=plain(row.name)))
        connection.execute(update(gallery).where(gallery.c.id == pinned.id).values(sealed_names=False))
        renew_checksum(connection, pinned.id)


def _rotated(some: Stored) -> np.ndarray:
    rotated = some.vectors.astype(np.float64) @ (NEW.seal() @ OLD.seal().T).T
    return rotated.astype(np.float32)


def _similarities(cloud: Cloud, key: Key, gallery: str, *, sealed: bool = False) -> list[float]:
    names = [key.name(f"s{number}") if sealed else f"s{number}" for number in range(4)]
    answers = [
        cloud.http.post(f"/v1/galleries/{gallery}/subjects/{name}/verify", json={"probe": key.envelope(vector)})
        for name, vector in zip(names, VECTORS, strict=False)
    ]
    return [answer.json()["similarity"] for answer in answers]


@pytest.mark.both_engines
@pytest.mark.parametrize("revision", ["0006", "0005", "0004", "0003", "0002"])
def test_all_templates_of_an_old_record_match_as_before_whatever_their_key(settings: Settings, revision: str) -> None:
    with Cloud(settings) as cloud:
        for name in ("plain", "staged", "rekeyed"):
            _enroll(cloud, OLD, name)
        _stage(cloud, "staged")
        _switch(cloud, "rekeyed")
        assert min(_similarities(cloud, OLD, "plain")) > 0.9999
        assert min(_similarities(cloud, NEW, "rekeyed")) > 0.9999
        _as_of(cloud, revision)
    with Cloud(settings) as cloud:
        assert all(checks(cloud).values())
        assert min(_similarities(cloud, OLD, "plain")) > 0.9999
        assert min(_similarities(cloud, OLD, "staged")) > 0.9999
        assert min(_similarities(cloud, NEW, "rekeyed")) > 0.9999
        status = cloud.http.get("/v1/galleries/staged/rekey").json()
        assert (status["state"], status["next_contract"]) == ("staging", NEW.contract.model_dump(mode="json"))
        assert status["left"] == 4, "what was staged is staged anew, under the next names"
        assert sorted(status["unnamed"]) == ["s0", "s1", "s2", "s3"]
        request = OLD.rekey(NEW) | {
            "names": [{"subject": name, "sealed": NEW.name(name)} for name in status["unnamed"]],
        }
        assert cloud.http.post("/v1/galleries/staged/rekey", json=request).json()["state"] == "settled"
        assert min(_similarities(cloud, NEW, "staged", sealed=True)) > 0.9999
        change_blob(cloud, 1, huge(0))
        answer = cloud.http.post("/v1/galleries/plain/subjects/s0/verify", json={"probe": OLD.envelope(VECTORS[0])})
        assert_problem(answer, 503, "record-damaged")


@pytest.mark.both_engines
def test_a_record_of_the_first_revision_matches_as_before(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        _enroll(cloud, OLD, "plain")
        _as_of(cloud, "0001")
    with Cloud(settings) as cloud:
        assert all(checks(cloud).values())
        assert min(_similarities(cloud, OLD, "plain")) > 0.9999


@pytest.mark.parametrize("revision", ["0006", "0005", "0004", "0003", "0002", "0001"])
def test_a_backup_of_an_old_record_is_checked_and_restored(settings: Settings, tmp_path: Path, revision: str) -> None:
    with Cloud(settings) as cloud:
        _enroll(cloud, OLD, "plain")
        if revision > "0001":
            _switch(cloud, "plain")
        _as_of(cloud, revision)
    record, backup = settings.home / "record.db", tmp_path / "backup"
    assert back_up(record, backup).templates == 4
    if revision >= "0003":
        assert check_record(f"sqlite:///{record}", tmp_path / "none").damaged == []
    restored = Settings(home=tmp_path / "restored")
    assert restore(backup, restored.home / "record.db").held.templates == 4
    with Cloud(restored) as cloud:
        assert min(_similarities(cloud, NEW if revision > "0001" else OLD, "plain")) > 0.9999
    staged = "rekeyed_template" if revision >= "0005" else "turned"
    if revision >= "0003":  # what is in the table template is of the key before, and nobody reads it
        _damage(backup, f"UPDATE {staged} SET vector = zeroblob(length(vector)) WHERE template_id = 3")
        with pytest.raises(SetupError, match="plain: row 3"):
            restore(backup, tmp_path / "new.db")
    _damage(backup, "UPDATE gallery SET contract = '{'")
    with pytest.raises(SetupError, match="the row 1 of the table gallery is damaged"):
        restore(backup, tmp_path / "new.db")


@pytest.mark.both_engines
def test_subjects_of_an_old_record_keep_the_marks_that_its_log_has(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        _enroll(cloud, OLD, "plain")
        _as_of(cloud, "0006")
    with Cloud(settings) as cloud:
        with cloud.services.store.record.database.read() as connection:
            salt = bytes.fromhex(read_value(connection, "audit_salt"))
            marks = {row.name: row.mark for row in connection.execute(select(subject.c.name, subject.c.mark))}
        whose = cloud.services.store.record.gallery("plain").id
        assert marks == {
            f"s{number}": hmac.new(salt, f"{whose}:s{number}".encode(), hashlib.sha256).hexdigest()
            for number in range(4)
        }
        cloud.http.delete("/v1/galleries/plain/subjects/s1").raise_for_status()
        entry = cloud.http.get("/v1/audit", params={"limit": 500}).json()["items"][-1]
        assert entry["details"]["subject"] == marks["s1"]


def test_who_was_erased_after_an_update_does_not_come_back_with_a_backup_of_before(
    settings: Settings, tmp_path: Path
) -> None:
    with Cloud(settings) as cloud:
        _enroll(cloud, OLD, "plain")
        _as_of(cloud, "0006")
    back_up(settings.home / "record.db", tmp_path / "backup")
    with Cloud(settings) as cloud:
        cloud.http.delete("/v1/galleries/plain/subjects/s1").raise_for_status()
    restored = restore(tmp_path / "backup", settings.home / "record.db", replace=True)
    assert (restored.carried.repeated.subjects, restored.held.templates) == (1, 3)


def _damage(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


def test_an_old_template_that_is_no_unit_vector_is_carried_over_as_damaged(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        _as_before_the_choice_of_a_rule(cloud)
        for number, vector in enumerate(VECTORS[:4]):
            cloud.enroll(f"s{number}", [vector])
        _without_checksums(cloud)
        broken = {1: set_value(0, float("nan")), 2: huge(3), 3: lambda blob: blob[:-4]}
        before = {row: change(change_blob(cloud, row, change)) for row, change in broken.items()}
    for _ in range(2):
        with Cloud(settings) as cloud:
            assert not checks(cloud)["templates"]
            assert [cloud.verify(f"s{number}", VECTORS[number]).status_code for number in range(4)] == [503] * 3 + [200]
            assert cloud.found(VECTORS[3]) == ["s3"]
            with cloud.services.store.record.database.read() as connection:
                found = connection.execute(select(template.c.id, template.c.vector)).all()
            stored = {row.id: row.vector for row in found}
            assert {row: stored[row] for row in before} == before, "neither dropped nor given a checksum"
    with Cloud(settings) as cloud:
        for number in range(3):
            cloud.http.delete(f"{SUBJECTS}/s{number}")
        assert all(checks(cloud).values())


@pytest.mark.parametrize(("dim", "count"), [(8, 60), (1500, 30)])
def test_what_is_erased_after_the_checksums_were_added_is_nowhere_on_the_disk(
    settings: Settings, dim: int, count: int
) -> None:
    vectors = random_units(dim, count, dim)
    with Cloud(settings) as cloud:
        cloud.put_gallery(contract=contract_of(dim))
        _as_before_the_choice_of_a_rule(cloud)
        for number in range(6):
            assert cloud.enroll(f"s{number}", list(vectors[number::6])).status_code == 201
        _without_checksums(cloud)
    _rewritten(settings.home / "record.db")
    with Cloud(settings):  # adds the checksums
        pass
    with Cloud(settings) as cloud:
        for number in (1, 4, 5):
            assert cloud.http.delete(f"{SUBJECTS}/s{number}").status_code == 200
        assert _places(settings.home, vectors) == [int(number % 6 in (0, 2, 3)) for number in range(count)]


def test_what_is_erased_after_the_tables_were_renamed_is_nowhere_on_the_disk(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        _enroll(cloud, OLD, "plain")
        _switch(cloud, "plain")
        with cloud.services.store.record.database.read() as connection:
            stored = [
                [np.frombuffer(blob[:-8], np.float32) for blob in connection.scalars(select(table.c.vector))]
                for table in (template, rekeyed)
            ]
        _as_of(cloud, "0004")
    _rewritten(settings.home / "record.db")
    assert [_places(settings.home, vectors) for vectors in stored] == [[1] * 4, [1] * 4]
    with Cloud(settings):  # renames the tables
        pass
    with Cloud(settings) as cloud:
        for number in range(3):
            assert cloud.http.delete(f"/v1/galleries/plain/subjects/s{number}").status_code == 200
        assert [_places(settings.home, vectors[:3]) for vectors in stored] == [[0] * 3, [0] * 3]
        assert _places(settings.home, stored[1][3:]) != [0], "who was not erased is there"


@pytest.mark.parametrize("dim", [96, 128])
def test_rows_that_grew_leave_no_copy_behind_that_a_later_erasure_would_miss(tmp_path: Path, dim: int) -> None:
    """With rows of these lengths SQLite leaves a whole one behind where it splits the last page."""
    path, vectors = tmp_path / "record.db", random_units(dim, 300, dim)
    open_database(f"sqlite:///{path}", RecordSettings(), 2).close()
    now = "'2026-01-01 00:00:00'"
    with sqlite3.connect(path) as file:
        file.execute(
            "INSERT INTO gallery (id, name, contract, contract_digest, dim, threshold_cosine, threshold_fmr, "
            f"created_at) VALUES (1, 'door', '{{}}', '', {dim}, 0.5, 0.001, {now})"
        )
        for number, vector in enumerate(vectors, 1):
            row = {"id": number, "name": f"s{number - 1}", "uid": f"{number:032x}", "vector": vector.tobytes()}
            file.execute(f"INSERT INTO subject (id, gallery_id, name, created_at) VALUES (:id, 1, :name, {now})", row)
            columns = "id, gallery_id, subject_id, uid, vector, created_at"
            file.execute(f"INSERT INTO template ({columns}) VALUES (:id, 1, :id, :uid, :vector, {now})", row)
        for statement in (*EARLIER["0006"], *EARLIER["0005"], *EARLIER["0004"], *EARLIER["0003"]):
            file.execute(statement)
        file.execute("UPDATE alembic_version SET version_num = '0002'")
    file.close()
    _rewritten(path)
    open_database(f"sqlite:///{path}", RecordSettings(), 2).close()
    assert _places(tmp_path, vectors) == [1] * 300


def _places(folder: Path, vectors: np.ndarray) -> list[int]:
    """How often the files hold each vector's beginning, middle or end, whichever is there most often."""
    files = b"\0".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    blobs = [vector.tobytes() for vector in vectors]
    parts = (0, len(blobs[0]) // 2, len(blobs[0]) - 16)
    return [max(files.count(blob[at : at + 16]) for at in parts) for blob in blobs]


def _rewritten(path: Path) -> None:
    """Without what the test itself left in the file's free room."""
    with sqlite3.connect(path) as file:
        file.execute("VACUUM")
    file.close()
