"""A stored template that is damaged matches nobody, is told of, and does not keep others from being answered."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from cloud_service.matching import Matcher, Verification, similarity_of
from cloud_service.record.tables import rekeyed, subject, template
from cloud_service.settings import Settings
from shared.envelope import TemplateEnvelope
from shared.errors import RecordDamaged
from tests.support.cloud_client import Cloud, assert_problem, random_units
from tests.support.damaging import Change, change_blob, checks, damaged_metric, flip, huge, rows_of, set_value
from tests.support.sealed import Key

VECTORS = random_units(41, 6)
STRANGER = VECTORS[5]
IDS = [f"{number:032x}" for number in range(6)]


@pytest.fixture
def people(cloud: Cloud) -> Cloud:
    """``anna`` with two templates, and ``ben`` and ``carl`` with one each; the best one counts."""
    client = cloud
    client.put_gallery(score={"rule": "best"})
    client.enroll("anna", VECTORS[:2], ids=IDS[:2])
    client.enroll("ben", VECTORS[2:3], ids=IDS[2:3])
    client.enroll("carl", VECTORS[3:4], ids=IDS[3:4])
    return client


def _towards_the_stranger(vector: np.ndarray) -> int:
    """The value which, made huge, gives a stranger's probe the largest score."""
    return int(np.argmax(vector * STRANGER))


def _failing(cloud: Cloud) -> list[str]:
    return [name for name, holds in checks(cloud).items() if not holds]


DAMAGE: list[Change] = [
    huge(_towards_the_stranger(VECTORS[0])),
    set_value(0, float("nan")),
    lambda _blob: STRANGER.tobytes() + bytes(8),
    lambda blob: STRANGER.tobytes() + blob[-8:],
    flip(8 * 39 + 7),  # of the checksum
    lambda blob: blob[:-8],
    lambda blob: blob + blob,
    lambda _blob: b"",
]


@pytest.mark.both_engines
def test_a_damaged_template_matches_nobody_and_the_others_are_answered(people: Cloud) -> None:
    [first, _second] = rows_of(people, "anna")
    assert checks(people)["templates"]
    for damage in DAMAGE:
        sound = change_blob(people, first, damage)
        for probe in (STRANGER, VECTORS[0], VECTORS[1]):
            answer = people.verify("anna", probe)
            assert_problem(answer, 503, "record-damaged", "template_damaged")
            assert int(answer.headers["Retry-After"]) >= 1
        assert people.found(STRANGER) == []
        assert people.found(VECTORS[0]) == []
        assert people.found(VECTORS[1]) == ["anna"], "her other template is sound"
        assert people.verify("ben", VECTORS[2]).json()["decision"] == "match"
        assert people.found(VECTORS[3]) == ["carl"]
        assert _failing(people) == ["templates"]
        assert damaged_metric(people) == 1
        change_blob(people, first, lambda _blob, sound=sound: sound)
        assert all(checks(people).values()), "an operator put the right bytes back"
        assert people.verify("anna", VECTORS[0]).json()["decision"] == "match"


@pytest.mark.parametrize("path", ["/subjects/anna", f"/subjects/anna/templates/{IDS[0]}", ""])
def test_readiness_recovers_when_what_is_damaged_is_erased(people: Cloud, path: str) -> None:
    change_blob(people, rows_of(people, "anna")[0], huge(0))
    assert_problem(people.verify("anna", VECTORS[0]), 503, "record-damaged")
    assert people.http.delete(f"/v1/galleries/door{path}").status_code == 200
    assert all(checks(people).values())
    assert damaged_metric(people) == 0
    people.put_gallery()
    assert people.enroll("anna", VECTORS[:1]).status_code == 201
    assert people.verify("anna", VECTORS[0]).json()["decision"] == "match"
    assert people.found(VECTORS[0]) == ["anna"]


def test_claims_of_one_batch_do_not_share_the_fate_of_a_damaged_subject(people: Cloud) -> None:
    for row in rows_of(people, "anna"):
        change_blob(people, row, set_value(3, float("nan")))
    store = people.services.store
    digest = store.record.gallery("door").contract_digest

    def claim(name: str, vector: np.ndarray) -> Verification:
        return Verification(name, TemplateEnvelope.pack(vector, digest))

    asked = [claim("anna", VECTORS[0]), claim("ben", VECTORS[2]), claim("anna", STRANGER), claim("carl", VECTORS[2])]
    answers = Matcher(store, store._metrics).verify("door", asked)
    assert [type(answer) is RecordDamaged or answer.decision for answer in answers] == [True, "match", True, "no_match"]


def test_the_log_names_the_row_once_and_nothing_else(people: Cloud, log_events: list[MutableMapping[str, Any]]) -> None:
    [row] = rows_of(people, "ben")
    change_blob(people, row, huge(0))
    people.verify("ben", VECTORS[2])
    people.identify(VECTORS[2])
    [event] = [event for event in log_events if event["event"] == "templates_damaged"]
    assert (event["rows"], event["templates"]) == (str(row), 1)
    assert "ben" not in str(event)


@pytest.mark.both_engines
def test_a_start_with_damaged_templates_serves_all_others_and_says_so(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        cloud.put_gallery("empty", score={"rule": "best"})
        for name, vector in zip(("anna", "ben", "carl"), VECTORS, strict=False):
            cloud.enroll(name, [vector])
        cloud.enroll("dora", VECTORS[3:4], gallery="empty")
        for name in ("anna", "carl", "dora"):
            [row] = rows_of(cloud, name)
            change_blob(cloud, row, huge(_towards_the_stranger(VECTORS[0])))
    with Cloud(settings) as cloud:
        assert _failing(cloud) == ["templates"]
        assert damaged_metric(cloud) == 3
        indexed = [cloud.http.get(f"/v1/galleries/{name}/stats").json()["entries"] for name in ("door", "empty")]
        assert indexed == [1, 0]
        assert cloud.found(VECTORS[1]) == ["ben"]
        assert cloud.found(STRANGER) == cloud.found(STRANGER, gallery="empty") == []
        cloud.enroll("emil", VECTORS[4:5])
        assert cloud.found(VECTORS[4]) == ["emil"]
        for path in ("door/subjects/anna", "door/subjects/carl", "empty"):
            assert cloud.http.delete(f"/v1/galleries/{path}").status_code == 200
        assert all(checks(cloud).values())


def test_templates_that_changed_owners_match_neither(people: Cloud) -> None:
    [ben], [carl] = rows_of(people, "ben"), rows_of(people, "carl")
    bens = change_blob(people, ben, lambda blob: blob)
    carls = change_blob(people, carl, lambda _blob: bens)
    change_blob(people, ben, lambda _blob: carls)
    for name, probe in (("ben", VECTORS[3]), ("carl", VECTORS[2])):
        assert_problem(people.verify(name, probe), 503, "record-damaged")
    assert people.found(VECTORS[2]) == people.found(VECTORS[3]) == []


def test_a_row_that_came_to_another_subject_or_a_name_that_changed_is_damage(people: Cloud) -> None:
    [ben], [carl] = rows_of(people, "ben"), rows_of(people, "carl")
    with people.services.store.record.database.write() as connection:
        connection.execute(update(template).where(template.c.id == ben).values(subject_id=template.c.subject_id + 1))
        connection.execute(update(subject).where(subject.c.name == "anna").values(name="anne"))
    assert ben < carl
    assert_problem(people.verify("carl", VECTORS[2]), 503, "record-damaged")
    assert_problem(people.verify("anne", VECTORS[0]), 503, "record-damaged")
    assert people.found(VECTORS[0]) == people.found(VECTORS[2]) == []


def test_what_is_sent_again_over_a_damaged_template_is_refused(people: Cloud) -> None:
    change_blob(people, rows_of(people, "anna")[0], flip(3))
    assert_problem(people.enroll("anna", VECTORS[:1], ids=IDS[:1]), 503, "record-damaged")
    assert people.enroll("ben", VECTORS[2:3], ids=IDS[2:3]).status_code == 201


@pytest.mark.parametrize("score", [1.001, -1.001, float("nan"), float("inf")])
def test_a_score_that_no_two_unit_vectors_have_decides_nothing(score: float) -> None:
    with pytest.raises(RecordDamaged):
        similarity_of(score)
    assert similarity_of(1 + 1e-4).value == 1.0


OLD, NEW = Key(8, 1), Key(8, 2)
OLD_EACH, NEW_EACH = Key(8, 1, verify_only=True), Key(8, 2, verify_only=True)
PATH = "/v1/galleries/door"


def _sealed(cloud: Cloud, key: Key) -> None:
    assert cloud.put_gallery(contract=key.contract).status_code == 201
    for number, name in enumerate(("anna", "ben", "carl")):
        sent = [{"id": IDS[number], "template": key.envelope(VECTORS[number], name)}]
        assert (
            cloud.http.post(f"{PATH}/subjects/{key.name(name)}/templates", json={"templates": sent}).status_code == 201
        )


def _verify(cloud: Cloud, key: Key, name: str, vector: np.ndarray) -> Any:
    return cloud.http.post(f"{PATH}/subjects/{key.name(name)}/verify", json={"probe": key.envelope(vector, name)})


@pytest.mark.both_engines
def test_a_change_of_key_stops_at_a_damaged_template_and_blesses_nothing(cloud: Cloud) -> None:
    _sealed(cloud, OLD)
    [row] = rows_of(cloud, OLD.name("ben"))
    damaged = change_blob(cloud, row, huge(2))
    problem = assert_problem(cloud.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW)), 503, "record-damaged")
    assert "check" in problem["detail"]
    assert change_blob(cloud, row, lambda _blob: damaged) == huge(2)(damaged), "left as it was"
    change_blob(cloud, row, huge(2))
    assert not checks(cloud)["templates"]
    assert _verify(cloud, OLD, "anna", VECTORS[0]).json()["decision"] == "match", "the old key still holds"
    assert cloud.http.delete(f"{PATH}/subjects/{OLD.name('ben')}").status_code == 200
    assert cloud.http.post(f"{PATH}/rekey", json=OLD.rekey(NEW)).json()["state"] == "settled"
    assert _verify(cloud, NEW, "anna", VECTORS[0]).json()["decision"] == "match"
    assert all(checks(cloud).values())


def test_a_change_of_key_stops_where_a_template_under_the_new_key_is_damaged(cloud: Cloud) -> None:
    _sealed(cloud, OLD_EACH)
    some = cloud.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, "anna", "ben"))
    assert some.json()["state"] == "staging"
    [row] = rows_of(cloud, OLD_EACH.name("ben"))
    change_blob(cloud, row, huge(2), rekeyed)
    rest = cloud.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, "carl"))
    problem = assert_problem(rest, 503, "record-damaged", "staged_template_damaged")
    assert "Abandon" in problem["detail"]
    assert _verify(cloud, OLD_EACH, "ben", VECTORS[1]).json()["decision"] == "match", "under the old key he is sound"
    assert all(checks(cloud).values())
    assert cloud.http.delete(f"{PATH}/rekey").json()["state"] == "settled"
    again = cloud.http.post(f"{PATH}/rekey", json=OLD_EACH.rekey(NEW_EACH, "anna", "ben", "carl"))
    assert again.json()["state"] == "settled"
    assert _verify(cloud, NEW_EACH, "ben", VECTORS[1]).json()["decision"] == "match"
