"""What was erased stays erased when an older backup is restored, and everything else in the backup is there."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import select, update
from typer.testing import CliRunner

from cloud_service.cli import app
from cloud_service.erasure.carry_over import Repeated, apply_list
from cloud_service.housekeeping import check_clock
from cloud_service.index import flat as index_module
from cloud_service.record.backup import back_up, restore
from cloud_service.record.tables import subject, template
from cloud_service.settings import IndexSettings, Settings
from shared.errors import NotFound, RecordDamaged, SetupError
from tests.cloud_service.erasure.random_life import Life
from tests.support.cloud_client import Cloud, random_units
from tests.support.sealed import Key

VECTORS = random_units(71, 40)
IDS = [f"{number:032x}" for number in range(40)]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command of ``patronus cloud``."""
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))

    def run(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


def _found(cloud: Cloud, gallery: str = "door") -> list[int]:
    """Which of the vectors are matched in a gallery."""
    return [
        at
        for at, result in enumerate(cloud.identify(*VECTORS, gallery=gallery).json()["results"])
        if result["decision"] == "match"
    ]


def _entries(cloud: Cloud, action: str) -> list[dict[str, Any]]:
    entries = cloud.http.get("/v1/audit", params={"limit": 500}).json()["items"]
    return [entry for entry in entries if entry["action"] == action]


def _backed_up(settings: Settings, name: str = "backup") -> Path:
    target = settings.home.parent / name
    back_up(settings.home / "record.db", target)
    return target


def _restored(settings: Settings, backup: Path, erasures: Path | None = None) -> Repeated:
    return restore(backup, settings.home / "record.db", replace=True, erasures=erasures).carried.repeated


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cloud's home, and a backup of it from before much was erased."""
    folder = tmp_path_factory.mktemp("lived")
    settings = Settings(home=folder / "cloud")
    with Cloud(settings) as cloud:
        for name in ("door", "gone", "aging"):
            assert cloud.put_gallery(name, tau=0.9, score={"rule": "best"}).status_code == 201
        cloud.enroll("back", VECTORS[:1])
        cloud.erase("/subjects/back")
        cloud.enroll("back", VECTORS[1:2])
        cloud.enroll("anna", VECTORS[2:4], ids=IDS[2:4])
        cloud.enroll("ben", VECTORS[4:6], ids=IDS[4:6])
        cloud.enroll("carl", VECTORS[6:7])
        cloud.enroll("dora", VECTORS[7:8])
        cloud.enroll("all", VECTORS[8:10], gallery="gone")
        cloud.enroll("old", VECTORS[10:11], gallery="aging")
        _age(cloud, "old", timedelta(days=9))
        cloud.enroll("young", VECTORS[11:12], gallery="aging")
        _backed_up(settings)
        cloud.erase("/subjects/anna")
        cloud.erase(f"/subjects/ben/templates/{IDS[4]}")
        cloud.erase("/subjects/dora")
        cloud.enroll("dora", VECTORS[12:13])
        cloud.erase(gallery="gone")
        cloud.put_gallery("gone", tau=0.9)
        cloud.enroll("all", VECTORS[13:14], gallery="gone")
        cloud.erase("/subjects/all", gallery="gone")
        cloud.http.put("/v1/galleries/aging/retention", json={"max_age_seconds": 86_400})
        _sweep(cloud)
        cloud.http.delete("/v1/galleries/aging/retention")
        assert (_found(cloud), _found(cloud, "aging")) == ([1, 5, 6, 12], [11])
    return folder


@pytest.fixture
def backup(lived: Path, settings: Settings) -> Path:
    """That backup, and a copy of that home."""
    shutil.copytree(lived / "cloud", settings.home)
    return lived / "backup"


def _age(cloud: Cloud, name: str, by: timedelta) -> None:
    one = select(subject.c.id).where(subject.c.name == name).scalar_subquery()
    with cloud.services.store.record.database.write() as connection:
        connection.execute(
            update(template).where(template.c.subject_id == one).values(created_at=datetime.now(UTC) - by)
        )


def _sweep(cloud: Cloud) -> None:
    for pinned in check_clock(cloud.services.store):
        while cloud.services.store.erase_expired(pinned, 500):
            pass


ERASED_SINCE = Repeated(erasures=6, subjects=4, templates=7)
"""anna (2 templates), one of ben's, dora, the gallery (1 subject, 2 templates), its namesake's subject, and old."""


def test_what_was_erased_since_a_backup_does_not_come_back_with_it(
    backup: Path, settings: Settings, run: Callable[..., Result]
) -> None:
    head = run("audit", "verify").output.splitlines()[-1]
    said = run("restore", backup, "--force")
    assert said.exit_code == 0
    assert "Repeated 6 erasures (known from record): 4 subjects, 7 templates. Now: " in said.output
    content = (settings.home / "record.db").read_bytes()
    assert [at for at in (2, 3, 4, 7, 8, 9, 10) if VECTORS[at].tobytes() in content] == []
    assert run("audit", "verify").exit_code == 0
    for noted, missing in ((head, "but entry 25 was noted down"), (f"15:{'0' * 64}", "entry 15 is another one")):
        unlike = run("audit", "verify", "--head", noted)
        assert unlike.exit_code == 1
        assert re.match(
            r"A backup was restored \(entry [0-9]+, 2[^ ]+Z\), and the entries after entry 14 were", unlike.output
        )
        assert missing in unlike.output
    sooner = run("audit", "verify", "--head", f"2:{'0' * 64}")
    assert sooner.exit_code == 1
    assert "was tampered with: entry 2 is another one than was noted down" in sooner.output, "no restore explains it"
    with Cloud(settings) as cloud:
        assert _found(cloud) == [1, 5, 6], "also who was erased before the backup and came again; not who came later"
        assert _found(cloud, "aging") == [11]
        assert cloud.http.get("/v1/galleries/gone").status_code == 404
        [noted] = _entries(cloud, "record_restored")
        assert noted["details"] | {"backup_head": ""} == {
            "backup_head": "",
            "erasures_known_from": "record",
            "erasures_repeated": 6,
            "subjects": 4,
            "templates": 7,
        }
        repeated = _entries(cloud, "erasure_repeated")
        assert len(repeated) == 6
        assert "anna" not in json.dumps(repeated)
        mark = next(entry["details"]["subject"] for entry in repeated if entry["details"]["erased"] == "subject_erased")
        assert json.loads(run("audit", "find", "door", mark).output)["action"] == "erasure_repeated"
        number = next(entry["seq"] for entry in repeated if entry["gallery"] == "door")
        assert cloud.http.get(f"/v1/galleries/door/erasures/{number}").json()["status"] == "done"


def test_it_is_carried_from_restore_to_restore(backup: Path, settings: Settings) -> None:
    """Somebody who is in a newer backup only is erased, then an older one is restored, and the newer one after that."""
    assert _restored(settings, backup) == ERASED_SINCE
    with Cloud(settings) as cloud:
        cloud.enroll("eve", VECTORS[20:21])
        newer = _backed_up(settings, "newer")
        cloud.erase("/subjects/eve")
    assert _restored(settings, backup) == Repeated(ERASED_SINCE.erasures + 1, 4, 7), "eve is not in it"
    with Cloud(settings) as cloud:
        cloud.enroll("fred", VECTORS[21:22])
    assert _restored(settings, newer) == Repeated(1, 1, 1)
    with Cloud(settings) as cloud:
        assert _found(cloud) == [1, 5, 6]


def test_a_list_takes_the_place_of_a_record_that_is_gone(
    backup: Path, settings: Settings, tmp_path: Path, run: Callable[..., Result]
) -> None:
    listed, record = tmp_path / "erasures.json", settings.home / "record.db"
    said = run("erasures", "export", listed)
    assert "7 erasures" in said.output
    assert listed.stat().st_mode & 0o777 == 0o600
    assert not [name for name in ("anna", "ben", "dora") if name in listed.read_text()]
    assert isinstance(run("erasures", "export", listed).exception, SetupError), "nothing is replaced unasked"
    assert isinstance(run("erasures", "export", tmp_path / "disk" / "list").exception, SetupError), "none is made"
    assert not (tmp_path / "disk").exists()
    record.unlink()
    said = run("restore", backup)
    assert said.exit_code == 0
    assert "is not known here" in said.output
    with Cloud(settings) as cloud:
        assert 2 in _found(cloud)
        assert _entries(cloud, "record_restored")[0]["details"]["erasures_known_from"] is None
    assert apply_list(settings, listed) == ERASED_SINCE, "afterwards, as after pg_restore"
    assert "Repeated 0 erasures: 0 subjects, 0 templates." in run("erasures", "apply", listed).output
    record.unlink()
    assert "(known from list): " in run("restore", backup, "--erasures", listed).output
    with Cloud(settings) as cloud:
        assert _found(cloud) == [1, 5, 6]


def test_what_is_no_list_of_this_record_changes_nothing(
    backup: Path, settings: Settings, tmp_path: Path, run: Callable[..., Result]
) -> None:
    record = settings.home / "record.db"
    other = Settings(home=tmp_path / "other")
    with Cloud(other) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", VECTORS[:1])
        cloud.erase("/subjects/anna")
    strange = tmp_path / "strange"
    run("erasures", "export", strange)
    listed = tmp_path / "listed"
    assert CliRunner().invoke(app, ["erasures", "export", str(listed)], env={"PATRONUS_CLOUD__HOME": str(other.home)})
    (tmp_path / "letter").write_text("dear")
    before = record.read_bytes()
    for name, why in (("listed", "another record"), ("letter", "no list"), ("none", "no list of erasures")):
        with pytest.raises((SetupError, NotFound), match=why):
            _restored(settings, backup, tmp_path / name)
    assert record.read_bytes() == before
    record.write_bytes(b"dear" * 1000)
    with pytest.raises(SetupError, match="--erasures FILE"):
        _restored(settings, backup)
    assert _restored(settings, backup, strange) == ERASED_SINCE, "the record is damaged, the list is not"
    record.write_bytes((other.home / "record.db").read_bytes())
    assert restore(backup, record, replace=True).carried.known_from is None, "another record's are not this one's"


def test_files_of_the_index_do_not_keep_what_is_erased_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_MOST", 32)
    monkeypatch.setattr(index_module, "_LEAST", 8)
    settings = settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=3600, close_timeout_s=0)})
    with Cloud(settings) as cloud:
        cloud.put_gallery(tau=0.9)
        for at, vector in enumerate(VECTORS):
            cloud.enroll(f"s{at}", [vector])
        assert cloud.http.post("/v1/galleries/door/snapshot").json()["entries"] == 32
        backup = _backed_up(settings)
        files = {path: path.read_bytes() for path in (settings.home / "index").iterdir()}
        cloud.erase("/subjects/s3")
    for path, content in files.items():
        path.write_bytes(content)  # as from a backup of the whole folder
    _restored(settings, backup)
    with Cloud(settings) as cloud:
        assert _found(cloud) == [at for at in range(40) if at != 3]
        assert not any(path.exists() for path in files)


def test_a_key_that_was_changed_since_is_the_one_of_the_backup_again_and_that_is_said(
    settings: Settings, run: Callable[..., Result]
) -> None:
    old, new = Key(8, 1), Key(8, 2)
    with Cloud(settings) as cloud:
        cloud.put_gallery(contract=old.contract, tau=0.9)
        for name, vector in (("anna", VECTORS[0]), ("ben", VECTORS[1])):
            body = {"templates": [{"id": uuid.uuid4().hex, "template": old.envelope(vector)}]}
            assert (
                cloud.http.post(f"/v1/galleries/door/subjects/{old.name(name)}/templates", json=body).status_code == 201
            )
        backup = _backed_up(settings)
        assert cloud.http.post("/v1/galleries/door/rekey", json=old.rekey(new)).status_code in {200, 202}
        cloud.erase(f"/subjects/{new.name('anna')}")
    said = run("restore", backup, "--force")
    assert "door is under its earlier key again." in said.output
    with Cloud(settings) as cloud:
        probes = {"probes": [old.envelope(VECTORS[0]), old.envelope(VECTORS[1])], "top_k": 1}
        results = cloud.http.post("/v1/galleries/door/identify", json=probes).json()["results"]
        assert [[one["subject"] for one in result["candidates"]] for result in results] == [[], [old.name("ben")]]


def test_an_erasure_is_of_one_gallery_and_not_of_another_that_bore_its_number(tmp_path: Path) -> None:
    """Numbers begin again when a record is restored: two galleries x have had the first, and one lost somebody."""
    life = Life(tmp_path, random.Random(0))
    life.back_up()
    life.enroll("x", "a")
    life.back_up()
    life.restore(0)
    life.enroll("x", "a")
    life.enroll("x", "b")
    life.erase("x", "a")
    life.restore(1)
    assert life.held() == life.galleries
    assert [list(held.values()) for held in life.galleries.values()] == [["a"]]
    life.close()


def test_what_was_there_before_an_erasure_goes_whatever_the_clocks_said(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery(tau=0.9)
        cloud.enroll("anna", VECTORS[:1])
        _age(cloud, "anna", -timedelta(hours=1))  # the machine's clock was ahead
        backup = _backed_up(settings)
        cloud.erase("/subjects/anna")
    assert _restored(settings, backup) == Repeated(1, 1, 1)


def test_a_list_that_is_applied_late_leaves_whoever_came_again(
    backup: Path, settings: Settings, tmp_path: Path, run: Callable[..., Result]
) -> None:
    listed = tmp_path / "erasures.json"
    run("erasures", "export", listed)
    (settings.home / "record.db").unlink()
    run("restore", backup)
    with Cloud(settings) as cloud:
        cloud.enroll("anna", VECTORS[25:26])
    assert apply_list(settings, listed) == Repeated(6, 3, 7), "anna stays, with what she enrolled since"
    with Cloud(settings) as cloud:
        assert _found(cloud) == [1, 5, 6, 25]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow(reason="another seed"))])
def test_after_any_life_nothing_erased_is_there_and_nothing_else_is_missing(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path, random.Random(seed))
    for _ in range(50):
        life.step()
    for _ in range(3):
        life.restore_any()
        assert life.held() == life.galleries
    assert life.erased
    life.close()


BROKEN_LOGS = {
    "all gone": "DELETE FROM audit",
    "erasures gone": "DELETE FROM audit WHERE action LIKE '%erased'",
    "another gallery": "UPDATE audit SET details = replace(details, '\"gallery_id\": ', '\"gallery_id\": 9') "
    "WHERE action LIKE '%erased'",
    "another action": "UPDATE audit SET action = 'gallery_made' WHERE action = 'subject_erased'",
    "end gone": "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)",
    "another salt": "UPDATE record_value SET value = replace(value, substr(value, 1, 1), 'f') || 'f' "
    "WHERE name = 'audit_salt'",
}


@pytest.mark.parametrize("change", BROKEN_LOGS.values(), ids=BROKEN_LOGS)
def test_a_broken_audit_log_is_not_believed_and_a_list_takes_its_place(
    backup: Path, settings: Settings, tmp_path: Path, run: Callable[..., Result], change: str
) -> None:
    listed, record = tmp_path / "erasures.json", settings.home / "record.db"
    run("erasures", "export", listed)
    with closing(sqlite3.connect(record)) as file:
        assert file.execute(change).rowcount > 0
        file.commit()
    before = record.read_bytes()
    with pytest.raises(SetupError, match="--erasures FILE"):
        _restored(settings, backup)
    assert record.read_bytes() == before
    if "audit_salt" not in change:
        said = run("erasures", "export", tmp_path / "other.json")
        assert isinstance(said.exception, RecordDamaged)
        assert not (tmp_path / "other.json").exists()
    said = run("restore", backup, "--force", "--erasures", listed)
    assert said.exit_code == 0
    assert "the record that was replaced is broken" in said.output
    assert "Repeated 6 erasures (known from list): " in said.output


def test_a_list_that_was_changed_is_refused(
    backup: Path, settings: Settings, tmp_path: Path, run: Callable[..., Result]
) -> None:
    listed = tmp_path / "erasures.json"
    run("erasures", "export", listed)
    text = listed.read_text()
    content = json.loads(text)
    for changed in (
        json.dumps(content | {"erasures": content["erasures"][1:]}),
        json.dumps(content | {"erasures": []}),
        text.replace('"gallery_id": 1', '"gallery_id": 2', 1),
        text.replace('"version": 1', '"version": 1, "version": 1', 1),
        text.replace('"erasures": [', '"erasures": [], "erasures": [', 1),
    ):
        assert changed != text
        listed.write_text(changed)
        for refused in (lambda: _restored(settings, backup, listed), lambda: apply_list(settings, listed)):
            with pytest.raises(SetupError, match=r"was changed or damaged|is no list"):
                refused()
    listed.write_text(json.dumps(content))
    assert _restored(settings, backup, listed) == ERASED_SINCE, "how it is laid out does not matter"
