"""A subject of several templates is compared by the gallery's rule, alike in verification and identification."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from cloud_service.settings import RecordSettings, Settings
from shared.security.credentials import Scope
from shared.service_settings import RateSettings
from tests.cloud_service.entries.reference import BEST, FLAT, MEAN, mean_vector, plain_score
from tests.support.cloud_client import DIM, TAU, Cloud, assert_problem, enveloped, random_units, towards, unit
from tests.support.damaging import change_blob, huge, rows_of

PROBE = towards(0, 1.0)
AROUND = random_units(77, 60)


def enroll(cloud: Cloud, subject: str, rows: Any, weights: Any = None, gallery: str = "door") -> dict[str, Any]:
    """Enrolls rows with weights; the answer."""
    sent: list[dict[str, Any]] = [{"id": uuid.uuid4().hex, "template": enveloped(row)} for row in rows]
    if weights is not None:
        for one, weight in zip(sent, weights, strict=True):
            one["weight"] = weight
    answer = cloud.http.post(f"/v1/galleries/{gallery}/subjects/{subject}/templates", json={"templates": sent})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


@given(
    rule=st.sampled_from([BEST, MEAN, FLAT]),
    people=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    tau=st.sampled_from([0.05, 0.3, 0.6]),
    top_k=st.integers(1, 4),
)
@hypothesis_settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_verification_and_identification_are_those_of_plain_numpy(
    sqlite_cloud: Cloud, rule: dict[str, Any], people: list[int], seed: int, tau: float, top_k: int
) -> None:
    cloud, chance = sqlite_cloud, np.random.default_rng(seed)
    cloud.put_gallery("model", tau=tau, score=rule)
    try:
        model = {}
        probe = unit(chance.standard_normal(DIM))
        for number, count in enumerate(people):
            rows = unit(chance.standard_normal(DIM) + chance.standard_normal((count, DIM)))
            weights = chance.uniform(0.1, 10, count).tolist()
            enroll(cloud, f"s{number}", rows[:1], weights[:1], "model")
            if count > 1:
                enroll(cloud, f"s{number}", rows[1:], weights[1:], "model")
            model[f"s{number}"] = plain_score(rule, list(rows), probe, weights)
            answer = cloud.verify(f"s{number}", probe, gallery="model").json()
            assert answer["score_rule"] == rule["rule"]
            assert answer["similarity"] == pytest.approx(model[f"s{number}"], abs=2e-7)
        found = cloud.identify(probe, top_k=top_k, gallery="model").json()
        assert found["score_rule"] == rule["rule"]
        listed = {one["subject"]: one["similarity"] for one in found["results"][0]["candidates"]}
        ranked = sorted(model, key=lambda name: -model[name])
        clear = [name for name in ranked if model[name] >= tau + 1e-6][:top_k]
        assert list(listed)[: len(clear)] == clear
        assert listed == pytest.approx({name: model[name] for name in listed}, abs=2e-7)
        for name, similarity in listed.items():
            assert cloud.verify(name, probe, gallery="model").json()["similarity"] == similarity
    finally:
        cloud.http.delete("/v1/galleries/model")


def test_a_new_gallery_compares_by_the_mean_and_an_existing_one_keeps_its_rule(cloud: Cloud) -> None:
    assert cloud.put_gallery().json()["score"] == FLAT
    assert cloud.put_gallery("other", score=BEST).json()["score"] == BEST
    for name, rule in (("door", MEAN), ("other", MEAN)):
        again = cloud.put_gallery(name, score=rule)
        assert again.status_code == 200
        assert again.json()["score"] == (FLAT if name == "door" else BEST)


def test_a_subject_of_one_template_scores_its_cosine_under_either_rule(cloud: Cloud) -> None:
    for name, rule in (("mean", MEAN), ("best", BEST)):
        cloud.put_gallery(name, score=rule)
        enroll(cloud, "anna", AROUND[:1], [7.5], name)
        exact = float(AROUND[0].astype(np.float64) @ AROUND[1].astype(np.float64))
        assert cloud.verify("anna", AROUND[1], gallery=name).json()["similarity"] == pytest.approx(exact, abs=1e-15)


def test_the_stated_false_match_rate_is_that_of_the_rule(cloud: Cloud) -> None:
    cloud.put_gallery("mean", score=MEAN)
    cloud.put_gallery("best", score=BEST)
    for name in ("mean", "best"):
        for count, subject in ((1, "one"), (3, "three"), (3, "more")):
            enroll(cloud, subject, AROUND[:count], gallery=name)
    told = {
        (name, subject): cloud.verify(subject, PROBE, gallery=name).json()["fmr_at_threshold"]
        for name in ("mean", "best")
        for subject in ("one", "three")
    }
    assert told["mean", "one"] == told["mean", "three"] == told["best", "one"] == 0.001
    assert told["best", "three"] == pytest.approx(1 - 0.999**3, rel=1e-12)
    assert cloud.identify(PROBE, gallery="mean").json()["fmr_at_threshold"] == 0.001
    # Seven templates of three subjects: three each, rounded up.
    assert cloud.identify(PROBE, gallery="best").json()["fmr_at_threshold"] == pytest.approx(1 - 0.999**3, rel=1e-12)


def test_a_subject_may_have_a_thousand_templates(settings: Settings) -> None:
    rows = unit(towards(0, 0.7) + 0.3 * random_units(3, 1000))
    with Cloud(settings) as cloud:
        cloud.put_gallery(score=MEAN)
        for start in range(0, 1000, 100):
            total = enroll(cloud, "anna", rows[start : start + 100])["total"]
        assert total == 1000
        expected = plain_score(MEAN, list(rows), PROBE)
        assert cloud.verify("anna", PROBE).json()["similarity"] == pytest.approx(expected, abs=2e-7)
        full = cloud.enroll("anna", AROUND[:1])
        assert_problem(full, 409, "conflict", "subject_full")
        assert cloud.http.get("/v1/galleries/door/stats").json()["entries"] == 1
    with Cloud(settings) as cloud:
        [candidate] = cloud.identify(PROBE).json()["results"][0]["candidates"]
        assert candidate["similarity"] == pytest.approx(expected, abs=2e-7)


def test_templates_that_point_away_from_each_other_match_nobody_and_do_not_agree(cloud: Cloud) -> None:
    cloud.put_gallery(score={"rule": "mean", "exponents": [1.0]})
    assert [one["agrees"] for one in enroll(cloud, "anna", [PROBE])["templates"]] == [None]
    answer = enroll(cloud, "anna", [-PROBE])
    assert ([one["agrees"] for one in answer["templates"]], answer["total"]) == ([False], 2)
    for probe in (PROBE, -PROBE):
        assert cloud.verify("anna", probe).json() | {"fmr_at_threshold": 0} == {
            "decision": "no_match",
            "similarity": 0,
            "threshold": TAU,
            "score_rule": "mean",
            "fmr_at_threshold": 0,
        }
        assert cloud.found(probe) == []


@pytest.mark.parametrize("rule", [MEAN, BEST], ids=["mean", "best"])
def test_enrollment_says_which_templates_agree_with_the_others(cloud: Cloud, rule: dict[str, Any]) -> None:
    cloud.put_gallery(score=rule)
    near = [towards(0, 0.95), towards(0, 0.9)]
    apart = towards(4, 1.0)
    first = cloud.enroll("anna", near, ids=["1" * 32, "2" * 32]).json()
    assert [one["agrees"] for one in first["templates"]] == [True, True]
    again = cloud.enroll("anna", [near[0], apart], ids=["1" * 32, "3" * 32]).json()
    rows = [*near, apart]
    others = [[rows[1], rows[2]], [rows[0], rows[1]]]
    expected = [plain_score(rule, other, rows[at]) >= TAU for at, other in zip((0, 2), others, strict=True)]
    assert [(one["stored"], one["agrees"]) for one in again["templates"]] == [
        ("before", expected[0]),
        ("now", expected[1]),
    ]
    assert expected == [True, False]
    assert again["total"] == 3


@pytest.mark.parametrize("weight", [0.09, 10.1, 0, -1, "1", None])
def test_a_weight_is_a_number_from_a_tenth_to_ten(client: Cloud, weight: object) -> None:
    sent = [{"id": "1" * 32, "template": enveloped(PROBE), "weight": weight}]
    answer = client.http.post("/v1/galleries/door/subjects/anna/templates", json={"templates": sent})
    assert answer.status_code == 422


def test_a_weight_counts_after_a_restart_too_and_a_changed_one_is_damage(settings: Settings) -> None:
    rows, weights = AROUND[:3], [0.1, 10.0, 3.3333333333333335]
    with Cloud(settings) as cloud:
        cloud.put_gallery(tau=0.1, score=MEAN)
        enroll(cloud, "anna", rows, weights)
        enroll(cloud, "ben", AROUND[3:5])
    expected = plain_score(MEAN, list(rows), rows[1], weights)
    assert expected != pytest.approx(plain_score(MEAN, list(rows), rows[1]), abs=0.01)
    with Cloud(settings) as cloud:
        assert cloud.verify("anna", rows[1]).json()["similarity"] == pytest.approx(expected, abs=2e-7)
        assert cloud.identify(rows[1]).json()["results"][0]["candidates"][0] == {
            "subject": "anna",
            "similarity": pytest.approx(expected, abs=2e-7),
        }
        with cloud.services.store.record.database.write() as connection:
            connection.exec_driver_sql("UPDATE template SET weight = 9.5 WHERE id = 2")
        assert_problem(cloud.verify("anna", rows[1]), 503, "record-damaged")
        assert cloud.verify("ben", AROUND[3]).status_code == 200
        left = plain_score(MEAN, [rows[0], rows[2]], rows[2], [weights[0], weights[2]])
        [found] = [one for one in _candidates(cloud, rows[2]) if one["subject"] == "anna"]
        assert found["similarity"] == pytest.approx(left, abs=2e-7), "the sound ones count"


def test_a_damaged_template_hides_nobody_whose_others_are_near(cloud: Cloud) -> None:
    """The mean in the index, made before the damage, is far from the probe."""
    cloud.put_gallery(score=MEAN)
    enroll(cloud, "anna", [-PROBE, PROBE], [10.0, 1.0])
    enroll(cloud, "ben", [towards(0, 0.9)])
    assert [one["subject"] for one in _candidates(cloud, PROBE)] == ["ben"]
    change_blob(cloud, rows_of(cloud, "anna")[0], huge(0))
    assert_problem(cloud.verify("anna", PROBE), 503, "record-damaged")
    assert _candidates(cloud, PROBE)[0] == {"subject": "anna", "similarity": pytest.approx(1, abs=1e-6)}


def _candidates(cloud: Cloud, probe: Any) -> list[dict[str, Any]]:
    answer = cloud.identify(probe, top_k=20)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"][0]["candidates"]
    return found


def test_entries_are_not_cut_where_pages_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [1, 3, 7, 2, 9, 1, 1, 4]
    rows = random_units(12, sum(counts))
    starts = np.cumsum([0, *counts])
    people = [rows[start:end] for start, end in pairwise(starts.tolist())]
    with Cloud(settings) as cloud:
        cloud.put_gallery(tau=0.05, score=MEAN)
        for number, mine in enumerate(people):
            enroll(cloud, f"s{number}", mine)
    for bytes_a_page in (1, 5 * DIM * 4, 8 * DIM * 4):
        monkeypatch.setattr("cloud_service.entries.queries.BATCH_BYTES", bytes_a_page)
        with Cloud(settings) as cloud:
            store = cloud.services.store
            [*batches] = store.record.entries.batches(store.record.gallery("door"))
            vectors = np.concatenate([vectors for _, vectors in batches])
            expected = np.array([mean_vector(MEAN, list(mine)) for mine in people])
            assert vectors == pytest.approx(expected, abs=1e-7)
            assert np.concatenate([ids for ids, _ in batches]).tolist() == list(range(1, len(people) + 1))


def test_the_limit_of_a_gallery_counts_templates(settings: Settings) -> None:
    limits = RecordSettings(max_templates_a_gallery=3)
    with Cloud(settings.model_copy(update={"record": limits})) as cloud:
        cloud.put_gallery()
        cloud.enroll("anna", AROUND[:3])
        assert_problem(cloud.enroll("ben", AROUND[3:4]), 409, "conflict", "gallery_full")
        assert cloud.held() == (1, 3)


def test_only_a_key_that_may_match_learns_whether_templates_agree(cloud: Cloud) -> None:
    cloud.put_gallery(score=MEAN)
    sent = {"templates": [{"id": uuid.uuid4().hex, "template": enveloped(row)} for row in random_units(5, 2)]}
    path = "/v1/galleries/door/subjects/anna/templates"
    for scopes, told in (([Scope.ENROLL], [None, None]), ([Scope.ENROLL, Scope.MATCH], [False, False])):
        answer = cloud.http.post(path, json=sent, headers=cloud.key(*scopes))
        assert [one["agrees"] for one in answer.json()["templates"]] == told


def test_a_key_learns_it_no_more_often_than_it_may_match_and_enrolls_on(settings: Settings) -> None:
    rates = RateSettings(matching="3/hour")
    with Cloud(settings.model_copy(update={"rates": rates})) as cloud:
        cloud.put_gallery(score=MEAN)
        enroll(cloud, "anna", random_units(6, 1))
        told = [enroll(cloud, "anna", random_units(seed, 1))["templates"][0]["agrees"] for seed in range(7, 12)]
        assert told == [False, False, None, None, None]
        assert cloud.verify("anna", PROBE).status_code == 200


@pytest.mark.parametrize(
    "damage", ["UPDATE subject SET entry_id = entry_id + (1 << 40)", "UPDATE gallery SET last_entry = 0"]
)
def test_after_a_flipped_bit_nobody_is_enrolled_who_could_not_be_found(settings: Settings, damage: str) -> None:
    with Cloud(settings) as cloud:
        cloud.put_gallery(score=MEAN)
        enroll(cloud, "anna", random_units(8, 1))
        with cloud.services.store.record.database.write() as connection:
            connection.execute(text(damage))
        sent = {"templates": [{"id": uuid.uuid4().hex, "template": enveloped(PROBE)}]}
        for subject in ("anna", "berta"):
            answer = cloud.http.post(f"/v1/galleries/door/subjects/{subject}/templates", json=sent)
            assert_problem(answer, 503, "record-damaged")
