"""Galleries are made once, pinned to contract and threshold, listed in pages, and erased with all in them."""

from __future__ import annotations

import pytest

from shared.security.credentials import Scope
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units

pytestmark = pytest.mark.both_engines


def test_a_new_gallery_is_201_and_the_same_again_is_200_with_the_same_answer(cloud: Cloud) -> None:
    first, again = cloud.put_gallery(), cloud.put_gallery()
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == cloud.http.get("/v1/galleries/door").json()
    assert first.json()["contract_digest"] == contract_of().digest()
    assert first.json()["threshold"] == {"cosine": 0.5, "fmr": 0.001}
    assert (first.json()["subjects"], first.json()["templates"]) == (0, 0)


def test_another_contract_is_a_contract_mismatch_that_names_both_digests(client: Cloud) -> None:
    other = contract_of(profile="b" * 64)
    problem = assert_problem(client.put_gallery(contract=other), 409, "contract-mismatch")
    assert (problem["expected"], problem["given"]) == (contract_of().digest(), other.digest())


@pytest.mark.parametrize("threshold", [{"cosine": 0.51, "fmr": 0.001}, {"cosine": 0.5, "fmr": 0.002}])
def test_another_threshold_is_a_conflict(client: Cloud, threshold: dict[str, float]) -> None:
    spec = {"contract": contract_of().model_dump(mode="json"), "threshold": threshold}
    assert_problem(client.http.put("/v1/galleries/door", json=spec), 409, "conflict", "threshold_differs")
    assert client.http.get("/v1/galleries/door").json()["threshold"]["cosine"] == 0.5


def test_galleries_are_listed_in_pages_in_the_order_of_names(cloud: Cloud) -> None:
    for name in ("c", "a", "e", "b", "d"):
        cloud.put_gallery(name)
    seen: list[str] = []
    after: str | None = None
    for expected in (2, 2, 1):
        page = cloud.http.get("/v1/galleries", params={"limit": 2, **({"after": after} if after else {})}).json()
        assert len(page["items"]) == expected
        seen += [item["gallery"] for item in page["items"]]
        after = page["next"]
    assert seen == ["a", "b", "c", "d", "e"]
    assert after is None


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "after=..%2F"])
def test_a_wrong_page_is_refused(cloud: Cloud, query: str) -> None:
    assert_problem(cloud.http.get(f"/v1/galleries?{query}"), 422, "unprocessable", "invalid_request")


def test_an_erased_gallery_is_gone_with_all_in_it(client: Cloud) -> None:
    vectors = random_units(1, 3)
    client.enroll("anna", vectors[:2])
    client.enroll("ben", vectors[2:])
    assert client.erase() == (2, 3)
    assert_problem(client.http.get("/v1/galleries/door"), 404, "not-found", "unknown_gallery")
    assert_problem(client.http.delete("/v1/galleries/door"), 404, "not-found", "unknown_gallery")
    assert_problem(client.identify(vectors[0]), 404, "not-found", "unknown_gallery")
    client.put_gallery()
    assert client.found(vectors[0]) == []


def test_a_key_for_some_galleries_sees_and_touches_only_these(cloud: Cloud) -> None:
    cloud.put_gallery("mine")
    cloud.put_gallery("theirs")
    vector = random_units(1, 1)
    cloud.enroll("anna", vector, gallery="theirs")
    key = cloud.key(*Scope, galleries=["mine", "not-yet"])
    listed = cloud.http.get("/v1/galleries", headers=key).json()["items"]
    assert [item["gallery"] for item in listed] == ["mine"]
    known = assert_problem(cloud.http.get("/v1/galleries/theirs", headers=key), 404, "not-found", "unknown_gallery")
    unknown = assert_problem(cloud.http.get("/v1/galleries/nowhere"), 404, "not-found", "unknown_gallery")
    assert {**known, "request_id": ""} == {**unknown, "request_id": ""}
    for answer in (
        cloud.put_gallery("theirs", headers=key),
        cloud.put_gallery("nowhere", headers=key),
        cloud.enroll("ben", vector, gallery="theirs", headers=key),
        cloud.verify("anna", vector[0], gallery="theirs", headers=key),
        cloud.identify(vector[0], gallery="theirs", headers=key),
        cloud.http.get("/v1/galleries/theirs/names", headers=key),
        cloud.http.delete("/v1/galleries/theirs/subjects/anna", headers=key),
        cloud.http.delete("/v1/galleries/theirs", headers=key),
    ):
        assert_problem(answer, 404, "not-found", "unknown_gallery")
    assert cloud.held("theirs") == (1, 1)
    assert cloud.put_gallery("not-yet", headers=key).status_code == 201


def test_no_operation_takes_a_picture_or_returns_a_vector(client: Cloud) -> None:
    document = client.http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            taken = operation.get("requestBody", {}).get("content", {"application/json": {}})
            assert set(taken) == {"application/json"}, path
            answered = str({code: answer for code, answer in operation["responses"].items() if code.startswith("2")})
            assert "TemplateEnvelope" not in answered
    client.enroll("anna", random_units(1, 2))
    for path in ("", "/door", "/door/names", "/door/subjects/anna"):
        assert '"data"' not in client.http.get(f"/v1/galleries{path}").text
