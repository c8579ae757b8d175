"""What a key may do, which keys there are, and what was measured of a profile."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from edge_service.console.attack_figures import rebuilt_rates
from edge_service.protection.profiles.files import load_profile
from shared.security.credentials import Scope
from shared.wire.edge import EdgeInfo
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge


def test_a_key_learns_what_it_may_do_and_no_secret(shared_edge: Edge) -> None:
    key = shared_edge.key(Scope.MATCH, Scope.ENROLL, galleries=["roof", "door"])
    secret = key["Authorization"].rpartition("_")[2]
    answer = shared_edge.call("GET", "/v1/key", key)
    assert answer.json() == {
        "id": key["Authorization"].split("_")[1],
        "label": "test",
        "scopes": ["enroll", "match"],
        "galleries": ["door", "roof"],
        "rate": None,
        "expires_at": None,
    }
    assert secret not in answer.text
    assert_problem(shared_edge.call("GET", "/v1/key", {"Authorization": ""}), 401, "unauthenticated")


def test_keys_are_listed_with_those_that_were_revoked_and_those_of_browsers(shared_edge: Edge) -> None:
    ring = shared_edge.app.state.services.key_ring
    _, gone = ring.add("gone", [Scope.MATCH], None, "5/second")
    ring.revoke(gone.id)
    key, browser = ring.sign_in()
    answer = shared_edge.call("GET", "/v1/keys")
    found = {one["id"]: one for one in answer.json()["keys"]}
    assert datetime.fromisoformat(found[gone.id]["revoked_at"]) <= datetime.now(UTC)
    assert (found[gone.id]["rate"], found[gone.id]["expires_at"]) == ("5/second", None)
    assert datetime.fromisoformat(found[browser.record.id]["expires_at"]) == browser.expires_at
    assert found[browser.record.id]["label"] == "browser on this machine"
    assert key.rpartition("_")[2] not in answer.text
    assert not any(record.digest in answer.text for record in ring.all_records())


@pytest.mark.parametrize(
    ("scopes", "galleries"), [([Scope.MANAGE], ["door"]), ([Scope.MATCH, Scope.ENROLL], None), ([Scope.MANAGE], [])]
)
def test_a_narrower_key_does_not_see_the_keys(
    shared_edge: Edge, scopes: list[Scope], galleries: list[str] | None
) -> None:
    key = shared_edge.key(*scopes, galleries=galleries)
    assert_problem(shared_edge.call("GET", "/v1/keys", key), 403, "forbidden")


@pytest.mark.parametrize("name", ["default", "default-2", "dlib-2", "plugin"])
def test_rebuilt_faces_are_those_of_the_profile_itself(name: str) -> None:
    figures = load_profile(name).document.figures
    assert figures is not None
    rates = rebuilt_rates(figures)
    assert rates is not None
    found: Any = figures["attacks"]
    [held_out] = [found[family] for family in found if "held out" in family]
    assert rates.people == figures["attacked"]
    assert rates.unprotected_same == held_out["clean"]["type_1"]["target"]["value"]
    assert rates.protected_other == held_out["protected"]["type_2"]["target"]["value"]


@pytest.mark.parametrize(
    "figures",
    [None, {}, {"attacked": 0, "attacks": {}}, {"attacked": 9, "attacks": {"mine (held out)": {"clean": 7}}}],
)
def test_where_nothing_was_measured_no_rate_is_told(figures: Any) -> None:
    assert rebuilt_rates(figures) is None


def test_the_edge_tells_the_rates_of_its_profile(shared_edge: Edge) -> None:
    told = shared_edge.call("GET", "/v1/info").json()["console"]["rebuilt"]
    rates = rebuilt_rates(load_profile("default-2").document.figures)
    assert rates is not None
    assert told == rates.model_dump()


@pytest.mark.parametrize("rule", ["mean", "best"])
def test_the_curves_are_those_of_the_profile(shared_edge: Edge, rule: str) -> None:
    answer = shared_edge.call("GET", f"/v1/curves?rule={rule}", shared_edge.key(Scope.MATCH)).json()
    document = load_profile("default-2").document
    assert document.curves is not None
    assert document.threshold is not None
    expected = [curve.model_dump(mode="json") for curve in document.curves if curve.rule == rule]
    assert len(expected) == 14
    assert answer["curves"] == expected
    assert answer["profile"]["name"] == "default-2"
    assert answer["default_threshold"] == document.threshold.model_dump()


@pytest.mark.parametrize("query", ["rule=worst", "rule=mean&rule=best", "role=mean"])
def test_curves_of_another_rule_are_refused(shared_edge: Edge, query: str) -> None:
    assert shared_edge.call("GET", f"/v1/curves?{query}").status_code in {400, 422}


def test_the_curves_of_a_gallery_are_by_its_rule_and_for_keys_of_it(edge: Edge) -> None:
    edge.make("door")
    edge.call("PATCH", "/v1/galleries/door", json={"score_rule": "best"})
    key = edge.key(Scope.MATCH, galleries=["door"])
    curves = edge.call("GET", "/v1/galleries/door/curves", key).json()["curves"]
    assert curves == edge.call("GET", "/v1/curves?rule=best").json()["curves"]
    for path in ("roof", "nowhere"):
        assert_problem(edge.call("GET", f"/v1/galleries/{path}/curves", key), 404, "not-found", "unknown_gallery")


def test_where_nothing_was_measured_there_are_no_curves(session_edge: Edge) -> None:
    seal = session_edge.pair.edge("seal", profile="seal")
    for path in ("/v1/curves", "/v1/galleries/sealed/curves"):
        seal.call("PUT", "/v1/galleries/sealed")
        answer = seal.call("GET", path).json()
        assert (answer["profile"]["name"], answer["curves"]) == ("seal", [])
        assert answer["default_threshold"] is not None  # the embedder's
    seal.call("DELETE", "/v1/galleries/sealed")


def test_a_client_reads_the_answer_of_an_edge_that_has_no_console(shared_edge: Edge) -> None:
    answer = shared_edge.call("GET", "/v1/info").json()
    del answer["console"]
    console = EdgeInfo.model_validate(answer).console
    assert (console.decoder, console.recording) == (False, False)
