"""A change of key seals the names of subjects, and no plain name is in any file afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from cloud_service.record.backup import back_up
from cloud_service.record.tables import subject
from cloud_service.settings import IndexSettings, Settings
from tests.support.cloud_client import Cloud, assert_problem, random_units
from tests.support.sealed import Key, Rows, plain

DIM, COUNT = 16, 240
DOOR = "/v1/galleries/door"
ROWS = random_units(161, COUNT, DIM)
OLD, NEW, THIRD = (Key(DIM, number) for number in (1, 2, 3))


def _name(number: int) -> str:
    return f"Weihnachtsmann.{number * 7919 % 1000:03d}-{'abcdefgh'[number % 8] * (number % 90)}"


def _enroll(cloud: Cloud, name: str, key: Key, row: Rows, uid: int) -> httpx.Response:
    sent = [{"id": f"{uid:032x}", "template": key.envelope(row, plain(name))}]
    return cloud.http.post(f"{DOOR}/subjects/{name}/templates", json={"templates": sent})


def _seal(cloud: Cloud, before: Key, after: Key, at_most: int = 100) -> dict[str, Any]:
    """Changes the key as an edge does: sends the names that are asked for until none is."""
    names: list[dict[str, str]] = []
    for _ in range(COUNT):
        answer = cloud.http.post(f"{DOOR}/rekey", json=before.rekey(after) | {"names": names})
        told: dict[str, Any] = answer.json()
        assert answer.status_code in {200, 202}, told
        if told["state"] == "settled":
            return told
        if told["working"]:
            time.sleep(0.02)
        names = [{"subject": one, "sealed": after.name(plain(one))} for one in told["unnamed"][:at_most]]
    raise AssertionError(told)


def _in_files(folder: Path, names: list[str]) -> list[str]:
    files = b"\0".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    return [name for name in names if name.encode() in files]


@pytest.mark.parametrize(
    "verify_only", [False, pytest.param(True, marks=pytest.mark.slow(reason="the same for another kind of gallery"))]
)
def test_a_change_of_key_seals_plain_names_and_leaves_none_in_any_file(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str], verify_only: bool
) -> None:
    old, new = Key(DIM, 11, verify_only), Key(DIM, 12, verify_only)
    names = [_name(number) for number in range(COUNT)]
    settings = settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=3600, close_timeout_s=5)})
    with Cloud(settings) as cloud:
        cloud.put_gallery(contract=old.contract, tau=0.9, sealed_names=False)
        for number, name in enumerate(names):
            assert _enroll(cloud, name, old, ROWS[number], number).status_code == 201
        for number in range(0, COUNT, 3):  # rows and pages move
            cloud.http.delete(f"{DOOR}/subjects/{names[number]}").raise_for_status()
            assert _enroll(cloud, names[number], old, ROWS[number], number).status_code == 201
        cloud.http.post(f"{DOOR}/snapshot").raise_for_status()
    with Cloud(settings) as cloud:
        told: dict[str, Any] = {}
        sent: list[str] = []
        while told.get("state") != "settled":
            request = old.rekey(new, *sent) | {"names": [{"subject": one, "sealed": new.name(one)} for one in sent]}
            for one in request["rotations"]:
                one["subject"] = plain(one["subject"]) if verify_only else None
            told = cloud.http.post(f"{DOOR}/rekey", json=request).json()
            assert "unnamed" in told, told
            sent = (told["unnamed"] or told["subjects"])[:60]
        assert cloud.http.get(DOOR).json()["sealed_names"]
        assert _in_files(tmp_path, names) == []
        for number in range(0, COUNT, 17):
            path = f"{DOOR}/subjects/{new.name(names[number])}/verify"
            probe = {"probe": new.envelope(ROWS[number], names[number])}
            assert cloud.http.post(path, json=probe).json()["decision"] == "match"
        back_up(settings.home / "record.db", tmp_path / "backup")
        assert_problem(cloud.http.get(f"{DOOR}/subjects/{names[0]}"), 422, "unprocessable", "name_not_sealed")
    assert _in_files(tmp_path, names) == []
    log = capfd.readouterr()
    assert not [name for name in [*names, *map(new.name, names)] if name in log.out + log.err]


@pytest.mark.both_engines
def test_sealed_names_are_sealed_anew_with_each_key(cloud: Cloud) -> None:
    cloud.put_gallery(contract=OLD.contract, tau=0.9)
    for number in range(5):
        _enroll(cloud, OLD.name(f"s{number}"), OLD, ROWS[number], number)
    for before, after in pairwise((OLD, NEW, THIRD)):
        told = _seal(cloud, before, after, at_most=2)
        assert told["unnamed"] == []
        items = cloud.http.get(f"{DOOR}/names").json()["items"]
        assert [one["subject"] for one in items] == [after.name(f"s{number}") for number in range(5)]
        for number in range(5):
            body = {"probes": [after.envelope(ROWS[number])]}
            [best] = cloud.http.post(f"{DOOR}/identify", json=body).json()["results"][0]["candidates"]
            assert best["subject"] == after.name(f"s{number}")
        late = {"Patronus-Contract": before.contract.digest()}
        answer = cloud.http.get(f"{DOOR}/subjects/{before.name('s0')}", headers=late)
        assert_problem(answer, 409, "contract-mismatch")


def test_who_comes_meanwhile_is_asked_for_and_the_switch_waits(cloud: Cloud) -> None:
    cloud.put_gallery(contract=OLD.contract, tau=0.9)
    for number in range(3):
        _enroll(cloud, OLD.name(f"s{number}"), OLD, ROWS[number], number)
    names = [{"subject": OLD.name(f"s{number}"), "sealed": NEW.name(f"s{number}")} for number in range(3)]
    request = OLD.rekey(NEW)
    told = cloud.http.post(f"{DOOR}/rekey", json=request | {"names": names[:2]}).json()
    assert (told["state"], told["left"], told["unnamed"]) == ("staging", 3, [OLD.name("s2")])
    _enroll(cloud, OLD.name("s1"), OLD, ROWS[9], 9)
    _enroll(cloud, OLD.name("late"), OLD, ROWS[8], 8)
    cloud.http.delete(f"{DOOR}/subjects/{OLD.name('s0')}").raise_for_status()
    _enroll(cloud, OLD.name("s0"), OLD, ROWS[0], 0)
    told = cloud.http.post(f"{DOOR}/rekey", json=request | {"names": names[2:]}).json()
    assert told["state"] == "staging"
    assert told["unnamed"] == [OLD.name("late"), OLD.name("s0")], "whoever came again, too"
    names = [{"subject": OLD.name(who), "sealed": NEW.name(who)} for who in ("late", "s0", "gone")]
    told = cloud.http.post(f"{DOOR}/rekey", json=request | {"names": names}).json()
    assert (told["state"], told["contract_digest"]) == ("settled", NEW.contract.digest())
    items = cloud.http.get(f"{DOOR}/names").json()["items"]
    assert {plain(one["subject"]): one["templates"] for one in items} == {"s0": 1, "s1": 2, "s2": 1, "late": 1}


def test_a_change_that_is_given_up_leaves_no_next_name(cloud: Cloud) -> None:
    cloud.put_gallery(contract=OLD.contract, tau=0.9, sealed_names=False)
    for number in range(4):
        _enroll(cloud, f"s{number}", OLD, ROWS[number], number)
    names = [{"subject": f"s{number}", "sealed": NEW.name(f"s{number}")} for number in range(3)]
    assert cloud.http.post(f"{DOOR}/rekey", json=OLD.rekey(NEW) | {"names": names}).json()["left"] == 4
    assert _in_files(cloud.settings.home, [NEW.name("s0")])
    assert cloud.http.delete(f"{DOOR}/rekey").json()["state"] == "settled"
    with cloud.services.store.record.database.read() as connection:
        assert set(connection.scalars(select(subject.c.next_name))) == {None}
    assert _in_files(cloud.settings.home, [NEW.name(f"s{number}") for number in range(4)]) == []
    assert not cloud.http.get(DOOR).json()["sealed_names"]
    assert cloud.http.get(f"{DOOR}/subjects/s3").status_code == 200


def test_two_subjects_never_get_one_name(cloud: Cloud) -> None:
    cloud.put_gallery(contract=OLD.contract, tau=0.9)
    for number in range(2):
        _enroll(cloud, OLD.name(f"s{number}"), OLD, ROWS[number], number)
    for then in ((NEW.name("x"), NEW.name("x")), (OLD.name("s1"), NEW.name("s1"))):
        names = [{"subject": OLD.name(f"s{at}"), "sealed": one} for at, one in enumerate(then)]
        answer = cloud.http.post(f"{DOOR}/rekey", json=OLD.rekey(NEW) | {"names": names})
        assert_problem(answer, 409, "conflict", "name_taken")
        assert cloud.http.get(DOOR).json()["contract_digest"] == OLD.contract.digest()
        cloud.http.delete(f"{DOOR}/rekey").raise_for_status()
    assert _seal(cloud, OLD, NEW)["state"] == "settled"


WRONG: list[Callable[[str], str]] = [
    lambda _: "anna",
    lambda _: "~",
    lambda name: name[:60],
    lambda name: name + "é",
    lambda name: "~" + "a" * 748,
    lambda name: name.replace("~", "!"),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_sealed_name_is_refused_where_names_are_sealed(cloud: Cloud, wrong: Callable[[str], str]) -> None:
    cloud.put_gallery(contract=OLD.contract)
    _enroll(cloud, OLD.name("s0"), OLD, ROWS[0], 0)
    name = wrong(OLD.name("s1"))
    reason = "name_not_sealed" if name == "anna" else "invalid_request"
    assert_problem(_enroll(cloud, name, OLD, ROWS[1], 1), 422, "unprocessable", reason)
    assert_problem(cloud.http.delete(f"{DOOR}/subjects/{name}"), 422, "unprocessable", reason)
    bulk = {"subject": name, "templates": [{"id": "1" * 32, "template": OLD.envelope(ROWS[1])}]}
    assert_problem(cloud.http.post(f"{DOOR}/templates", json={"subjects": [bulk]}), 422, "unprocessable", reason)
    names = [{"subject": OLD.name("s0"), "sealed": name}]
    answer = cloud.http.post(f"{DOOR}/rekey", json=OLD.rekey(NEW) | {"names": names})
    assert_problem(answer, 422, "unprocessable", "invalid_request")
    assert cloud.held() == (1, 1)


def test_a_gallery_of_plain_names_refuses_sealed_ones_and_the_longest_name_fits(client: Cloud) -> None:
    assert_problem(client.enroll(OLD.name("anna"), ROWS[:1, :8]), 422, "invalid-template")
    row = random_units(3, 1)
    assert_problem(client.enroll(OLD.name("anna"), row), 422, "unprocessable", "name_sealed")
    assert_problem(client.verify(OLD.name("anna"), row[0]), 422, "unprocessable", "name_sealed")
    assert client.held() == (0, 0)
    longest = "~" + "a" * 747
    client.put_gallery("sealed", sealed_names=True)
    assert client.enroll(longest, row, gallery="sealed").status_code == 201
    assert client.found(row[0], gallery="sealed") == [longest]
    assert client.put_gallery("sealed").json()["sealed_names"], "an existing gallery keeps its own"
