"""A subject with an expiry of its own matches nobody from then on, and the sweep erases it, also from backups."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest

from cloud_service.erasure.carry_over import Repeated
from cloud_service.housekeeping import check_clock
from cloud_service.record.backup import back_up, restore
from cloud_service.settings import RetentionSettings, Settings
from shared.wire.common import moment_text
from tests.cloud_service.record.set_clock import Hands
from tests.support.cloud_client import Cloud, assert_problem, random_units

DOOR = "/v1/galleries/door"
ROWS = random_units(191, 6)
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def hands() -> Hands:
    return Hands(NOW)


@pytest.fixture
def aging(settings: Settings, hands: Hands) -> Iterator[Cloud]:
    """A gallery with anna and ben, and a clock that the test sets."""
    settings = settings.model_copy(update={"retention": RetentionSettings(sweep_interval_s=3600)})
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery(tau=0.9, score={"rule": "best"})
        for at, name in enumerate(("anna", "ben")):
            cloud.enroll(name, ROWS[2 * at : 2 * at + 2], ids=[f"{2 * at + one:032x}" for one in range(2)])
        yield cloud


def _expire(cloud: Cloud, name: str, moment: datetime) -> httpx.Response:
    return cloud.http.put(f"{DOOR}/subjects/{name}/expiry", json={"expires_at": moment.isoformat()})


def _pass(cloud: Cloud, hands: Hands, time: timedelta) -> None:
    for _ in range(int(time / timedelta(minutes=4)) + 1):
        hands.pass_by(timedelta(minutes=4))
        cloud.services.store.record.clock.observe(hands.wall)


def _sweep(cloud: Cloud) -> None:
    for pinned in check_clock(cloud.services.store):
        while cloud.services.store.erase_expired(pinned, 1):
            pass


@pytest.mark.both_engines
def test_it_matches_is_listed_and_is_there_until_then_and_no_longer(aging: Cloud, hands: Hands) -> None:
    answer = _expire(aging, "anna", NOW + 2 * HOUR)
    assert answer.status_code == 200
    assert datetime.fromisoformat(answer.json()["expires_at"]) == NOW + 2 * HOUR
    _pass(aging, hands, HOUR)
    assert aging.verify("anna", ROWS[0]).json()["decision"] == "match"
    listed = aging.http.get(f"{DOOR}/names").json()["items"]
    assert {one["subject"]: one["expires_at"] is not None for one in listed} == {"anna": True, "ben": False}
    _pass(aging, hands, HOUR)
    assert_problem(aging.verify("anna", ROWS[0]), 404, "not-found", "unknown_subject")
    assert aging.found(ROWS[0]) == []
    assert aging.found(ROWS[2]) == ["ben"]
    assert [one["subject"] for one in aging.http.get(f"{DOOR}/names").json()["items"]] == ["ben"]
    assert_problem(aging.http.get(f"{DOOR}/subjects/anna"), 404, "not-found", "unknown_subject")
    assert_problem(_expire(aging, "anna", NOW + 9 * HOUR), 404, "not-found", "unknown_subject")
    assert_problem(aging.http.delete(f"{DOOR}/subjects/anna/expiry"), 404, "not-found", "unknown_subject")
    assert_problem(aging.enroll("anna", ROWS[4:5]), 409, "conflict", "subject_expired")
    move = {"to": "anna", "onto": "either"}
    answer = aging.http.post(f"{DOOR}/subjects/ben/move", json=move)
    assert_problem(answer, 409, "conflict", "subject_expired")
    assert aging.held() == (2, 4), "not erased yet"
    _sweep(aging)
    assert aging.held() == (1, 2)
    assert aging.enroll("anna", ROWS[4:5]).status_code == 201, "another one, without an expiry"
    _pass(aging, hands, 3 * HOUR)
    _sweep(aging)
    assert aging.found(ROWS[4]) == ["anna"]
    [entry] = [one for one in aging.http.get("/v1/audit").json()["items"] if one["action"] == "templates_expired"]
    assert (entry["details"]["subjects"], entry["details"]["templates"]) == (1, 2)
    assert len(entry["details"]["subject"]) == 64


def test_the_expiry_can_be_changed_removed_and_is_audited_once(aging: Cloud, hands: Hands) -> None:
    for moment in (NOW + HOUR, NOW + 2 * HOUR, NOW + 2 * HOUR):
        assert _expire(aging, "anna", moment).status_code == 200
    assert aging.http.delete(f"{DOOR}/subjects/anna/expiry").json()["expires_at"] is None
    _pass(aging, hands, 3 * HOUR)
    _sweep(aging)
    assert aging.held() == (2, 4)
    changes = [one for one in aging.http.get("/v1/audit").json()["items"] if one["action"] == "expiry_changed"]
    expected = [moment_text(NOW + HOUR), moment_text(NOW + 2 * HOUR), None]
    assert [one["details"]["expires_at"] for one in changes] == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "2026-03-02T12:00:00Z",
        "2099-03-02T12:00:00",
        "2200-01-01T00:00:00Z",
        "tomorrow",
        None,
        "9999-12-31T23:59:59-12:00",
    ],
)
def test_a_moment_that_is_none_is_past_or_has_no_zone_is_refused(aging: Cloud, wrong: str | None) -> None:
    answer = aging.http.put(f"{DOOR}/subjects/anna/expiry", json={"expires_at": wrong})
    assert_problem(answer, 422, "unprocessable")
    assert_problem(_expire(aging, "nobody", NOW + HOUR), 404, "not-found", "unknown_subject")
    assert aging.http.get(f"{DOOR}/subjects/anna").json()["expires_at"] is None


def test_a_renamed_subject_and_one_made_of_its_faces_keep_its_expiry(aging: Cloud, hands: Hands) -> None:
    _expire(aging, "anna", NOW + 2 * HOUR)
    path = f"{DOOR}/subjects/anna/move"
    aging.http.post(path, json={"to": "eve", "onto": "new", "templates": ["0" * 32]}).raise_for_status()
    aging.http.post(path, json={"to": "amy", "onto": "new"}).raise_for_status()
    for name in ("eve", "amy"):
        assert aging.http.get(f"{DOOR}/subjects/{name}").json()["expires_at"] is not None
    _pass(aging, hands, 3 * HOUR)
    _sweep(aging)
    assert aging.held() == (1, 2)
    rest = b"".join(file.read_bytes() for file in aging.settings.home.rglob("*") if file.is_file())
    assert not [at for at in (0, 1) if ROWS[at].astype("<f4").tobytes() in rest]


def test_it_is_erased_from_an_older_backup_too(aging: Cloud, hands: Hands, tmp_path: Path) -> None:
    record = aging.settings.home / "record.db"
    back_up(record, tmp_path / "backup")
    _expire(aging, "anna", NOW + HOUR)
    _pass(aging, hands, 2 * HOUR)
    _sweep(aging)
    copy = tmp_path / "copy" / "record.db"
    copy.parent.mkdir()
    back_up(record, copy)
    assert restore(tmp_path / "backup", copy, replace=True).carried.repeated == Repeated(1, 1, 2)
    with Cloud(Settings(home=copy.parent), hands.clock()) as restored:
        assert restored.found(ROWS[2]) == ["ben"]
        assert restored.found(ROWS[0]) == []


def test_many_that_expire_together_are_erased_in_batches(settings: Settings, hands: Hands) -> None:
    rows = random_units(17, 40)
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery(tau=0.99)
        for at, row in enumerate(rows):
            cloud.enroll(f"s{at}", np.array([row]))
            if at % 2:
                _expire(cloud, f"s{at}", NOW + HOUR)
        _pass(cloud, hands, 2 * HOUR)
        [pinned] = check_clock(cloud.services.store)
        assert cloud.services.store.erase_expired(pinned, 15)
        assert cloud.held() == (25, 25)
        assert not cloud.services.store.erase_expired(pinned, 15)
        assert cloud.held() == (20, 20)
