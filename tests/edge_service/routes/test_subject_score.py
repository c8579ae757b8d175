"""How a subject of several faces is compared, as callers of the edge choose it, see it, and are advised by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_service.protection.profiles.files import load_profile
from edge_service.protection.profiles.score import ScoreCalibration, ScoreWeights
from edge_service.protection.served_profiles import ServedProfiles
from edge_service.subjects import sender
from edge_service.vision.embed import SFACE
from edge_service.vision.reader import FaceReader
from shared.contract import EmbedderPin
from shared.security.credentials import Scope
from shared.wire.common import SubjectScore
from tests.support.cloud_client import assert_problem
from tests.support.edge import CloudTransport, Edge, Pair, encoded, pixels, sample
from tests.support.patronus_profile import copy_profile, units

OBAMA = [sample(f"obama/{name}.jpg") for name in ("portrait", "speech", "standing")]
BIDEN = sample("biden/standing.jpg")
TAR = [0.83, 0.93, 0.96]
FMR = 0.0008
SCORE = {"exponents": [0.6, 0.7], "weights": {"norm": 10.0, "power": 1.0}, "tar": TAR}
MEAN = {"rule": "mean", "exponents": [0.6, 0.7]}
BEST = {"rule": "best", "exponents": []}


@pytest.fixture(scope="module")
def edge(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge whose profile says how subjects are compared."""
    profiles = tmp_path_factory.mktemp("profiles")
    copy_profile("default", profiles, "scored", score=SCORE, threshold={"cosine": 0.384, "fmr": FMR})
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair.edge(profile="scored", profiles=profiles)


def sent_last(edge: Edge, method: str) -> dict[str, Any]:
    """The last body that went to the cloud by this method."""
    found: dict[str, Any] = json.loads([one for one in edge.transport.requests if one.method == method][-1].content)
    return found


def rule_of(edge: Edge, gallery: str) -> dict[str, Any]:
    found: dict[str, Any] = edge.call("GET", f"/v1/galleries/{gallery}").json()["score"]
    return found


def test_a_new_gallery_compares_by_the_mean_with_the_profiles_exponents(edge: Edge) -> None:
    for name, wanted, expected in (("one", None, MEAN), ("two", {"score_rule": "best"}, BEST)):
        answer = edge.call("PUT", f"/v1/galleries/{name}", json=wanted)
        assert (answer.status_code, answer.json()["score"]) == (201, expected)
        assert rule_of(edge, name) == expected
    listed = {one["gallery"]: one["score"] for one in edge.call("GET", "/v1/galleries").json()["items"]}
    assert (listed["one"], listed["two"]) == (MEAN, BEST)


def test_an_existing_gallery_keeps_its_rule_until_it_is_changed(edge: Edge) -> None:
    path = "/v1/galleries/kept"
    edge.call("PUT", path, json={"score_rule": "best"})
    for wanted in (None, {}, {"score_rule": "best"}, {"score_rule": None}):
        answer = edge.call("PUT", path, json=wanted)
        assert (answer.status_code, answer.json()["score"]) == (200, BEST)
    refused = assert_problem(edge.call("PUT", path, json={"score_rule": "mean"}), 409, "conflict")
    assert "by the rule best" in refused["detail"]
    assert rule_of(edge, "kept") == BEST


def test_the_rule_is_changed_for_enrolled_subjects_too_and_answers_name_it(edge: Edge) -> None:
    path = "/v1/galleries/changed"
    edge.make("changed")
    assert edge.enroll("changed", "obama", *OBAMA[:2]).status_code == 201
    found = {}
    for rule, expected in (("mean", MEAN), ("best", BEST), ("mean", MEAN)):
        answer = edge.call("PATCH", path, json={"score_rule": rule})
        assert (answer.status_code, answer.json()["score"]) == (200, expected)
        assert rule_of(edge, "changed") == expected
        decisions = [edge.verify("changed", "obama", OBAMA[2]).json(), edge.identify("changed", OBAMA[2]).json()]
        for decision in decisions:
            assert decision["score_rule"] == rule
            # Two comparisons instead of one; the threshold is still the profile's own.
            rate = FMR if rule == "mean" else 1 - (1 - FMR) ** 2
            assert decision["reference_fmr"] == pytest.approx(rate, rel=1e-6)
            assert (decision["fmr_measured_on"], decision["threshold"]) == ("own_profile", 0.384)
        assert decisions[0]["decision"] == "match"
        assert decisions[1]["faces"][0]["candidates"][0]["similarity"] == decisions[0]["similarity"]
        found.setdefault(rule, set()).add(decisions[0]["similarity"])
    assert {len(scores) for scores in found.values()} == {1}
    assert found["mean"] != found["best"]


@pytest.mark.parametrize(
    "body",
    [{}, {"score_rule": "median"}, {"score_rule": None}, {"score_rule": "mean", "exponents": [1]}, None, []],
)
def test_only_a_rule_is_taken(edge: Edge, body: Any) -> None:
    edge.call("PUT", "/v1/galleries/strict")
    assert edge.call("PATCH", "/v1/galleries/strict", json=body).status_code == 422
    assert rule_of(edge, "strict") == MEAN


def test_only_managers_of_this_gallery_change_it(edge: Edge) -> None:
    edge.call("PUT", "/v1/galleries/guarded")
    for scope in (Scope.ENROLL, Scope.MATCH):
        answer = edge.call("PATCH", "/v1/galleries/guarded", edge.key(scope), json={"score_rule": "best"})
        assert_problem(answer, 403, "forbidden")
    elsewhere = edge.key(Scope.MANAGE, galleries=["other"])
    assert_problem(
        edge.call("PATCH", "/v1/galleries/guarded", elsewhere, json={"score_rule": "best"}), 404, "not-found"
    )
    assert_problem(edge.call("PATCH", "/v1/galleries/nowhere", json={"score_rule": "best"}), 404, "not-found")
    assert rule_of(edge, "guarded") == MEAN


def test_an_enrollment_says_what_another_picture_is_worth(edge: Edge) -> None:
    edge.make("advised")
    for count, (now, later) in enumerate([(0.83, 0.93), (0.93, 0.96)], start=1):
        answer = edge.enroll("advised", "obama", OBAMA[count - 1]).json()
        assert answer["faces_enrolled"] == count
        assert answer["another_picture"] == {"accepted_now": now, "accepted_with_one_more": later}
    answer = edge.enroll("advised", "obama", OBAMA[2]).json()
    assert (answer["faces_enrolled"], answer["another_picture"]) == (3, None), "beyond what was measured"
    again = edge.enroll("advised", "obama", OBAMA[2]).json()
    assert (again["faces_enrolled"], again["faces"][0]["stored"]) == (3, "before")


def test_what_was_measured_otherwise_is_no_advice(edge: Edge) -> None:
    for name, wanted in (
        ("by-best", {"score_rule": "best"}),
        ("at-another-threshold", {"threshold": {"cosine": 0.5, "fmr": 0.0001}}),
    ):
        edge.call("PUT", f"/v1/galleries/{name}", json=wanted)
        answer = edge.enroll(name, "obama", OBAMA[0]).json()
        assert (answer["faces_enrolled"], answer["another_picture"]) == (1, None)


def test_two_people_under_one_name_are_told_at_enrollment(edge: Edge) -> None:
    for name, rule in (("told", "mean"), ("told-best", "best")):
        edge.call("PUT", f"/v1/galleries/{name}", json={"score_rule": rule})
        agrees = [
            [face["agrees"] for face in edge.enroll(name, "obama", *pictures).json()["faces"]]
            for pictures in ([OBAMA[0]], [OBAMA[1]], [BIDEN])
        ]
        assert agrees == [[None], [True], [False]]
        together = edge.enroll(name, "both", OBAMA[0], BIDEN).json()["faces"]
        assert [face["agrees"] for face in together] == [False, False]


def test_only_a_key_that_may_match_learns_whether_a_face_agrees(edge: Edge) -> None:
    edge.make("untold")
    edge.enroll("untold", "obama", OBAMA[0])
    faces, embeddings = ("/v1/galleries/untold/subjects/obama/" + kind for kind in ("faces", "embeddings"))
    row = {"embeddings": [{"values": units(1)[0].tolist()}]}
    for more, told in (((), False), ((Scope.MATCH,), True)):
        answer = edge.send(faces, OBAMA[1], headers=edge.key(Scope.ENROLL, *more)).json()
        assert answer["faces"][0]["agrees"] is (True if told else None)
        answer = edge.call("POST", embeddings, edge.key(Scope.MANAGE, *more), json=row).json()
        assert answer["faces"][0]["agrees"] is (False if told else None)


def test_larger_exponents_than_the_profiles_claim_no_measured_rate(edge: Edge) -> None:
    for name, exponents, origin in (("larger", [1.0], "operator"), ("smaller", [0.1], "own_profile")):
        edge.make(name)
        edge.pair.cloud.state.services.store.change_score(name, SubjectScore(rule="mean", exponents=exponents), None)
        edge.app.state.services.galleries.cached.clear()
        edge.enroll(name, "obama", OBAMA[0])
        assert edge.verify(name, "obama", OBAMA[1]).json()["fmr_measured_on"] == origin


async def _by_the_best(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    answer = json.loads(await (await transport.deliver(request)).aread())
    return httpx.Response(200, json=answer | {"score_rule": "best"})


def test_no_answer_mixes_two_rules(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    edge.make("mixed")
    edge.enroll("mixed", "obama", *OBAMA)
    monkeypatch.setattr(sender, "MAX_PROBES_A_REQUEST", 1)  # each face is a request of its own
    face = pixels("collins/portrait.png")[20:220, 120:320]
    picture = encoded(np.concatenate([face, face], axis=1))
    assert len(edge.identify("mixed", picture, max_faces=2).json()["faces"]) == 2
    edge.transport.faults.extend([CloudTransport.deliver, _by_the_best])
    assert_problem(edge.identify("mixed", picture, max_faces=2), 502, "cloud-failed")


async def _for_other_templates(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    answer = json.loads(await (await transport.deliver(request)).aread())
    answer["templates"][0]["id"] = "0" * 32
    return httpx.Response(201, json=answer)


def test_a_cloud_that_answers_for_other_templates_is_not_believed(edge: Edge) -> None:
    edge.make("other-templates")
    edge.make_known("other-templates")
    edge.transport.faults.extend([CloudTransport.deliver, _for_other_templates])  # after the search
    assert_problem(edge.enroll("other-templates", "obama", OBAMA[0]), 502, "cloud-failed")


async def _for_fewer_probes(transport: CloudTransport, request: httpx.Request) -> httpx.Response:
    answer = json.loads(await (await transport.deliver(request)).aread())
    return httpx.Response(200, json=answer | {"results": answer["results"][1:]})


def test_a_cloud_that_answers_for_fewer_probes_is_not_believed(edge: Edge) -> None:
    edge.make("fewer")
    edge.make_known("fewer")
    edge.transport.faults.append(_for_fewer_probes)
    assert_problem(edge.identify("fewer", OBAMA[0]), 502, "cloud-failed")


def test_a_picture_weighs_by_the_length_of_its_embedding(edge: Edge, reader: FaceReader) -> None:
    edge.make("weighed")
    edge.enroll("weighed", "obama", *OBAMA)
    faces = [reader.read(picture).faces[0] for picture in OBAMA]
    expected = [
        ScoreWeights(norm=10.0, power=1.0).weight(float(norm)) for norm in reader.embed(faces, mirrored=True).norms
    ]
    assert [template["weight"] for template in sent_last(edge, "POST")["templates"]] == expected
    assert set(expected) != {1.0}


def test_embeddings_weigh_by_their_length_and_alike_at_length_1(edge: Edge) -> None:
    edge.make("lengths")
    rows, lengths = units(4), [1.0, 5.0, 20.0, 9.5]
    embeddings = [{"values": (row * length).tolist()} for row, length in zip(rows, lengths, strict=True)]
    answer = edge.call("POST", "/v1/galleries/lengths/subjects/ada/embeddings", json={"embeddings": embeddings})
    assert answer.status_code == 201, answer.text
    assert [template["weight"] for template in sent_last(edge, "POST")["templates"]] == [1, 0.5, 2, 1]
    assert (answer.json()["faces_enrolled"], answer.json()["another_picture"]) == (4, None)
    assert [face["agrees"] for face in answer.json()["faces"]] == [False] * 4


def test_a_profile_without_a_word_on_it_takes_the_embedders(tmp_path: Path) -> None:
    of_embedder = ScoreCalibration(exponents=[0.4])
    pin = EmbedderPin(name=SFACE.name, sha256="0" * 64, preprocessing=SFACE.preprocessing)
    copy_profile("seal", tmp_path, "scored", score={"exponents": [0.9]})
    served = ServedProfiles("seal", pin, replace(SFACE, score=of_embedder), tmp_path)
    assert served.score_calibration(load_profile("seal")) == of_embedder
    assert served.score_calibration(load_profile("scored", own=tmp_path)).exponents == [0.9]
