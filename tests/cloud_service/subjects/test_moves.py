"""A subject is renamed, merged, or loses some templates to another: all or nothing, matched at once, by both rules."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from cloud_service.rekey.steps import RekeySteps
from cloud_service.settings import RecordSettings, Settings
from shared.envelope import RotationMatrix
from tests.cloud_service.entries.reference import BEST, FLAT, MEAN, plain_score
from tests.support.cloud_client import Cloud, assert_problem, random_units
from tests.support.sealed import Key, Rows

DIM = 16
DOOR = "/v1/galleries/door"
ROWS = random_units(151, 12, DIM)
IDS = [f"{number:032x}" for number in range(12)]
KEY, EACH = Key(DIM, 1), Key(DIM, 1, verify_only=True)


def _move(cloud: Cloud, key: Key, who: str, to: str, onto: str, /, **more: Any) -> httpx.Response:
    rotation = {}
    if key.verify_only:
        matrix = RotationMatrix.pack(key.seal(to) @ key.seal(who).T)
        rotation = {"rotation": matrix.model_dump(mode="json")}
    body = {"to": key.name(to), "onto": onto} | rotation | more
    return cloud.http.post(f"{DOOR}/subjects/{key.name(who)}/move", json=body)


def _enroll(cloud: Cloud, key: Key, who: str, numbers: list[int]) -> None:
    sent = [{"id": IDS[number], "template": key.envelope(ROWS[number], who)} for number in numbers]
    answer = cloud.http.post(f"{DOOR}/subjects/{key.name(who)}/templates", json={"templates": sent})
    assert answer.status_code == 201, answer.text


def _similarity(cloud: Cloud, key: Key, who: str, row: Rows) -> float | None:
    path = f"{DOOR}/subjects/{key.name(who)}/verify"
    answer = cloud.http.post(path, json={"probe": key.envelope(row, who)})
    if answer.status_code == 404:
        return None
    assert answer.status_code == 200, answer.text
    return float(answer.json()["similarity"])


def _found(cloud: Cloud, key: Key, row: Rows) -> list[str]:
    body = {"probes": [key.envelope(row)], "top_k": 5}
    answer = cloud.http.post(f"{DOOR}/identify", json=body).raise_for_status()
    return [one["subject"] for one in answer.json()["results"][0]["candidates"]]


def _held(cloud: Cloud, key: Key, people: dict[str, list[int]], score: dict[str, Any]) -> None:
    """These people have these templates, in the record and in the index, and nobody else is there."""
    listed = cloud.http.get(f"{DOOR}/names").json()["items"]
    assert {one["subject"]: one["templates"] for one in listed} == {
        key.name(who): len(numbers) for who, numbers in people.items()
    }
    assert cloud.held() == (len(people), sum(map(len, people.values())))
    for who, numbers in people.items():
        detail = cloud.http.get(f"{DOOR}/subjects/{key.name(who)}").json()
        assert sorted(one["id"] for one in detail["templates"]) == sorted(IDS[number] for number in numbers)
        for number in numbers:
            expected = plain_score(score, [ROWS[one] for one in numbers], ROWS[number])
            assert _similarity(cloud, key, who, ROWS[number]) == pytest.approx(expected, abs=1e-5)
            if not key.verify_only:
                assert (key.name(who) in _found(cloud, key, ROWS[number])) == (expected >= 0.5)
    store = cloud.services.store
    entries = 0 if key.verify_only else len(people) if score["rule"] == "mean" else sum(map(len, people.values()))
    assert len(store.indexes.of(store.record.gallery("door"))) == entries  # type: ignore[arg-type]


KINDS = [(KEY, MEAN), (KEY, BEST), (EACH, MEAN), (EACH, BEST)]


_MORE = pytest.mark.slow(reason="the other rule")


@pytest.fixture(params=[0, pytest.param(1, marks=_MORE), 2, 3], ids=["mean", "best", "each mean", "each best"])
def kind(request: pytest.FixtureRequest) -> tuple[Key, dict[str, Any]]:
    return KINDS[request.param]


def _enroll_all(cloud: Cloud, key: Key, score: dict[str, Any]) -> None:
    assert cloud.put_gallery(contract=key.contract, score=score).status_code == 201
    for who, numbers in (("anna", [0, 1, 2]), ("ben", [3, 4]), ("carl", [5])):
        _enroll(cloud, key, who, numbers)


@pytest.fixture
def people(cloud: Cloud, kind: tuple[Key, dict[str, Any]]) -> Cloud:
    """Anna with three templates, ben with two and carl with one."""
    _enroll_all(cloud, *kind)
    return cloud


@pytest.mark.both_engines
def test_rename_merge_and_move(settings: Settings, kind: tuple[Key, dict[str, Any]]) -> None:
    key, score = kind
    with Cloud(settings) as cloud:
        _enroll_all(cloud, key, score)
        answer = _move(cloud, key, "anna", "amy", "new").json()
        assert (answer["templates"], answer["total"], answer["emptied"]) == (3, 3, True)
        _held(cloud, key, {"amy": [0, 1, 2], "ben": [3, 4], "carl": [5]}, score)
        answer = _move(cloud, key, "ben", "amy", "existing").json()
        assert (answer["templates"], answer["total"], answer["emptied"]) == (2, 5, True)
        _held(cloud, key, {"amy": [0, 1, 2, 3, 4], "carl": [5]}, score)
        answer = _move(cloud, key, "amy", "dora", "either", templates=IDS[3:5]).json()
        assert (answer["templates"], answer["total"], answer["emptied"]) == (2, 2, False)
        _held(cloud, key, {"amy": [0, 1, 2], "dora": [3, 4], "carl": [5]}, score)
        answer = _move(cloud, key, "carl", "dora", "either", templates=[IDS[5]]).json()
        assert (answer["templates"], answer["total"], answer["emptied"]) == (1, 3, True), "the last one"
        erasure = cloud.http.get(f"{DOOR}/erasures/{answer['receipt']['id']}").json()
        assert (erasure["action"], erasure["status"], erasure["subjects"]) == ("templates_moved", "done", 1)
    with Cloud(settings) as cloud:
        _held(cloud, key, {"amy": [0, 1, 2], "dora": [3, 4, 5]}, score)


def test_the_log_has_marks_that_outlive_the_names(people: Cloud, kind: tuple[Key, dict[str, Any]]) -> None:
    key, _ = kind
    _move(people, key, "anna", "amy", "new")
    _move(people, key, "amy", "ben", "either", templates=[IDS[0]])
    _move(people, key, "amy", "ben", "existing")
    people.http.delete(f"{DOOR}/subjects/{key.name('ben')}").raise_for_status()
    entries = people.http.get("/v1/audit").json()["items"]
    text = str(entries)
    assert not any(key.name(who) in text or f"'{who}'" in text for who in ("anna", "amy", "ben", "carl"))
    [renamed], [face, rest], [erased] = (
        [one["details"] for one in entries if one["action"] == action]
        for action in ("subject_renamed", "templates_moved", "subject_erased")
    )
    assert renamed["subject"] == face["subject"] == rest["subject"]
    assert face["into"] == rest["into"] == erased["subject"] != renamed["subject"]
    assert (face["template"], face["subjects"], rest["subjects"]) == (IDS[0], 0, 1)
    assert "template" not in rest
    assert erased["moved"].split() == IDS[:3]


def test_what_cannot_be_moved_is_refused_and_changes_nothing(people: Cloud, kind: tuple[Key, dict[str, Any]]) -> None:
    key, score = kind
    before = people.http.get(f"{DOOR}/names").json()
    unwanted = "wrong_subject"  # where all have one seal
    wrong = {"rotation": None} if key.verify_only else {"rotation": RotationMatrix.pack(np.eye(DIM)).model_dump()}
    not_one = {"rotation": {"dim": DIM, "dtype": "float64", "data": "AAAA"}}
    for answer, status, reason in (
        (_move(people, key, "anna", "anna", "either"), 422, "same_subject"),
        (_move(people, key, "anna", "ben", "new"), 409, "subject_exists"),
        (_move(people, key, "anna", "dora", "existing"), 404, "unknown_target"),
        (_move(people, key, "dora", "ben", "existing"), 404, "unknown_subject"),
        (_move(people, key, "anna", "ben", "either", templates=[IDS[0], IDS[3]]), 404, "unknown_template"),
        (
            _move(people, key, "anna", "ben", "existing", **wrong),
            422,
            "no_matrix" if key.verify_only else unwanted,
        ),
        (
            _move(people, key, "anna", "ben", "existing", **not_one),
            422,
            "not_a_rotation" if key.verify_only else "wrong_subject",
        ),
        (_move(people, key, "anna", "ben", "either", templates=[]), 422, "invalid_request"),
        (_move(people, key, "anna", "ben", "elsewhere"), 422, "invalid_request"),
        (_move(people, key, "anna", "ben", "either", to="plain"), 422, "name_not_sealed"),
    ):
        kind_of = {404: "not-found", 409: "conflict", 422: "unprocessable"}[status]
        assert_problem(answer, status, kind_of, reason)
    assert_problem(
        people.http.post(f"/v1/galleries/nowhere/subjects/{key.name('anna')}/move", json={"to": "x", "onto": "new"}),
        404,
        "not-found",
        "unknown_gallery",
    )
    assert people.http.get(f"{DOOR}/names").json() == before
    _held(people, key, {"anna": [0, 1, 2], "ben": [3, 4], "carl": [5]}, score)


def test_a_late_contract_is_told_before_anything_is_looked_up(people: Cloud, kind: tuple[Key, dict[str, Any]]) -> None:
    key, score = kind
    late = {"Patronus-Contract": "0" * 64}
    who = f"{DOOR}/subjects/{key.name('anna')}"
    for method, path, body in (
        ("GET", who, None),
        ("DELETE", who, None),
        ("DELETE", f"{who}/templates/{IDS[0]}", None),
        ("GET", f"{who}/report", None),
        ("PUT", f"{who}/expiry", {"expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()}),
        ("DELETE", f"{who}/expiry", None),
        ("POST", f"{who}/move", {"to": key.name("eve"), "onto": "new"}),
        ("GET", f"{DOOR}/names", None),
    ):
        answer = people.http.request(method, path, json=body, headers=late)
        problem = assert_problem(answer, 409, "contract-mismatch")
        assert problem["expected"] == key.contract.digest()
        broken = people.http.request(method, path, json=body, headers={"Patronus-Contract": "none"})
        assert_problem(broken, 422, "unprocessable", "invalid_request")
    _held(people, key, {"anna": [0, 1, 2], "ben": [3, 4], "carl": [5]}, score)
    right = {"Patronus-Contract": key.contract.digest()}
    assert people.http.get(who, headers=right).status_code == 200


def test_a_full_subject_takes_no_more(settings: Settings) -> None:
    record = RecordSettings(max_templates_a_subject=4)
    with Cloud(settings.model_copy(update={"record": record})) as cloud:
        cloud.put_gallery(contract=KEY.contract)
        _enroll(cloud, KEY, "anna", [0, 1, 2])
        _enroll(cloud, KEY, "ben", [3, 4])
        assert_problem(_move(cloud, KEY, "ben", "anna", "existing"), 409, "conflict", "subject_full")
        assert _move(cloud, KEY, "ben", "anna", "existing", templates=[IDS[3]]).status_code == 200
        _held(cloud, KEY, {"anna": [0, 1, 2, 3], "ben": [4]}, FLAT)


def test_nothing_is_moved_while_the_key_is_changed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Key(DIM, 2)
    cloud.put_gallery(contract=KEY.contract)
    _enroll(cloud, KEY, "anna", [0, 1])
    unnamed = KEY.rekey(new) | {"names": []}
    assert cloud.http.post(f"{DOOR}/rekey", json=unnamed).json()["state"] == "staging"
    assert_problem(_move(cloud, KEY, "anna", "amy", "new"), 409, "conflict", "rekey_under_way")
    cloud.http.delete(f"{DOOR}/rekey").raise_for_status()
    assert _move(cloud, KEY, "anna", "amy", "new").status_code == 200
    monkeypatch.setattr(RekeySteps, "settle", lambda *_given: False)
    cloud.http.post(f"{DOOR}/rekey", json=KEY.rekey(new)).raise_for_status()
    assert_problem(_move(cloud, new, "amy", "eve", "new"), 409, "conflict", "rekey_under_way")
    monkeypatch.undo()
    while cloud.http.post(f"{DOOR}/rekey", json=KEY.rekey(new)).json()["state"] != "settled":
        time.sleep(0.05)
    assert _move(cloud, new, "amy", "eve", "new").status_code == 200
    _held(cloud, new, {"eve": [0, 1]}, FLAT)


@pytest.mark.both_engines
def test_of_many_renames_at_once_one_is_done(cloud: Cloud) -> None:
    cloud.put_gallery(contract=KEY.contract)
    _enroll(cloud, KEY, "anna", [0, 1])
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda to: _move(cloud, KEY, "anna", to, "new"), ("a", "b", "c", "d")))
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404]
    to = "abcd"[[answer.status_code for answer in answers].index(200)]
    _held(cloud, KEY, {to: [0, 1]}, FLAT)


def test_moves_erasures_and_expiries_at_once_leave_the_index_as_the_record(cloud: Cloud) -> None:
    cloud.put_gallery(contract=KEY.contract)
    people = ["anna", "ben", "carl"]

    def live(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for step in range(12):
            who, to = (people[int(at)] for at in chance.permutation(3)[:2])
            what = step % 4
            if what == 0:
                number = int(chance.integers(len(ROWS)))
                sent = [{"id": f"{seed:016x}{step:016x}", "template": KEY.envelope(ROWS[number])}]
                answer = cloud.http.post(f"{DOOR}/subjects/{KEY.name(who)}/templates", json={"templates": sent})
            elif what == 1:
                answer = _move(cloud, KEY, who, to, "either")
            elif what == 2:
                moment = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
                answer = cloud.http.put(f"{DOOR}/subjects/{KEY.name(who)}/expiry", json={"expires_at": moment})
                for pinned in cloud.services.store.retention.limited():
                    cloud.services.store.erase_expired(pinned, 100)
            else:
                answer = cloud.http.delete(f"{DOOR}/subjects/{KEY.name(who)}")
            assert answer.status_code in {200, 201, 202, 404, 409, 422}, answer.text  # 422: the moment is past

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(live, range(3)))
    time.sleep(0.3)
    for pinned in cloud.services.store.retention.limited():
        while cloud.services.store.erase_expired(pinned, 100):
            pass
    items = cloud.http.get(f"{DOOR}/names").json()["items"]
    assert cloud.held() == (len(items), sum(one["templates"] for one in items))
    store = cloud.services.store
    pinned = store.record.gallery("door")
    stored = {int(one) for ids, _ in store.record.entries.batches(pinned) for one in ids}
    index = store.indexes.of(pinned)
    assert {int(one) for segment in index.segments() for one in segment.ids if one >= 0} == stored  # type: ignore[attr-defined]
