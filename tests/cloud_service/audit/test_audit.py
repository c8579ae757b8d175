"""The audit log tells what was done, names nobody, and shows when somebody changed it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud_service.cli import app
from cloud_service.settings import Settings
from shared.security.credentials import Scope
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units

VECTORS = random_units(41, 40)
ID = "1" * 32


def _log(cloud: Cloud, **options: Any) -> list[dict[str, Any]]:
    """All entries, taken a few at a time as somebody outside takes them."""
    entries: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = cloud.http.get("/v1/audit", params={"after": after, "limit": 3}, **options).json()
        assert len(page["items"]) <= 3
        entries += page["items"]
        after = page["next"]
    return entries


def _checked_by_an_outsider(entries: list[dict[str, Any]]) -> str:
    """The ten lines of docs/operating.md; gives the head."""
    seq, previous = 0, "0" * 64
    for entry in entries:
        fields = [entry[name] for name in ("seq", "at", "key_id", "action", "gallery", "details", "previous")]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert (entry["seq"], entry["previous"], entry["digest"]) == (seq + 1, previous, digest)
        seq, previous = entry["seq"], digest
    return f"{seq}:{previous}"


def _head(cloud: Cloud) -> str:
    head = cloud.http.get("/v1/audit/head").json()
    return f"{head['seq']}:{head['digest']}"


def _live(cloud: Cloud) -> None:
    """Every kind of change, once."""
    cloud.put_gallery()
    cloud.put_gallery()
    cloud.enroll("anna@home.example", VECTORS[:3], ids=[ID, "2" * 32, "3" * 32])
    cloud.enroll("anna@home.example", VECTORS[:1], ids=[ID])
    cloud.erase(f"/subjects/anna@home.example/templates/{ID}")
    cloud.erase("/subjects/anna@home.example")
    cloud.http.put("/v1/galleries/door/retention", json={"max_age_seconds": 60})
    cloud.http.put("/v1/galleries/door/retention", json={"max_age_seconds": 60})
    cloud.http.delete("/v1/galleries/door/retention")
    cloud.erase()


@pytest.fixture
def lived(cloud: Cloud) -> Cloud:
    """A cloud in which every kind of change was made once."""
    _live(cloud)
    return cloud


@pytest.fixture(scope="module")
def record_of_a_life(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The record of such a cloud, and its head."""
    home = tmp_path_factory.mktemp("lived") / "cloud"
    with Cloud(Settings(home=home)) as cloud:
        _live(cloud)
        head = _head(cloud)
    return home / "record.db", head


@pytest.fixture
def left(record_of_a_life: tuple[Path, str], settings: Settings) -> tuple[Settings, str]:
    """A copy of that record in a home of its own, for a test to spoil; and its head."""
    record, head = record_of_a_life
    settings.home.mkdir()
    (settings.home / "record.db").write_bytes(record.read_bytes())
    return settings, head


def test_each_change_is_an_entry_and_what_changed_nothing_is_none(lived: Cloud) -> None:
    entries = _log(lived)
    [key] = lived.services.key_ring.records()
    assert [(entry["action"], entry["key_id"], entry["gallery"]) for entry in entries] == [
        ("service_started", None, None),
        ("gallery_made", key.id, "door"),
        ("templates_enrolled", key.id, "door"),
        ("template_erased", key.id, "door"),
        ("subject_erased", key.id, "door"),
        ("retention_changed", key.id, "door"),
        ("retention_changed", key.id, "door"),
        ("gallery_erased", key.id, "door"),
    ]
    logged = [{k: v for k, v in entry["details"].items() if k != "gallery_id"} for entry in entries]
    mark = logged[4]["subject"]
    assert logged[1:] == [
        {"contract": contract_of().digest()},
        {"templates": 3},
        {"subject": mark, "template": ID, "subjects": 0, "templates": 1},
        {"subject": mark, "subjects": 1, "templates": 2},
        {"max_age_seconds": 60},
        {"max_age_seconds": None},
        {"subjects": 0, "templates": 0},
    ]
    assert _checked_by_an_outsider(entries) == _head(lived)


def test_what_was_refused_or_only_asked_is_no_entry(client: Cloud) -> None:
    client.enroll("anna", VECTORS[:1])
    before = _head(client)
    assert client.put_gallery(tau=0.7).status_code == 409
    assert client.enroll("anna", [VECTORS[0], VECTORS[0]], ids=[ID, ID]).status_code == 422
    assert client.http.delete("/v1/galleries/door/subjects/ben").status_code == 404
    assert client.http.delete(f"/v1/galleries/door/subjects/anna/templates/{ID}").status_code == 404
    assert client.verify("anna", VECTORS[0]).status_code == 200
    assert client.found(VECTORS[0]) == ["anna"]
    assert _head(client) == before


def test_the_log_names_no_subject_and_is_searched_by_the_mark_of_a_receipt(
    lived: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = json.dumps(_log(lived))
    assert "anna" not in logged
    assert "home.example" not in logged
    mark = _log(lived)[4]["details"]["subject"]
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(lived.settings.home))
    said = CliRunner().invoke(app, ["audit", "find", "door", mark])
    assert [json.loads(line) for line in said.stdout.splitlines()] == _log(lived)[3:5]
    by_receipt = CliRunner().invoke(app, ["audit", "find", "door", str(_log(lived)[4]["seq"])])
    assert by_receipt.stdout == said.stdout
    of_none = str(_log(lived)[0]["seq"])
    for unknown in ("anna@home.example", "ben", "gallery_id", "%", "0" * 64, "9" * 18, "9" * 40, of_none):
        said = CliRunner().invoke(app, ["audit", "find", "door", unknown])
        assert (said.exit_code, said.stdout) == (0, "")
        assert "nothing about this subject" in said.stderr
    said = CliRunner().invoke(app, ["audit", "find", "window", mark])
    assert (said.exit_code, said.stdout) == (0, "")
    assert said.stderr == "There is no gallery window, and the log has nothing about one of this name.\n"


def test_a_receipt_is_the_logs_own_entry_and_its_status_outlives_the_gallery(client: Cloud) -> None:
    client.enroll("anna", VECTORS[:2])
    subject = client.http.delete("/v1/galleries/door/subjects/anna").json()
    whole = client.http.delete("/v1/galleries/door").json()
    for answer, action in ((subject, "subject_erased"), (whole, "gallery_erased")):
        [entry] = [entry for entry in _log(client) if entry["seq"] == answer["receipt"]["id"]]
        assert answer["receipt"] == {"id": entry["seq"], "at": entry["at"], "digest": entry["digest"]}
        status = client.http.get(f"/v1/galleries/door/erasures/{entry['seq']}").json()
        assert (status["action"], status["status"], status["pending"]) == (action, "done", [])
    made = next(entry["seq"] for entry in _log(client) if entry["action"] == "gallery_made")
    for unknown in (made, 99):
        answer = client.http.get(f"/v1/galleries/door/erasures/{unknown}")
        assert_problem(answer, 404, "not-found", "unknown_erasure")


def test_a_key_for_some_galleries_sees_what_is_about_these_and_no_more(cloud: Cloud) -> None:
    for name in ("mine", "theirs"):
        cloud.put_gallery(name)
        cloud.enroll("anna", VECTORS[:1], gallery=name)
        cloud.erase("/subjects/anna", gallery=name)
    key = cloud.key(Scope.MANAGE, galleries=["mine"])
    assert [entry["action"] for entry in _log(cloud, headers=key)] == [
        "gallery_made",
        "templates_enrolled",
        "subject_erased",
    ]
    assert {entry["gallery"] for entry in _log(cloud, headers=key)} == {"mine"}
    assert_problem(cloud.http.get("/v1/audit/head", headers=key), 403, "forbidden")
    mine, theirs = [entry["seq"] for entry in _log(cloud) if entry["action"] == "subject_erased"]
    assert cloud.http.get(f"/v1/galleries/mine/erasures/{mine}", headers=key).status_code == 200
    for path in (f"mine/erasures/{theirs}", f"theirs/erasures/{theirs}"):
        assert cloud.http.get(f"/v1/galleries/{path}", headers=key).status_code == 404


def test_writers_at_the_same_time_make_one_chain(cloud: Cloud) -> None:
    for name in ("a", "b"):
        cloud.put_gallery(name)

    def write(name: str, start: int) -> None:
        for number in range(start, start + 10):
            assert cloud.enroll(f"s{number}", [VECTORS[number]], gallery=name).status_code == 201
            if number % 2:
                cloud.erase(f"/subjects/s{number}", gallery=name)

    threads = [threading.Thread(target=write, args=(name, at)) for name, at in (("a", 0), ("a", 10), ("b", 20))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = _log(cloud)
    assert len(entries) == 1 + 2 + 30 + 15
    assert _checked_by_an_outsider(entries) == _head(cloud)


@contextmanager
def _file(settings: Settings) -> Iterator[sqlite3.Connection]:
    """The record as somebody opens it who should not."""
    connection = sqlite3.connect(settings.home / "record.db", isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def _verify(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    said = CliRunner().invoke(app, ["audit", "verify", *words])
    return said.exit_code, said.output.strip()


def _recomputed(record: sqlite3.Connection) -> None:
    """The whole chain, as whoever may write the record and has read its code would."""
    previous, rows = "0" * 64, record.execute("SELECT * FROM audit ORDER BY seq").fetchall()
    for number, (seq, at, key_id, action, gallery, details, *_) in enumerate(rows, start=1):
        moment = at.replace(" ", "T") + "Z"
        fields = [number, moment, key_id, action, gallery, json.loads(details), previous]
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        changed = (number, previous, digest, seq)
        record.execute("UPDATE audit SET seq = ?, previous = ?, digest = ? WHERE seq = ?", changed)
        previous = digest
    record.execute("UPDATE record_value SET value = ? WHERE name = 'audit_head'", (f"{len(rows)}:{previous}",))


TAMPERED: dict[str, tuple[list[str], str]] = {
    "changed": (["UPDATE audit SET key_id = '0123456789ab' WHERE seq = 5"], "entry 5 is not what it was"),
    "time changed": (["UPDATE audit SET at = '2001-01-01 00:00:00.000000' WHERE seq = 5"], "entry 5 is not"),
    "details changed": (["UPDATE audit SET details = '{\"templates\": 1}' WHERE seq = 3"], "entry 3 is not"),
    "no details": (
        ["UPDATE audit SET details = 'nothing' WHERE seq = 3"],
        "entry 3 is not what it was",
    ),
    "no time": (["UPDATE audit SET at = 'never' WHERE seq = 3"], "entry 3 is not what it was"),
    "digest changed": ([f"UPDATE audit SET digest = '{'0' * 64}' WHERE seq = 8"], "entry 8 is not"),
    "the first taken out": (["DELETE FROM audit WHERE seq = 1"], "entry 1 is missing"),
    "taken out": (["DELETE FROM audit WHERE seq = 5"], "entry 5 is missing"),
    "taken out, numbers closed": (
        ["DELETE FROM audit WHERE seq = 5", *(f"UPDATE audit SET seq = {n - 1} WHERE seq = {n}" for n in (6, 7, 8))],
        "entry 5 does not belong",
    ),
    "put in between": (
        [
            *(f"UPDATE audit SET seq = {n + 1} WHERE seq = {n}" for n in (8, 7, 6)),
            "INSERT INTO audit SELECT 6, at, key_id, action, gallery, details, digest, previous FROM audit WHERE seq=5",
        ],
        "entry 6 is not what it was",
    ),
    "put at the end": (
        ["INSERT INTO audit SELECT 9, at, key_id, action, gallery, details, digest, digest FROM audit WHERE seq = 8"],
        "entry 9 is not what it was",
    ),
    "order changed": (
        [
            "UPDATE audit SET seq = 99 WHERE seq = 4",
            "UPDATE audit SET seq = 4 WHERE seq = 5",
            "UPDATE audit SET seq = 5 WHERE seq = 99",
        ],
        "entry 4 does not belong",
    ),
    "cut off": (["DELETE FROM audit WHERE seq > 6"], "ends with entry 6"),
    "all gone": (["DELETE FROM audit"], "ends with entry 0"),
    "the end's note changed": (["UPDATE record_value SET value = 'x' WHERE name = 'audit_head'"], "ends with entry 8"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_somebody_did_to_the_log_is_named(
    left: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    settings, head = left
    statements, says = TAMPERED[how]
    sound = f"8 entries, chain intact. Store this head elsewhere:\n{head}"
    assert _verify(settings, monkeypatch) == (0, sound)
    with _file(settings) as record:
        for statement in statements:
            record.execute(statement)
    status, said = _verify(settings, monkeypatch)
    assert status == 1
    assert says in said


@pytest.mark.parametrize("how", ["cut off", "changed", "replaced"])
def test_a_log_that_was_recomputed_shows_only_against_a_head_noted_before(
    left: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    settings, head = left
    statements = {
        "cut off": "DELETE FROM audit WHERE seq > 6",
        "changed": "UPDATE audit SET key_id = NULL WHERE seq = 3",
        "replaced": "DELETE FROM audit WHERE seq = 4",
    }
    with _file(settings) as record:
        record.execute(statements[how])
        _recomputed(record)
    assert _verify(settings, monkeypatch)[0] == 0, "whoever can rewrite all of it is not seen from within"
    status, said = _verify(settings, monkeypatch, "--head", head)
    assert status == 1
    assert ("another one than was noted" if how == "changed" else "its end was cut off") in said


def test_a_log_that_went_on_still_holds_the_head_and_each_receipt(
    client: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = _head(client)
    client.enroll("anna", VECTORS[:1])
    receipt = client.http.delete("/v1/galleries/door/subjects/anna").json()["receipt"]
    client.enroll("ben", VECTORS[:1])
    for noted in (head, f"{receipt['id']}:{receipt['digest']}"):
        assert _verify(client.settings, monkeypatch, "--head", noted)[0] == 0
    for wrong in ("7", "x:y", f"1:{'0' * 63}", f"-1:{'0' * 64}"):
        said = CliRunner().invoke(app, ["audit", "verify", "--head", wrong])
        assert "A head is a number" in str(said.exception)


@pytest.mark.parametrize("action", ["stop", "none", "old"])
def test_the_log_is_checked_without_a_service_too_and_mistakes_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, action: str, tmp_path: Path
) -> None:
    with Cloud(settings) as cloud:
        head = _head(cloud)
    if action == "stop":
        assert _verify(settings, monkeypatch)[1].endswith(head)
        return
    if action == "none":
        settings = settings.model_copy(update={"home": tmp_path / "elsewhere"})
    else:
        with _file(settings) as record:
            record.execute("DROP TABLE audit")
    monkeypatch.setenv("PATRONUS_CLOUD__HOME", str(settings.home))
    said = CliRunner().invoke(app, ["audit", "verify"])
    assert ("no record" if action == "none" else "no audit log") in str(said.exception)


def test_an_entry_and_what_it_tells_of_are_written_together_or_not_at_all(
    client: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enroll("anna", VECTORS[:1])
    with _file(client.settings) as record:
        record.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    refused: list[Callable[[], Any]] = [
        lambda: client.enroll("ben", VECTORS[1:2]),
        lambda: client.put_gallery("other"),
        lambda: client.http.delete("/v1/galleries/door/subjects/anna"),
        lambda: client.http.delete("/v1/galleries/door"),
        lambda: client.http.put("/v1/galleries/door/retention", json={"max_age_seconds": 60}),
    ]
    for change in refused:
        assert change().status_code == 500
    assert client.held() == (1, 1)
    assert client.found(VECTORS[0]) == ["anna"]
    assert client.http.get("/v1/galleries/door").json()["max_age_seconds"] is None
    assert len(client.http.get("/v1/galleries").json()["items"]) == 1
