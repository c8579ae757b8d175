"""Thresholds of galleries: for a purpose, changed later, and the same ones in every answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_service.cli.thresholds import cost_of
from edge_service.subjects import sender
from shared.security.credentials import Scope
from shared.wire.edge import EdgeGallery
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair, encoded, pixels, sample
from tests.support.patronus_profile import copy_profile, curve

OBAMA = [sample(f"obama/{name}.jpg") for name in ("portrait", "speech")]
PURPOSE = {"for_subjects": 500, "false_accepts": 0.01}
STRICTER = {"for_subjects": 5000, "false_accepts": 0.01}
OWN = {"cosine": 0.41, "fmr": 0.0005}


@pytest.fixture(scope="module")
def edges(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Edge]]:
    """An edge whose profile carries curves, and one whose profile has none; before one cloud."""
    profiles = tmp_path_factory.mktemp("profiles")
    curves = [curve("easy", 50_000_000), curve("hard", 20_000_000, shift=0.05)]
    copy_profile("default", profiles, "measured", curves=curves, score={"exponents": [0.6]}, threshold=OWN)
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair.edge("one", profile="measured", profiles=profiles), pair.edge("two", profile="default")


@pytest.fixture
def edge(edges: tuple[Edge, Edge]) -> Edge:
    return edges[0]


def put(edge: Edge, gallery: str, threshold: Any = None, **more: Any) -> httpx.Response:
    return edge.call("PUT", f"/v1/galleries/{gallery}", json={"threshold": threshold, **more})


def patch(edge: Edge, gallery: str, threshold: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    return edge.call("PATCH", f"/v1/galleries/{gallery}", headers, json={"threshold": threshold})


def held(edge: Edge, gallery: str) -> dict[str, Any]:
    found: dict[str, Any] = edge.call("GET", f"/v1/galleries/{gallery}").json()["threshold"]
    return found


def test_a_gallery_is_made_for_a_purpose_and_keeps_what_was_chosen(edge: Edge) -> None:
    made = put(edge, "purpose", PURPOSE)
    assert made.status_code == 201, made.text
    answer = made.json()
    assert 0.41 < answer["threshold"]["cosine"] < 0.8
    choice = answer["chosen"]
    assert (choice["population"], choice["impostor_pairs"], choice["for_subjects"]) == ("hard", 20_000_000, 500)
    assert 0 < choice["false_accepts"] <= 0.01
    assert choice["default_cosine"] == 0.41
    assert choice["true_accepts"] < choice["true_accepts_at_default"] < 1
    assert held(edge, "purpose") == answer["threshold"]
    assert edge.call("GET", "/v1/galleries/purpose").json()["chosen"] is None

    cost = cost_of(EdgeGallery.model_validate(answer))
    assert "match one of 500 subjects (hard, 20000000 impostor pairs)" in cost
    assert f"{100 * choice['true_accepts']:.1f}% are accepted" in cost
    unsearched = cost_of(EdgeGallery.model_validate(answer | {"verify_only": True}))
    assert "chosen as for searches among 500 subjects" in unsearched
    assert "This gallery is not searched" in unsearched
    assert "match one of" not in unsearched

    again = put(edge, "purpose", PURPOSE)
    assert (again.status_code, again.json()["threshold"], again.json()["chosen"]) == (200, answer["threshold"], choice)
    edge.enroll("purpose", "obama", OBAMA[0])
    assert edge.verify("purpose", "obama", OBAMA[1]).json()["fmr_measured_on"] == "profile_curves"
    assert put(edge, "purpose").status_code == 200
    assert_problem(put(edge, "purpose", STRICTER), 409, "conflict", "threshold_differs")


def test_a_threshold_is_changed_and_holds_for_enrolled_people_and_in_every_answer(edge: Edge) -> None:
    put(edge, "changed")
    edge.enroll("changed", "obama", OBAMA[0])
    similarity = edge.verify("changed", "obama", OBAMA[1]).json()["similarity"]
    around = [{"cosine": round(similarity + by, 3), "fmr": fmr} for by, fmr in ((-0.05, 0.002), (0.05, 0.0001))]
    for threshold, decision, found in ((around[1], "no_match", "unknown"), (around[0], "match", "match")):
        assert patch(edge, "changed", threshold).json()["threshold"] == threshold
        verified = edge.verify("changed", "obama", OBAMA[1]).json()
        identified = edge.identify("changed", OBAMA[1]).json()
        assert (verified["decision"], identified["faces"][0]["decision"]) == (decision, found)
        for answer in (verified, identified):
            said = {"cosine": answer["threshold"], "fmr": answer["reference_fmr"]}
            assert (said, answer["threshold_from"], answer["fmr_measured_on"]) == (threshold, "gallery", "operator")
    assert patch(edge, "changed", OWN).json()["threshold"] == OWN
    assert edge.verify("changed", "obama", OBAMA[1]).json()["fmr_measured_on"] == "own_profile"


def test_a_threshold_is_changed_for_a_purpose(edge: Edge) -> None:
    put(edge, "grown", PURPOSE)
    before = held(edge, "grown")
    answer = patch(edge, "grown", STRICTER).json()
    assert answer["threshold"]["cosine"] > before["cosine"]
    assert (answer["chosen"]["for_subjects"], held(edge, "grown")) == (5000, answer["threshold"])


def test_what_was_not_measured_is_refused_and_changes_nothing(edges: tuple[Edge, Edge]) -> None:
    measured, bare = edges
    put(measured, "beyond")
    wanted = {"for_subjects": 1_000_000, "false_accepts": 0.0001}
    for answer in (patch(measured, "beyond", wanted), put(measured, "never-made", wanted)):
        assert "20000000 measured impostor pairs of hard" in assert_problem(answer, 422, "unprocessable")["detail"]
    assert held(measured, "beyond") == OWN
    assert_problem(put(bare, "no-curves", PURPOSE), 422, "unprocessable", "no_curves")
    for gallery in ("never-made", "no-curves"):
        assert measured.call("GET", f"/v1/galleries/{gallery}").status_code == 404


def test_a_purpose_needs_the_rule_that_was_measured(edge: Edge) -> None:
    assert_problem(put(edge, "by-best", PURPOSE, score_rule="best"), 409, "conflict", "other_score")
    put(edge, "by-best", score_rule="best")
    assert "patronus gallery score" in assert_problem(patch(edge, "by-best", PURPOSE), 409, "conflict")["detail"]
    edge.call("PATCH", "/v1/galleries/by-best", json={"score_rule": "mean"})
    assert patch(edge, "by-best", PURPOSE).status_code == 200


@pytest.mark.parametrize(
    "threshold",
    [
        {"for_subjects": 500},
        {"false_accepts": 0.1},
        {"for_subjects": 0, "false_accepts": 0.1},
        {"for_subjects": 1.5, "false_accepts": 0.1},
        {"for_subjects": "500", "false_accepts": 0.1},
        {"for_subjects": 500, "false_accepts": 0},
        {"for_subjects": 500, "false_accepts": 0.9},
        PURPOSE | OWN,
        {"cosine": 0.5},
        {"cosine": 1, "fmr": 0.1},
        {},
        0.5,
    ],
)
def test_a_threshold_is_a_cosine_with_its_rate_or_a_purpose(edge: Edge, threshold: Any) -> None:
    put(edge, "strict")
    assert patch(edge, "strict", threshold).status_code == 422
    assert put(edge, "strict-new", threshold).status_code == 422
    both = {"threshold": OWN, "score_rule": "mean"}
    assert edge.call("PATCH", "/v1/galleries/strict", json=both).status_code == 422, "one at a time"
    assert held(edge, "strict") == OWN


def test_an_error_names_the_member_as_the_caller_wrote_it(edge: Edge) -> None:
    put(edge, "placed")
    for threshold, at in (
        ({"for_subjects": 0, "false_accepts": 0.1}, ["body/threshold/for_subjects"]),
        ({"for_subjects": 500}, ["body/threshold/false_accepts"]),
        ({"cosine": 2, "fmr": 0.1}, ["body/threshold/cosine"]),
        ({"cosine": 0.5, "fmr": 0.1, "x": 1}, ["body/threshold/x"]),
        ("0.5", ["body/threshold"]),
    ):
        for answer in (patch(edge, "placed", threshold), put(edge, "placed-new", threshold)):
            problem = assert_problem(answer, 422, "unprocessable", "invalid_request")
            assert [each["at"] for each in problem["errors"]] == at
            assert "Threshold" not in answer.text


def test_only_managers_of_the_gallery_change_it(edge: Edge) -> None:
    put(edge, "guarded")
    for scope in (Scope.ENROLL, Scope.MATCH):
        assert_problem(patch(edge, "guarded", PURPOSE, edge.key(scope)), 403, "forbidden")
    elsewhere = edge.key(Scope.MANAGE, galleries=["other"])
    assert_problem(patch(edge, "guarded", PURPOSE, elsewhere), 404, "not-found")
    assert_problem(patch(edge, "nowhere", PURPOSE), 404, "not-found")
    assert held(edge, "guarded") == OWN


def test_a_gallery_whose_threshold_changes_while_it_is_looked_up_is_found(edge: Edge) -> None:
    put(edge, "overtaken")

    async def change_after(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        answer = await transport.deliver(request)
        await answer.aread()
        change = httpx.Request("PATCH", request.url, headers=request.headers, json={"threshold": PLAIN})
        assert (await transport.deliver(change)).status_code == 200
        return answer

    edge.transport.faults.append(change_after)
    answer = put(edge, "overtaken")
    assert (answer.status_code, answer.json()["threshold"]) == (200, PLAIN)


PLAIN = {"cosine": 0.6, "fmr": 0.00001}


def test_no_identification_mixes_two_thresholds(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    put(edge, "mixed")
    edge.enroll("mixed", "obama", *OBAMA)
    monkeypatch.setattr(sender, "MAX_PROBES_A_REQUEST", 1)  # each face is a request of its own
    face = pixels("collins/portrait.png")[20:220, 120:320]
    picture = encoded(np.concatenate([face, face], axis=1))

    async def change_before(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(path="/v1/galleries/mixed")
        change = httpx.Request("PATCH", url, headers={"Authorization": request.headers["Authorization"]}, json=body)
        assert (await transport.deliver(change)).status_code == 200
        return await transport.deliver(request)

    body = {"threshold": PLAIN}
    edge.transport.faults.extend([CloudTransport.deliver, change_before])
    assert_problem(edge.identify("mixed", picture, max_faces=2), 502, "cloud-failed")
    assert edge.identify("mixed", picture, max_faces=2).json()["threshold"] == 0.6
