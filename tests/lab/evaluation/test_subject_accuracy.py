"""Accuracy of subjects with several templates, their curves, and what protection costs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_service.protection.profiles.score import ScoreWeights
from edge_service.vision.embed import SFACE
from lab.data.embedders import open_encoder
from lab.data.images import read_images
from lab.data.matching import genuine_pairs
from lab.evaluation.demographics import labels_of
from lab.evaluation.subjects.accuracy import Alone, draws_of_people, figures, genuine_rows, scored
from lab.evaluation.subjects.curves import band_curves, costs, people_curves
from lab.evaluation.subjects.scores import Case, Population
from shared.wire.common import BEST, SubjectScore
from tests.lab.evaluation.synthetic_people import people, strangers, unit

TAU = 0.6
MEAN = SubjectScore(rule="mean", exponents=[0.6])
ONCE = draws_of_people(60, 1)


def test_one_template_scores_the_same_by_both_rules() -> None:
    case = Case.within(people())
    best, mean = (scored(case, 1, rule, enrollments=2, floor=-1) for rule in (BEST, MEAN))
    np.testing.assert_allclose(best.genuine, mean.genuine, atol=1e-6)
    np.testing.assert_allclose(best.impostor, mean.impostor, atol=1e-6)


@pytest.mark.parametrize("rule", [BEST, MEAN])
def test_figures_are_those_of_all_pairs(rule: SubjectScore) -> None:
    population = people(60, 5, 0.3)
    scores = scored(Case.within(population), 3, rule, enrollments=1, floor=-1)
    rows = scores.rows.reshape(-1, 3)
    templates = population.gallery[rows].astype(np.float64)
    if rule.rule == "best":
        all_scores = np.einsum("skd,nd->skn", templates, population.probes).max(axis=1)
    else:
        mean = templates.mean(axis=1)
        all_scores = mean / np.linalg.norm(mean, axis=1, keepdims=True) ** 0.6 @ population.probes.T
    same = population.people[rows[:, 0]][:, None] == population.people[None, :]
    free = ~np.isin(np.arange(len(population)), rows)
    found = {name: float(values[0]) for name, values in figures(scores, TAU, ONCE).values.items()}
    genuine, impostor = all_scores[same & free], np.sort(all_scores[~same])[::-1]
    assert found["fmr_at_tau"] == pytest.approx(np.mean(impostor >= TAU))
    assert found["tar_at_tau"] == pytest.approx(np.mean(genuine >= TAU))
    assert found["tar_at_1e-03"] == pytest.approx(np.mean(genuine > impostor[int(1e-3 * len(impostor))]), abs=0.01)
    own = np.where(same, all_scores, -1).max(axis=0)[free]
    other = np.where(same, -1, all_scores).max(axis=0)[free]
    assert found["rank_1"] == pytest.approx(np.mean(own > other))


def test_the_rate_of_one_template_is_that_of_the_enrolled_ones() -> None:
    case = Case.within(people(60, 4, 0.3))
    scores = scored(case, 4, BEST, enrollments=1, floor=TAU)  # all pictures are enrolled
    cosine = case.probes @ case.probes.T
    other = case.people[:, None] != case.people[None, :]
    expected = np.sum((cosine >= TAU) & other) / np.sum(other)
    assert Alone.of(case, TAU).fmr(scores, 4, ONCE)[0] == pytest.approx(expected)


def test_the_best_template_errs_more_with_each_and_the_mean_does_not() -> None:
    case = Case.within(people(60, 12, 0.25))
    alone = Alone.of(case, TAU)

    def ratio(rule: SubjectScore) -> float:
        scores = scored(case, 8, rule, enrollments=2, floor=TAU)
        return float(figures(scores, TAU, ONCE, alone.fmr(scores, 8, ONCE)).values["fmr_ratio"][0])

    assert ratio(BEST) > 2
    assert ratio(SubjectScore(rule="mean")) < 0.5


def test_pictures_of_good_quality_count_more() -> None:
    case = Case.within(people(60, 12, 0.2, poor=0.4))
    plain, weighted = (
        figures(scored(case, 3, MEAN, weights=weights, enrollments=4), TAU, ONCE).values["tar_at_1e-03"][0]
        for weights in (None, ScoreWeights(norm=12, power=2))
    )
    assert weighted > plain + 0.01


def test_strangers_are_impostors_of_everyone() -> None:
    population = people(60, 3)
    scores = scored(Case.strangers(population, strangers(200), "utk"), 1, BEST, enrollments=1, floor=-1)
    assert scores.pairs(ONCE)[0] == 60 * 200
    assert len(scores.genuine) == 0
    assert "tar_at_tau" not in figures(scores, TAU, ONCE).values


def test_draws_of_people_begin_with_everyone_once_and_weigh_pairs() -> None:
    drawn = draws_of_people(30, 5)
    assert drawn.shape == (31, 6)
    assert (drawn[:, 0] == 1).all()
    assert (drawn[:-1].sum(axis=0) == 30).all()
    assert (drawn[-1] == 1).all()


def test_nobody_has_more_than_twenty_genuine_probes() -> None:
    whose = np.repeat([0, 1], [50, 3])
    rows = genuine_rows(whose, np.ones(53, bool), np.random.default_rng(0))
    assert np.bincount(whose[rows]).tolist() == [20, 3]
    assert len({*rows.tolist()}) == 23


def test_curves_count_every_pair_and_follow_the_rule() -> None:
    population = people(30, 12, 0.25, name="wild")
    found = {(each.rule, each.templates): each for each in people_curves(population, MEAN, None)}
    assert found.keys() == {(rule, templates) for rule in ("mean", "best") for templates in (1, 3, 10)}
    single = found["best", 1]
    assert single.impostor_pairs == 30 * 29 // 2 * 144
    assert single.genuine_pairs == 30 * 66
    assert single.fmr == found["mean", 1].fmr
    assert len(single.thresholds) >= 200
    # Three enrollments, and two pictures of each person are left.
    assert found["mean", 10].genuine_pairs == 3 * 30 * 2
    at = single.thresholds.index(0.6)
    cosine = population.probes @ population.probes.T
    other = population.people[:, None] < population.people[None, :]
    assert single.fmr[at] == pytest.approx(np.mean(cosine[other] >= 0.6), rel=1e-4)
    assert found["best", 10].fmr[at] > 3 * found["mean", 10].fmr[at]
    # Too few people with more than ten pictures.
    assert {each.templates for each in people_curves(people(30, 10), MEAN, None)} == {1, 3}


def test_bands_have_impostors_alone() -> None:
    rows = strangers(60)
    labels = labels_of([f"{age}_0_0_{number}.jpg" for number, age in enumerate([1] * 30 + [80] * 29 + [30])])
    found = band_curves("utk", rows, rows, labels)
    assert [(each.band, each.rule) for each in found] == [
        (band, rule) for band in ("0-2", "71+") for rule in ("mean", "best")
    ]
    assert found[0].impostor_pairs == 30 * 29 // 2
    assert found[0].tar is None
    one_sided = band_curves("utk", rows, rows.copy(), labels)
    assert one_sided[0].impostor_pairs == 30 * 29


def _shaken(population: Population, by: float) -> Population:
    random = np.random.default_rng(3)
    rows = unit(population.probes + by * random.normal(size=population.probes.shape))
    return Population(population.name, rows, rows, population.people, population.lengths)


def test_noise_costs_and_nothing_costs_nothing() -> None:
    clean = people(40, 8, 0.15, name="wild")
    same = costs(clean, clean, rounds=20)
    assert [(each.fmr, each.tar_lost, each.interval) for each in same] == [
        (rate, 0, [0, 0]) for rate in (1e-3, 1e-4, 1e-5)
    ]
    lost = costs(clean, _shaken(clean, 0.1), rounds=40)
    for each in lost:
        assert each.interval is not None
        assert each.interval[0] <= each.tar_lost <= each.interval[1]
    assert lost[0].tar_lost > 0.02
    assert lost[0].interval is not None
    assert lost[0].interval[0] > 0


def test_the_cost_is_that_of_all_pairs() -> None:
    clean = people(40, 6, 0.2, name="wild")
    shaken = _shaken(clean, 0.1)
    pairs = genuine_pairs(clean.people, most=1000)

    def tar(population: Population) -> float:
        cosine = population.probes @ population.probes.T
        other = population.people[:, None] < population.people[None, :]
        impostor = np.sort(cosine[other])[::-1]
        genuine = np.sum(population.probes[pairs[:, 0]] * population.probes[pairs[:, 1]], axis=1)
        return float(np.mean(genuine > impostor[int(1e-3 * len(impostor))]))

    assert costs(clean, shaken, pairs, rounds=2)[0].tar_lost == pytest.approx(tar(clean) - tar(shaken), abs=2e-3)


def test_a_protected_probe_against_a_clean_gallery_counts_both_orders() -> None:
    clean = people(30, 4, 0.2, name="wild")
    shaken = _shaken(clean, 0.1)
    one_sided = Population("wild", shaken.probes, clean.probes, clean.people, clean.lengths)
    both, one = costs(clean, shaken, rounds=2)[0].tar_lost, costs(clean, one_sided, rounds=2)[0].tar_lost
    assert 0 < one < both


@pytest.mark.slow(reason="embeds 500 real faces")
@pytest.mark.usefixtures("models_folder")
def test_the_served_exponents_hold_on_real_faces() -> None:
    tar = Path(os.environ.get("PATRONUS_FACE_DATA", ""), "wild112.tar")
    if not tar.is_file():
        pytest.skip("PATRONUS_FACE_DATA does not name a folder with wild112.tar")
    images = read_images(tar)
    _, index = np.unique(images.people.astype(str), return_inverse=True)
    rows = np.concatenate([np.flatnonzero(index == one)[::7][:10] for one in range(50)])
    raw = open_encoder(SFACE.name).embed(np.asarray(images.pixels[rows]))
    probes = unit(raw.astype(np.float64))
    case = Case.within(Population("wild", probes, probes, index[rows], np.linalg.norm(raw.astype(np.float64), axis=1)))
    calibration, tau, drawn = SFACE.score, 0.384, draws_of_people(50, 1)
    assert calibration is not None
    alone = Alone.of(case, tau)

    def found(rule: SubjectScore, templates: int) -> dict[str, float]:
        scores = scored(case, templates, rule, weights=calibration.weights, enrollments=8, floor=tau)
        values = figures(scores, tau, drawn, alone.fmr(scores, templates, drawn)).values
        return {name: float(value[0]) for name, value in values.items()}

    one, best, mean = found(BEST, 1), found(BEST, 5), found(calibration.subject_score(), 5)
    assert mean["fmr_ratio"] < 1.5
    assert best["fmr_ratio"] > 3
    assert mean["tar_at_tau"] > one["tar_at_tau"] + 0.05
    assert mean["tar_at_1e-04"] > best["tar_at_1e-04"]
