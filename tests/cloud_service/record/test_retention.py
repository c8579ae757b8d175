"""Templates that expire match nobody from that second on, and are erased soon after, with an entry in the log."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud_service.housekeeping import check_clock
from cloud_service.settings import RetentionSettings, Settings
from shared.errors import SetupError
from shared.wire.common import moment_text
from tests.cloud_service.record.set_clock import Hands
from tests.support.cloud_client import Cloud, assert_problem, random_units, towards
from tests.support.sealed import Key

DAY = timedelta(days=1)
VECTORS = random_units(61, 60)
RETENTION = "/v1/galleries/door/retention"


@pytest.fixture
def hands() -> Hands:
    return Hands(datetime.now(UTC))


@pytest.fixture
def aging(settings: Settings, hands: Hands) -> Iterator[Cloud]:
    """A cloud whose clock a test sets, and which sweeps only when told; templates live for ten days."""
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        _keep(cloud, 10 * DAY)
        yield cloud


def _keep(cloud: Cloud, age: timedelta) -> None:
    answer = cloud.http.put(RETENTION, json={"max_age_seconds": int(age.total_seconds())})
    assert (answer.status_code, answer.json()["max_age_seconds"]) == (200, age.total_seconds())


def _sweep(cloud: Cloud, at_most: int = 500) -> None:
    """What the service does by itself once a minute."""
    store = cloud.services.store
    for gallery in check_clock(store):
        while store.erase_expired(gallery, at_most):
            pass


def _pass(cloud: Cloud, hands: Hands, time: timedelta) -> None:
    """Time passes, and the service looks at its clock as it does; nothing is erased."""
    for _ in range(int(time / timedelta(minutes=4))):
        hands.pass_by(timedelta(minutes=4))
        cloud.services.store.record.clock.observe(hands.wall)
    hands.pass_by(time % timedelta(minutes=4))


def _entries(cloud: Cloud, action: str) -> list[dict[str, Any]]:
    entries = cloud.http.get("/v1/audit", params={"limit": 500}).json()["items"]
    return [entry for entry in entries if entry["action"] == action]


def _held(cloud: Cloud) -> int:
    return int(cloud.http.get("/v1/galleries/door").json()["templates"])


def test_an_expired_template_matches_nobody_from_that_second_on(aging: Cloud, hands: Hands) -> None:
    aging.enroll("anna", VECTORS[:1])
    hands.pass_by(timedelta(seconds=100))
    aging.enroll("anna", VECTORS[1:2])
    _pass(aging, hands, 10 * DAY - timedelta(seconds=101))
    assert aging.found(VECTORS[0]) == ["anna"]
    assert aging.verify("anna", VECTORS[0]).json()["decision"] == "match"
    hands.pass_by(timedelta(seconds=1))
    assert aging.found(VECTORS[0]) == []
    assert aging.verify("anna", VECTORS[0]).json()["similarity"] < 0.999
    assert aging.found(VECTORS[1]) == ["anna"], "the younger one lives on"
    assert len(aging.http.get("/v1/galleries/door/subjects/anna").json()["templates"]) == 1
    assert aging.http.get("/v1/galleries/door/names").json()["items"][0]["templates"] == 1
    hands.pass_by(timedelta(seconds=100))
    assert aging.found(VECTORS[1]) == []
    assert_problem(aging.verify("anna", VECTORS[1]), 404, "not-found", "unknown_subject")
    assert_problem(aging.http.get("/v1/galleries/door/subjects/anna"), 404, "not-found", "unknown_subject")
    assert aging.http.get("/v1/galleries/door/names").json()["items"] == []
    assert _held(aging) == 2, "nothing was erased yet: it is the clock that counts"


def test_what_expired_is_erased_in_batches_with_a_receipt_for_each(aging: Cloud, hands: Hands) -> None:
    for number in range(25):
        aging.enroll(f"s{number}", VECTORS[number : number + 1])
    aging.enroll("both", VECTORS[30:31])
    _pass(aging, hands, 5 * DAY)
    aging.enroll("both", VECTORS[31:32])
    _pass(aging, hands, 5 * DAY)
    raw = VECTORS[3].astype("<f4").tobytes()
    assert any(raw in file.read_bytes() for file in aging.settings.home.iterdir())
    _sweep(aging, at_most=10)
    told = [entry["details"] for entry in _entries(aging, "templates_expired")]
    assert [(one["templates"], one["subjects"], one["none_left"]) for one in told] == [
        (10, 10, False),
        (10, 10, False),
        (6, 5, True),
    ]
    assert {entry["key_id"] for entry in _entries(aging, "templates_expired")} == {None}
    assert aging.held() == (1, 1)
    assert aging.found(VECTORS[31]) == ["both"]
    assert not any(raw in file.read_bytes() for file in aging.settings.home.iterdir())
    store = aging.services.store
    assert len(store.indexes.of(store.record.gallery("door"))) == 1
    number = _entries(aging, "templates_expired")[0]["seq"]
    assert aging.http.get(f"/v1/galleries/door/erasures/{number}").json()["status"] == "done"
    _sweep(aging)
    assert len(_entries(aging, "templates_expired")) == 3, "nothing to do is no entry"


def test_expired_ones_that_the_index_still_has_do_not_crowd_out_the_living(aging: Cloud, hands: Hands) -> None:
    probe = towards(0, 1.0)
    for start in range(0, 300, 100):
        aging.enroll(f"old{start}", [towards(0, 0.99 - 0.0001 * number) for number in range(start, start + 100)])
    _pass(aging, hands, 9 * DAY)
    aging.enroll("living", [towards(0, 0.7)])
    _pass(aging, hands, DAY)
    assert _held(aging) == 301, "not swept"
    assert aging.found(probe) == ["living"]
    assert aging.found(probe, top_k=1) == ["living"]


def test_an_index_that_is_made_again_holds_what_has_expired_too_for_a_clock_may_be_set_back(
    aging: Cloud, hands: Hands
) -> None:
    aging.enroll("anna", VECTORS[:3])
    hands.wall += 3650 * DAY
    assert aging.found(VECTORS[0]) == []
    record = aging.services.store.record
    gallery = record.gallery("door")
    [(ids, _vectors)] = record.entries.batches(gallery)
    left = [found for found, _ in record.entries.batches_without(gallery, ids[2:])]
    assert [list(found) for found in left] == [list(ids[:2])]


def test_a_template_enrolled_again_after_it_expired_begins_again(aging: Cloud, hands: Hands) -> None:
    ids = ["4" * 32]
    first = aging.enroll("anna", VECTORS[:1], ids=ids).json()
    _pass(aging, hands, 11 * DAY)
    assert aging.found(VECTORS[0]) == []
    again = aging.enroll("anna", VECTORS[:1], ids=ids)
    assert again.status_code == 201
    assert again.json()["templates"][0]["created_at"] > first["templates"][0]["created_at"]
    assert aging.found(VECTORS[0]) == ["anna"]
    _sweep(aging)
    assert aging.held() == (1, 1)
    assert len(_entries(aging, "templates_enrolled")) == 2


def test_a_shorter_age_holds_at_once_for_what_is_there(aging: Cloud, hands: Hands) -> None:
    aging.enroll("anna", VECTORS[:1])
    _pass(aging, hands, 5 * DAY)
    _keep(aging, 5 * DAY)
    assert aging.found(VECTORS[0]) == []


@pytest.mark.parametrize("change", ["longer", "none"])
def test_what_expired_by_the_old_rule_does_not_come_back_by_a_new_one(aging: Cloud, hands: Hands, change: str) -> None:
    aging.enroll("anna", VECTORS[:1])
    _pass(aging, hands, 5 * DAY)
    aging.enroll("ben", VECTORS[1:2])
    _pass(aging, hands, 5 * DAY)
    if change == "longer":
        _keep(aging, 100 * DAY)
    else:
        assert aging.http.delete(RETENTION).json()["max_age_seconds"] is None
    assert aging.held() == (1, 1)
    assert [aging.found(vector) for vector in VECTORS[:2]] == [[], ["ben"]]
    _pass(aging, hands, 50 * DAY)
    assert aging.found(VECTORS[1]) == ["ben"]
    [expired], changed = _entries(aging, "templates_expired"), _entries(aging, "retention_changed")
    assert expired["seq"] < changed[-1]["seq"]


def test_a_key_that_changes_during_a_sweep_leaves_nothing_expired_in_memory(settings: Settings, hands: Hands) -> None:
    old, new = Key(8, 1), Key(8, 2)
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery(contract=old.contract)
        sent = {"templates": [{"id": "0" * 32, "template": old.envelope(VECTORS[0])}]}
        assert cloud.http.post(f"/v1/galleries/door/subjects/{old.name('anna')}/templates", json=sent).is_success
        _keep(cloud, 10 * DAY)
        (before,) = (store := cloud.services.store).retention.limited()
        assert cloud.http.post("/v1/galleries/door/rekey", json=old.rekey(new)).json()["state"] == "settled"
        _pass(cloud, hands, 11 * DAY)
        assert not store.erase_expired(before, 500)
        assert len(store.indexes.of(store.record.gallery("door"))) == 0


def test_other_galleries_keep_what_they_hold(aging: Cloud, hands: Hands) -> None:
    aging.put_gallery("kept")
    aging.enroll("anna", VECTORS[:1], gallery="kept")
    _pass(aging, hands, 400 * DAY)
    _sweep(aging)
    assert aging.found(VECTORS[0], gallery="kept") == ["anna"]


@pytest.mark.parametrize("age", [0, -1, 1.5, "60", None, 10**12])
def test_what_is_no_age_is_refused(client: Cloud, age: Any) -> None:
    answer = client.http.put(RETENTION, json={"max_age_seconds": age})
    assert_problem(answer, 422, "unprocessable", "invalid_request")
    assert client.http.get("/v1/galleries/door").json()["max_age_seconds"] is None


def test_making_the_gallery_again_leaves_its_retention(aging: Cloud) -> None:
    assert aging.put_gallery().json()["max_age_seconds"] == 10 * DAY.total_seconds()


def test_a_clock_far_ahead_stops_matching_at_once_and_erases_nobody_until_it_has_lasted(
    aging: Cloud, hands: Hands
) -> None:
    aging.enroll("anna", VECTORS[:1])
    hands.wall += 3650 * DAY
    assert aging.found(VECTORS[0]) == []
    for _ in range(50):
        hands.pass_by(timedelta(minutes=1))
        _sweep(aging)
    _keep(aging, 11 * DAY)
    assert _held(aging) == 1, "nor by a change of the age"
    hands.wall -= 3650 * DAY
    _sweep(aging)
    assert aging.found(VECTORS[0]) == ["anna"], "nothing was lost"
    hands.wall += 3650 * DAY
    for _ in range(62):
        _sweep(aging)
        hands.pass_by(timedelta(minutes=1))
    assert _held(aging) == 0


def test_a_clock_set_back_keeps_nobody_longer_not_over_a_restart_either(settings: Settings, hands: Hands) -> None:
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery()
        _keep(cloud, 10 * DAY)
        cloud.enroll("anna", VECTORS[:1])
        _pass(cloud, hands, 8 * DAY)
        _sweep(cloud)
        hands.wall -= 8 * DAY
        _pass(cloud, hands, DAY)
        _sweep(cloud)
        assert cloud.found(VECTORS[0]) == ["anna"]
    with Cloud(settings, hands.clock()) as cloud:
        assert cloud.found(VECTORS[0]) == ["anna"]
        _pass(cloud, hands, DAY)
        assert cloud.found(VECTORS[0]) == [], "ten days of running, whatever the clock says"
        _sweep(cloud)
        assert _held(cloud) == 1, "what is erased cannot be undone: that waits for the clock"
    with Cloud(settings, hands.clock()) as cloud:
        assert cloud.found(VECTORS[0]) == []
        _pass(cloud, hands, 8 * DAY + timedelta(hours=1))
        _sweep(cloud)
        assert _held(cloud) == 0


def _record_time(settings: Settings, moment: datetime) -> None:
    with closing(sqlite3.connect(settings.home / "record.db")) as record:
        change = "UPDATE record_value SET value = ? WHERE name = 'time_seen'"
        assert record.execute(change, (moment_text(moment),)).rowcount == 1
        record.commit()


@pytest.mark.parametrize("running", [False, True])
def test_a_wrong_digit_in_the_recorded_time_erases_nobody(settings: Settings, hands: Hands, running: bool) -> None:
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery()
        _keep(cloud, 10 * DAY)
        cloud.enroll("anna", VECTORS[:1])
        if running:
            _record_time(settings, hands.wall + 365 * DAY)
            _sweep(cloud)
            assert _held(cloud) == 1
    _record_time(settings, hands.wall + 365 * DAY)
    with Cloud(settings, hands.clock()) as cloud:
        _sweep(cloud)
        _pass(cloud, hands, DAY)
        _sweep(cloud)
        assert _held(cloud) == 1
        assert cloud.found(VECTORS[0]) == [], "it may be the clock that is wrong"
    _record_time(settings, hands.wall)
    with Cloud(settings, hands.clock()) as cloud:
        assert cloud.found(VECTORS[0]) == ["anna"], "nothing was lost"
        _pass(cloud, hands, 9 * DAY + timedelta(hours=1))
        _sweep(cloud)
        assert _held(cloud) == 0


@pytest.mark.parametrize("year", [2099, 9999])
def test_an_impossible_recorded_time_refuses_the_start_with_one_sentence(
    settings: Settings, hands: Hands, year: int
) -> None:
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery()
        _keep(cloud, 10 * DAY)
        cloud.enroll("anna", VECTORS[:1])
    _record_time(settings, datetime(year, 1, 1, tzinfo=UTC))
    wrong = "row time_seen of the table record_value says .*: either the clock is wrong, or the row is damaged"
    with pytest.raises(SetupError, match=wrong), Cloud(settings, hands.clock()):
        pass
    _record_time(settings, hands.wall)
    with Cloud(settings, hands.clock()) as cloud:
        assert cloud.found(VECTORS[0]) == ["anna"]


def test_what_was_stored_under_a_clock_far_ahead_lives_no_longer_than_from_when_that_was_mended(
    aging: Cloud, hands: Hands
) -> None:
    hands.wall += 3650 * DAY
    answer = aging.enroll("anna", VECTORS[:1]).json()
    assert answer["templates"][0]["created_at"] > (hands.wall - DAY).isoformat()
    hands.wall -= 3650 * DAY
    _sweep(aging)
    [entry] = _entries(aging, "templates_redated")
    assert (entry["details"]["templates"], entry["key_id"]) == (1, None)
    assert aging.found(VECTORS[0]) == ["anna"]
    _pass(aging, hands, 10 * DAY)
    assert aging.found(VECTORS[0]) == []
    _sweep(aging)
    assert _held(aging) == 0


def test_a_record_that_was_away_for_days_matches_no_expired_one_and_erases_it_within_the_hour(
    settings: Settings, hands: Hands
) -> None:
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery()
        _keep(cloud, 10 * DAY)
        cloud.enroll("anna", VECTORS[:1])
    hands.pass_by(30 * DAY)
    with Cloud(settings, hands.clock()) as cloud:
        assert cloud.found(VECTORS[0]) == []
        _sweep(cloud)
        assert _held(cloud) == 1
        _pass(cloud, hands, timedelta(minutes=64))
        _sweep(cloud)
        assert _held(cloud) == 0


def test_where_nothing_ages_a_start_believes_the_clock_and_a_retention_holds_at_once(
    settings: Settings, hands: Hands, capsys: pytest.CaptureFixture[str]
) -> None:
    with Cloud(settings, hands.clock()) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", VECTORS[:1])
    hands.pass_by(30 * DAY)
    with Cloud(settings, hands.clock()) as cloud:
        _sweep(cloud)
        assert "clock_is_ahead_of_the_record" not in capsys.readouterr().out
        _keep(cloud, 10 * DAY)
        _sweep(cloud)
        assert _held(cloud) == 0


def _until(done: Callable[[], bool]) -> None:
    for _ in range(200):
        if done():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to that")


@pytest.fixture
def quick(settings: Settings) -> Iterator[Cloud]:
    """A cloud with the machine's own clock, which sweeps all the time."""
    often = {"retention": RetentionSettings(sweep_interval_s=0.05, sweep_batch=3)}
    with Cloud(settings.model_copy(update=often)) as cloud:
        cloud.put_gallery()
        yield cloud


def test_the_service_sweeps_by_itself_while_others_write(quick: Cloud) -> None:
    quick.enroll("anna", VECTORS[:20])
    _keep(quick, timedelta(seconds=2))
    quick.enroll("ben", VECTORS[20:21])
    assert quick.found(VECTORS[20]) == ["ben"]
    _until(lambda: _held(quick) == 0)
    for vector in VECTORS[:21]:
        assert quick.found(vector) == []
    gone = [entry["details"] for entry in _entries(quick, "templates_expired")]
    assert sum(one["templates"] for one in gone) == 21
    assert max(one["templates"] for one in gone) == 3


def test_a_sweep_that_fails_is_tried_again_and_the_service_ends_cleanly(quick: Cloud) -> None:
    with sqlite3.connect(quick.settings.home / "record.db", isolation_level=None) as record:
        record.execute("CREATE TRIGGER stuck BEFORE DELETE ON template BEGIN SELECT RAISE(ABORT, 'no'); END")
        quick.enroll("anna", VECTORS[:1])
        _keep(quick, timedelta(seconds=1))
        time.sleep(1.2)
        assert _held(quick) == 1
        assert quick.found(VECTORS[0]) == []
        record.execute("DROP TRIGGER stuck")
    record.close()
    _until(lambda: _held(quick) == 0)
