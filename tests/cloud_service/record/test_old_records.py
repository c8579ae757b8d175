"""A record whose templates have no checksums yet gets them at the start; what was damaged before stays damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, text, update

from cloud_service.record.opening import open_database
from cloud_service.record.tables import template, turned
from cloud_service.rekey.steps import RekeySteps, Unstaged
from cloud_service.settings import RecordSettings, Settings
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units
from tests.support.damaging import change_blob, checks, huge, set_value
from tests.support.sealed import Key

VECTORS = random_units(61, 60)
OLD, NEW = Key(8, 1), Key(8, 2)
SUBJECTS = "/v1/galleries/door/subjects"


def _without_checksums(cloud: Cloud) -> None:
    """Makes the record of a running cloud what the version before would have written."""
    with cloud.services.store.record.database.write() as connection:
        for table in (template, turned):
            values = func.substr(table.c.vector, 1, func.length(table.c.vector) - 8)
            connection.execute(update(table).values(vector=values))
        connection.execute(text("ALTER TABLE gallery DROP COLUMN checksum"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))


def _enroll(cloud: Cloud, key: Key, gallery: str) -> None:
    cloud.put_gallery(gallery, contract=key.contract)
    for number, vector in enumerate(VECTORS[:4]):
        sent: list[dict[str, Any]] = [{"id": f"{number:032x}", "template": key.envelope(vector)}]
        path = f"/v1/galleries/{gallery}/subjects/s{number}/templates"
        assert cloud.http.post(path, json={"templates": sent}).status_code == 201


def _flip(cloud: Cloud, gallery: str) -> None:
    """Changes a gallery's key up to the flip: what counts stands in ``turned``, and nothing is settled."""
    record = cloud.services.store.record
    turning = RekeySteps(record.database, record.journal, record.damaged_templates)
    pinned = record.gallery(gallery)

    def rotated(some: Unstaged) -> np.ndarray:
        matrix = NEW.seal() @ OLD.seal().T
        return (some.vectors.astype(np.float64) @ matrix.T).astype(np.float32)

    turning.begin(pinned, NEW.contract, None)
    turning.flip(pinned, NEW.contract, rotated, 0, None)


def _similarities(cloud: Cloud, key: Key, gallery: str) -> list[float]:
    answers = [
        cloud.http.post(f"/v1/galleries/{gallery}/subjects/s{number}/verify", json={"probe": key.envelope(vector)})
        for number, vector in enumerate(VECTORS[:4])
    ]
    return [answer.json()["similarity"] for answer in answers]


@pytest.mark.both_engines
def test_all_templates_of_an_old_record_match_as_before_whatever_their_key(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        for gallery in ("plain", "changing"):
            _enroll(cloud, OLD, gallery)
        _flip(cloud, "changing")
        assert min(_similarities(cloud, OLD, "plain")) > 0.9999
        assert min(_similarities(cloud, NEW, "changing")) > 0.9999
        _without_checksums(cloud)
    with Cloud(settings) as cloud:
        assert all(checks(cloud).values())
        assert min(_similarities(cloud, OLD, "plain")) > 0.9999
        assert min(_similarities(cloud, NEW, "changing")) > 0.9999
        change_blob(cloud, 1, huge(0))
        answer = cloud.http.post("/v1/galleries/plain/subjects/s0/verify", json={"probe": OLD.envelope(VECTORS[0])})
        assert_problem(answer, 503, "record-damaged")


def test_an_old_template_that_is_no_unit_vector_is_carried_over_as_damaged(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
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
            file.execute(f"INSERT INTO subject VALUES (:id, 1, :name, {now})", row)
            file.execute(f"INSERT INTO template VALUES (:id, 1, :id, :uid, :vector, {now})", row)
        file.execute("ALTER TABLE gallery DROP COLUMN checksum")
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
