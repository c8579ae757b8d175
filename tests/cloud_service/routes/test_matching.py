"""Verification and identification give exact scores, decide at tau, and let nobody crowd others out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cloud_service.settings import RecordSettings, Settings
from tests.support.cloud_client import DIM, TAU, Cloud, assert_problem, random_units, towards, unit

pytestmark = pytest.mark.both_engines

PROBE = towards(0, 1.0)


@pytest.fixture
def best(cloud: Cloud) -> Cloud:
    """A cloud whose gallery ``door`` compares a subject's best template."""
    assert cloud.put_gallery(score={"rule": "best"}).status_code == 201
    return cloud


def test_verification_takes_the_best_template_and_decides_at_tau(best: Cloud) -> None:
    client = best
    client.enroll("anna", [towards(0, 0.1), towards(0, 0.8), towards(0, 0.3)])
    assert client.verify("anna", PROBE).json() == {
        "decision": "match",
        "similarity": pytest.approx(0.8, abs=1e-6),
        "threshold": TAU,
        "score_rule": "best",
        "fmr_at_threshold": pytest.approx(1 - 0.999**3, abs=1e-15),
    }
    assert client.verify("anna", -PROBE).json()["decision"] == "no_match"


def test_a_score_of_exactly_tau_is_a_match_and_the_next_below_is_not(client: Cloud) -> None:
    # 0.5 and its neighbour are exact in float32, and so is their product with 1.
    at_tau, below = towards(0, 0.5), towards(0, 0.5)
    below[0] = np.nextafter(np.float32(0.5), np.float32(0))
    assert at_tau[0] == np.float32(0.5)
    client.enroll("at", [at_tau])
    client.enroll("below", [below])
    assert client.verify("at", PROBE).json()["decision"] == "match"
    assert client.verify("below", PROBE).json()["decision"] == "no_match"
    assert client.found(PROBE) == ["at"]


def test_similarity_never_leaves_the_range_of_a_cosine(client: Cloud) -> None:
    long = (PROBE * np.float32(1 + 9e-5)).astype(np.float32)
    client.enroll("anna", [long])
    assert client.verify("anna", long).json()["similarity"] == 1.0
    assert client.verify("anna", -long).json()["similarity"] == -1.0
    assert client.identify(long).json()["results"][0]["candidates"] == [{"subject": "anna", "similarity": 1.0}]


def test_an_empty_gallery_answers_unknown(client: Cloud) -> None:
    answer = client.identify(PROBE).json()
    assert answer["results"] == [{"decision": "unknown", "candidates": []}]
    assert (answer["threshold"], answer["fmr_at_threshold"]) == (TAU, 0.001)


def test_each_probe_has_its_own_result_in_the_order_of_probes(client: Cloud) -> None:
    client.enroll("anna", [towards(0, 1.0)])
    client.enroll("ben", [towards(3, 1.0)])
    results = client.identify(towards(3, 0.9), towards(5, 1.0), towards(0, 0.9)).json()["results"]
    assert [[found["subject"] for found in result["candidates"]] for result in results] == [["ben"], [], ["anna"]]
    assert [result["decision"] for result in results] == ["match", "unknown", "match"]


def test_candidates_are_distinct_subjects_best_first_and_ties_go_by_name(best: Cloud) -> None:
    client = best
    client.enroll("tie-b", [towards(0, 0.7)])
    client.enroll("tie-a", [towards(0, 0.7), towards(0, 0.6)])
    client.enroll("best", [towards(0, 0.9), towards(0, 0.95)])
    client.enroll("under", [towards(0, 0.49)])
    assert client.found(PROBE) == ["best", "tie-a", "tie-b"]
    assert client.found(PROBE, top_k=2) == ["best", "tie-a"]


def test_a_subject_with_many_templates_does_not_crowd_others_out(settings: Settings) -> None:
    limits = RecordSettings(max_templates_a_subject=1000)
    with Cloud(settings.model_copy(update={"record": limits})) as cloud:
        cloud.put_gallery(score={"rule": "best"})
        for start in range(0, 700, 100):
            near = np.tile(PROBE, (100, 1)) + 0.02 * random_units(start, 100)
            assert cloud.enroll("crowd", unit(near)).status_code == 201
        cloud.enroll("anna", [towards(0, 0.8)])
        cloud.enroll("ben", [towards(0, 0.7)])
        cloud.enroll("far", [towards(0, 0.3)])
        assert cloud.found(PROBE, top_k=1) == ["crowd"]
        assert cloud.found(PROBE, top_k=2) == ["crowd", "anna"]
        assert cloud.found(PROBE, top_k=3) == ["crowd", "anna", "ben"]
        assert cloud.found(PROBE, top_k=4) == ["crowd", "anna", "ben"]


def test_equal_vectors_beyond_the_first_look_are_still_ordered_by_name(client: Cloud) -> None:
    for number in reversed(range(60)):
        client.enroll(f"twin-{number:02}", [PROBE])
    assert client.found(PROBE, top_k=3) == ["twin-00", "twin-01", "twin-02"]


def test_an_unknown_gallery_or_subject_is_not_found(client: Cloud) -> None:
    assert_problem(client.verify("nobody", PROBE), 404, "not-found", "unknown_subject")
    assert_problem(client.verify("nobody", PROBE, gallery="nowhere"), 404, "not-found", "unknown_gallery")
    assert_problem(client.identify(PROBE, gallery="nowhere"), 404, "not-found", "unknown_gallery")


_components = st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM).filter(
    lambda row: math.hypot(*row) > 0.1
)
_rows = _components.map(lambda row: unit(np.array(row)))
_people = st.dictionaries(st.sampled_from("abcdef"), st.lists(_rows, min_size=1, max_size=4), max_size=6)


@given(people=_people, probe=_rows, top_k=st.integers(1, 4), tau=st.sampled_from([0.05, 0.5, 0.9]))
@hypothesis_settings(deadline=None)
def test_scores_and_candidates_are_those_of_a_plain_model(
    sqlite_cloud: Cloud, people: dict[str, list[np.ndarray]], probe: np.ndarray, top_k: int, tau: float
) -> None:
    cloud = sqlite_cloud
    cloud.put_gallery("model", tau=tau, score={"rule": "best"})
    try:
        model = {}
        for name, rows in people.items():
            assert cloud.enroll(name, rows, gallery="model").status_code == 201
            dots = [math.fsum(float(x) * float(y) for x, y in zip(row, probe, strict=True)) for row in rows]
            model[name] = min(1.0, max(-1.0, *dots))
            answer = cloud.verify(name, probe, gallery="model").json()
            assert answer["similarity"] == pytest.approx(model[name], abs=1e-14)
        found = cloud.identify(probe, top_k=top_k, gallery="model").json()["results"][0]["candidates"]
        expected = sorted((score for score in model.values() if score >= tau), reverse=True)[:top_k]
        assert [item["similarity"] for item in found] == pytest.approx(expected, abs=1e-14)
        for item in found:
            assert item["similarity"] == pytest.approx(model[item["subject"]], abs=1e-14)
        assert found == sorted(found, key=lambda item: (-item["similarity"], item["subject"]))
        assert len({item["subject"] for item in found}) == len(found)
    finally:
        cloud.http.delete("/v1/galleries/model")
