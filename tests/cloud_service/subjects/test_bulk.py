"""Templates of many subjects are enrolled in one transaction: all or none, and once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cloud_service.settings import BodySettings, RecordSettings, Settings
from shared.security.credentials import Scope
from shared.wire.cloud import MAX_TEMPLATES_IN_BULK
from tests.cloud_service.entries.reference import BEST, MEAN
from tests.support.cloud_client import Cloud, assert_problem, contract_of, enveloped, random_units

DOOR = "/v1/galleries/door"
ROWS = random_units(181, 60)
# What two answers about the same templates differ in.
_WHEN = {"created_at"}


def _told(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer about a subject, without times."""
    templates = [{name: one[name] for name in one.keys() - _WHEN} for one in answer["templates"]]
    return answer | {"templates": templates}


def _of(subjects: dict[str, list[int]], first: int = 0) -> dict[str, Any]:
    return {
        "subjects": [
            {
                "subject": name,
                "templates": [{"id": f"{first + at:032x}", "template": enveloped(ROWS[at])} for at in some],
            }
            for name, some in subjects.items()
        ]
    }


@pytest.mark.both_engines
@pytest.mark.parametrize("score", [BEST, MEAN], ids=["best", "mean"])
def test_what_is_enrolled_in_bulk_matches_as_if_it_had_been_enrolled_one_by_one(
    cloud: Cloud, score: dict[str, Any]
) -> None:
    for gallery in ("bulk", "each"):
        cloud.put_gallery(gallery, score=score, tau=0.3)
    subjects = {f"s{at}": [3 * at, 3 * at + 1, 3 * at + 2][: 1 + at % 3] for at in range(12)}
    for _ in range(2):
        cloud.enroll("s1", ROWS[50:52], gallery="bulk", ids=[f"{at:032x}" for at in (50, 51)])
        cloud.enroll("s1", ROWS[50:52], gallery="each", ids=[f"{at:032x}" for at in (50, 51)])
    answer = cloud.http.post("/v1/galleries/bulk/templates", json=_of(subjects))
    total = sum(map(len, subjects.values()))
    assert answer.status_code == 201, answer.text
    each = [
        cloud.enroll(name, [ROWS[at] for at in some], gallery="each", ids=[f"{at:032x}" for at in some]).json()
        for name, some in subjects.items()
    ]
    assert [_told(one) for one in answer.json()["subjects"]] == [_told(one) for one in each]
    assert each[1]["total"] == 4
    assert {new["agrees"] for one in each for new in one["templates"]} == {None, True, False}
    for at in range(36):
        bulk, each = (
            cloud.identify(ROWS[at], gallery=gallery).json()["results"][0]["candidates"] for gallery in ("bulk", "each")
        )
        assert [one["subject"] for one in bulk] == [one["subject"] for one in each]
        assert [one["similarity"] for one in bulk] == pytest.approx([one["similarity"] for one in each], abs=1e-6)
    again = cloud.http.post("/v1/galleries/bulk/templates", json=_of(subjects | {"new": [55]}))
    assert [(one["subject"], [new["stored"] for new in one["templates"]]) for one in again.json()["subjects"]] == [
        *((name, ["before"] * len(some)) for name, some in subjects.items()),
        ("new", ["now"]),
    ]
    assert cloud.held("bulk") == (13, total + 3)
    entries = cloud.http.get("/v1/audit").json()["items"]
    details = [
        one["details"] for one in entries if one["action"] == "templates_enrolled" and "subjects" in one["details"]
    ]
    assert [(one["subjects"], one["templates"]) for one in details] == [(12, total), (1, 1)]
    assert "s1" not in str(entries)


def test_one_that_cannot_be_stored_refuses_all(client: Cloud) -> None:
    client.enroll("anna", ROWS[:1], ids=[f"{0:032x}"])
    taken = _of({"ben": [1], "carl": [0]})
    problem = assert_problem(client.http.post(f"{DOOR}/templates", json=taken), 409, "conflict", "template_id_taken")
    assert problem["templates"] == [f"{0:032x}"]
    twice = _of({"ben": [1], "carl": [1]})
    assert_problem(client.http.post(f"{DOOR}/templates", json=twice), 422, "unprocessable", "duplicate_id")
    same = {"subjects": 2 * _of({"ben": [1]})["subjects"]}
    assert_problem(client.http.post(f"{DOOR}/templates", json=same), 422, "unprocessable", "invalid_request")
    other = _of({"ben": [1]})
    other["subjects"].append(
        {
            "subject": "eve",
            "templates": [{"id": "f" * 32, "template": enveloped(ROWS[2], contract_of(profile="b" * 64))}],
        }
    )
    assert_problem(client.http.post(f"{DOOR}/templates", json=other), 409, "contract-mismatch")
    long = _of({"ben": [1]})
    long["subjects"][0]["templates"][0]["template"] = enveloped(2 * ROWS[2])
    assert_problem(client.http.post(f"{DOOR}/templates", json=long), 422, "invalid-template")
    for wrong in ({"subjects": []}, {"subjects": [{"subject": "a", "templates": []}]}, {}):
        assert_problem(client.http.post(f"{DOOR}/templates", json=wrong), 422, "unprocessable", "invalid_request")
    assert client.held() == (1, 1)


def test_those_that_agree_are_told_to_a_key_that_may_match(cloud: Cloud) -> None:
    cloud.put_gallery(tau=0.3)
    near = ROWS[0] + 0.1 * ROWS[1]
    body = _of({"ada": [0, 1], "ben": [3]})
    body["subjects"][0]["templates"] += [{"id": "a" * 32, "template": enveloped(near / np.linalg.norm(near))}]
    answer = cloud.http.post(f"{DOOR}/templates", json=body).json()
    assert [one["agrees"] for each in answer["subjects"] for one in each["templates"]] == [True, False, True, None]
    enrolls = cloud.key(Scope.ENROLL)
    untold = cloud.http.post(f"{DOOR}/templates", json=body, headers=enrolls).json()
    assert [one["agrees"] for each in untold["subjects"] for one in each["templates"]] == [None] * 4
    assert [each["total"] for each in untold["subjects"]] == [3, 1]


def test_the_limits_of_bulk_enrollment(settings: Settings) -> None:
    limits = {"record": RecordSettings(max_templates_a_gallery=40), "body": BodySettings(max_bulk_bytes=9_000)}
    with Cloud(settings.model_copy(update=limits)) as cloud:
        cloud.put_gallery()
        full = _of({f"s{at}": [at] for at in range(41)})
        assert_problem(cloud.http.post(f"{DOOR}/templates", json=full), 413, "too-large")
        for part in (range(20), range(20, 40)):
            some = _of({f"s{at}": [at] for at in part})
            assert cloud.http.post(f"{DOOR}/templates", json=some).status_code == 201
        assert_problem(cloud.http.post(f"{DOOR}/templates", json=_of({"x": [40]})), 409, "conflict", "gallery_full")
        assert cloud.held() == (40, 40)


def test_as_many_as_fit_into_one_request_are_stored(cloud: Cloud) -> None:
    cloud.put_gallery(tau=0.99)
    rows = random_units(7, MAX_TEMPLATES_IN_BULK + 1)
    subjects = [
        {"subject": f"s{at}", "templates": [{"id": f"{at:032x}", "template": enveloped(row)}]}
        for at, row in enumerate(rows)
    ]
    assert_problem(cloud.http.post(f"{DOOR}/templates", json={"subjects": subjects}), 422, "unprocessable")
    answer = cloud.http.post(f"{DOOR}/templates", json={"subjects": subjects[:-1]})
    told = [(one["total"], one["templates"][0]["stored"]) for one in answer.json()["subjects"]]
    assert told == [(1, "now")] * MAX_TEMPLATES_IN_BULK
    for at in np.random.default_rng(1).integers(MAX_TEMPLATES_IN_BULK, size=5):
        assert f"s{at}" in cloud.found(rows[at])
