"""Enrollment stores all or nothing, once; erasure removes exactly what was named."""

from __future__ import annotations

import pytest

from cloud_service.settings import RecordSettings, Settings
from tests.support.cloud_client import TAU, Cloud, assert_problem, contract_of, enveloped, random_units

pytestmark = pytest.mark.both_engines

IDS = [f"{number:032x}" for number in range(1, 20)]
VECTORS = random_units(7, 6)
PATH = "/v1/galleries/door/subjects/anna/templates"


def test_an_enrolled_subject_is_listed_and_found_without_its_vectors(client: Cloud) -> None:
    answer = client.enroll("anna", VECTORS[:2], ids=IDS[:2])
    assert answer.status_code == 201
    assert [item["id"] for item in answer.json()["templates"]] == IDS[:2]
    detail = client.http.get("/v1/galleries/door/subjects/anna").json()
    assert [item | {"stored": "now", "agrees": False} for item in detail["templates"]] == answer.json()["templates"]
    listed = client.http.get("/v1/galleries/door/names").json()
    assert [(item["subject"], item["templates"]) for item in listed["items"]] == [("anna", 2)]
    assert client.found(VECTORS[1]) == ["anna"]
    assert client.held() == (1, 2)


def test_enrolling_again_stores_nothing_and_says_that_it_was_stored_before(client: Cloud) -> None:
    first = client.enroll("anna", VECTORS[:2], ids=IDS[:2])
    before = [item | {"stored": "before"} for item in first.json()["templates"]]
    again = client.enroll("anna", VECTORS[:2], ids=IDS[:2])
    assert again.status_code == 201
    assert again.json() == {"subject": "anna", "templates": before, "total": 2}
    more = client.enroll("anna", VECTORS[:3], ids=IDS[:3])
    assert more.json()["templates"][:2] == before
    assert client.held() == (1, 3)


def test_a_template_id_belongs_to_one_subject_of_a_gallery(client: Cloud) -> None:
    client.enroll("anna", VECTORS[:1], ids=IDS[:1])
    assert_problem(client.enroll("ben", VECTORS[1:3], ids=IDS[:2]), 409, "conflict", "template_id_taken")
    assert_problem(client.enroll("ben", VECTORS[:1], ids=IDS[:1]), 409, "conflict", "template_id_taken")
    assert client.held() == (1, 1)
    client.put_gallery("other")
    assert client.enroll("ben", VECTORS[1:2], gallery="other", ids=IDS[:1]).status_code == 201


def test_an_id_twice_in_a_request_is_refused(client: Cloud) -> None:
    assert_problem(client.enroll("anna", VECTORS[:2], ids=[IDS[0]] * 2), 422, "unprocessable", "duplicate_id")
    assert client.held() == (0, 0)


def test_one_bad_template_spoils_the_whole_request(client: Cloud) -> None:
    for bad, status, kind in (
        (enveloped(VECTORS[1] * 2), 422, "invalid-template"),
        (enveloped(VECTORS[1], contract_of(profile="b" * 64)), 409, "contract-mismatch"),
    ):
        templates = [{"id": IDS[0], "template": enveloped(VECTORS[0])}, {"id": IDS[1], "template": bad}]
        assert_problem(client.http.post(PATH, json={"templates": templates}), status, kind)
        assert client.held() == (0, 0)
        assert client.found(VECTORS[0]) == []


def test_a_gallery_and_a_subject_take_no_more_than_their_limits(settings: Settings) -> None:
    limits = RecordSettings(max_templates_a_gallery=4, max_templates_a_subject=2)
    with Cloud(settings.model_copy(update={"record": limits})) as cloud:
        cloud.put_gallery()
        assert cloud.enroll("anna", VECTORS[:2], ids=IDS[:2]).status_code == 201
        assert_problem(cloud.enroll("anna", VECTORS[2:3]), 409, "conflict", "subject_full")
        assert_problem(cloud.enroll("ben", VECTORS[:3]), 409, "conflict", "gallery_full")
        assert cloud.enroll("ben", VECTORS[2:4]).status_code == 201
        assert_problem(cloud.enroll("carl", VECTORS[4:5]), 409, "conflict", "gallery_full")
        assert cloud.held() == (2, 4)
        assert cloud.enroll("anna", VECTORS[:2], ids=IDS[:2]).status_code == 201, "repeating is harmless when full"


def test_an_erased_template_is_not_found_and_the_last_one_takes_the_subject_along(client: Cloud) -> None:
    client.enroll("anna", VECTORS[:2], ids=IDS[:2])
    assert client.erase(f"/subjects/anna/templates/{IDS[0]}") == (0, 1)
    assert_problem(client.http.delete(f"{PATH}/{IDS[0]}"), 404, "not-found", "unknown_template")
    assert client.verify("anna", VECTORS[0]).json()["similarity"] < 0.999
    assert client.erase(f"/subjects/anna/templates/{IDS[1]}") == (1, 1)
    assert_problem(client.http.get("/v1/galleries/door/subjects/anna"), 404, "not-found", "unknown_subject")
    assert client.held() == (0, 0)


def test_a_template_is_erased_only_under_its_own_subject(client: Cloud) -> None:
    client.enroll("anna", VECTORS[:1], ids=IDS[:1])
    client.enroll("ben", VECTORS[1:2], ids=IDS[1:2])
    path = f"/v1/galleries/door/subjects/ben/templates/{IDS[0]}"
    assert_problem(client.http.delete(path), 404, "not-found", "unknown_template")
    assert client.held() == (2, 2)


def test_an_erased_subject_is_not_found_and_others_stay(client: Cloud) -> None:
    client.enroll("anna", VECTORS[:2])
    client.enroll("ben", [VECTORS[0]])
    assert client.erase("/subjects/anna") == (1, 2)
    assert client.found(VECTORS[0]) == ["ben"]
    assert_problem(client.http.delete("/v1/galleries/door/subjects/anna"), 404, "not-found", "unknown_subject")


def test_a_restart_keeps_everything(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        cloud.put_gallery("other", contract_of(16), tau=0.7)
        cloud.enroll("anna", VECTORS[:2], ids=IDS[:2])
        cloud.enroll("ben", VECTORS[2:3], ids=IDS[2:3])
        cloud.http.delete("/v1/galleries/door/subjects/ben")
        before = [cloud.http.get(path).json() for path in ("/v1/galleries", "/v1/galleries/door/subjects/anna")]
    with Cloud(settings) as cloud:
        after = [cloud.http.get(path).json() for path in ("/v1/galleries", "/v1/galleries/door/subjects/anna")]
        assert after == before
        assert cloud.found(VECTORS[0])[0] == "anna"
        assert "ben" not in cloud.found(VECTORS[2])
        mean = (1 + float(VECTORS[0] @ VECTORS[1])) / 2
        assert cloud.verify("anna", VECTORS[1]).json()["similarity"] == pytest.approx(mean, abs=1e-6)
        assert cloud.verify("anna", VECTORS[1]).json()["threshold"] == TAU
