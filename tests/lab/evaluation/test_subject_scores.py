"""The exponents of the subject's score: a threshold keeps its false match rate however many templates there are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edge_service.protection.profiles.score import ScoreWeights
from lab.evaluation.subjects import scores
from lab.evaluation.subjects.scores import (
    ALLOWED,
    GRID,
    Case,
    Growth,
    Population,
    enroll,
    exponents,
    growth,
    growths,
    halves,
    means,
    own_hits,
    ratios_on_other_half,
    weights_of,
)
from tests.lab.evaluation.synthetic_people import people, strangers

TAU = 0.6


def test_everyone_with_enough_pictures_is_enrolled_with_pictures_of_their_own() -> None:
    whose = np.array([4, 4, 4, 7, 7, 9, 9, 9, 9])
    rows = enroll(whose, 3, np.random.default_rng(0))
    assert sorted(whose[rows[:, 0]].tolist()) == [4, 9]
    assert all(len({*whose[row]}) == 1 and len({*row.tolist()}) == 3 for row in rows)
    assert enroll(whose, 5, np.random.default_rng(0)).shape == (0, 5)


def test_a_mean_is_weighted_and_has_its_length() -> None:
    rows = np.eye(3, dtype=np.float32)
    found, lengths = means(rows, np.array([[0, 1]]), np.array([3.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [[0.75, 0.25, 0]])
    np.testing.assert_allclose(lengths, [np.hypot(0.75, 0.25)])


def test_templates_that_cancel_out_have_a_length_that_can_be_divided_by() -> None:
    rows = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    found, lengths = means(rows, np.array([[0, 1]]), np.ones(2))
    assert np.isfinite(found / lengths[:, None]).all()


def test_weights_are_those_of_the_edge() -> None:
    weights = ScoreWeights(norm=12, power=2)
    lengths = np.array([6.0, 12.0, 24.0])
    assert weights_of(lengths, weights).tolist() == [weights.weight(each) for each in lengths] == [0.25, 1, 4]
    assert weights_of(lengths, None).tolist() == [1, 1, 1]


def _fmr(case: Case, templates: int, exponent: float, draws: int, seed: int) -> float:
    """FMR at tau by the definition, pair by pair."""
    hits = pairs = 0
    random = np.random.default_rng([seed, templates])
    for _ in range(draws):
        for row in enroll(case.enrolled.people, templates, random):
            mean = case.enrolled.gallery[row].astype(np.float64).mean(axis=0)
            scores = case.probes @ (mean / np.linalg.norm(mean) ** exponent)
            other = case.people != case.enrolled.people[row[0]]
            hits += int(np.count_nonzero((scores >= TAU) & other))
            pairs += int(np.count_nonzero(other))
    return hits / pairs


def test_rates_at_every_exponent_are_those_of_the_definition() -> None:
    case = Case.within(people(25, 6))
    found = growth(case, TAU, numbers=[3], draws=2, seed=4)
    for exponent in (0.0, 0.3, 0.65, 1.0):
        expected = _fmr(case, 3, exponent, 16, 4) / found.one[3]
        assert found.ratio(3, exponent) == pytest.approx(expected, rel=0.02)
    assert found.subjects == {3: 25}


def test_own_hits_count_each_picture_against_all_others() -> None:
    case = Case.within(people(22, 2))
    hits, pairs = own_hits(case, TAU)
    scores = case.probes @ case.probes.T
    other = case.people[:, None] != case.people[None, :]
    np.testing.assert_array_equal(hits, np.sum((scores >= TAU) & other, axis=1))
    assert set(pairs.tolist()) == {42}


def test_the_chosen_exponents_keep_the_false_match_rate_and_do_not_rise() -> None:
    found = growths([people(), people(40, 22, 0.3, 2, "wild")], {"utk": strangers()}, TAU, draws=2)
    assert {"people", "wild", "utk against people", "utk against wild"} <= found.keys()
    chosen = exponents(found.values())
    assert len(chosen) == 19
    assert all(later <= earlier for earlier, later in pairwise(chosen))
    assert 0 < chosen[-1] < 1
    for templates, exponent in enumerate(chosen, start=2):
        ratios = [ratio for each in found.values() if (ratio := each.ratio(templates, exponent)) is not None]
        assert max(ratios) <= ALLOWED
        assert np.mean(ratios) <= 1
    # Not by being too careful: where an exponent is first under 1, a step more is too much for somebody.
    templates, exponent = next((k, q) for k, q in enumerate(chosen, start=2) if q < 1)
    over = [ratio for each in found.values() if (ratio := each.ratio(templates, exponent + GRID)) is not None]
    assert max(over) > ALLOWED or np.mean(over) > 1


def _growth(ratios: dict[int, list[float]]) -> Growth:
    grown = {k: np.interp(np.linspace(0, 1, 101), [0, 1], ends) for k, ends in ratios.items()}
    return Growth(grown, dict.fromkeys(grown, 1e-3), dict.fromkeys(grown, 50))


def test_every_population_counts_and_the_mean_too() -> None:
    careful, other = _growth({2: [0.0, 2.0], 3: [0.0, 1.0]}), _growth({2: [0.0, 1.0], 3: [0.0, 1.0]})
    # 2 q <= 1.1 in the first; the mean is (2 q + q) / 2. With three, both would allow 1, but it does not rise.
    assert exponents([careful, other]) == [0.55, 0.55]
    assert exponents([careful, other], allowed=2) == [0.66, 0.66]
    assert exponents([careful], allowed=2) == [0.5, 0.5]
    assert exponents([_growth({2: [1.5, 2.0]})]) == [0.0]
    assert exponents([]) == []


def test_a_wrong_name_does_not_decide() -> None:
    """One picture of somebody else makes that person match this subject at every exponent."""
    honest = people(30, 10, 0.1)
    rows, lengths = honest.probes.copy(), honest.lengths
    rows[0] = rows[15]
    wrong = Population("people", rows, rows, honest.people, lengths)
    assert len(wrong.alike()) == len(honest.alike()) - 1


def test_fewer_than_twenty_people_say_nothing() -> None:
    assert growth(Case.within(people(19, 4)), TAU, numbers=[2]).ratios == {}
    assert exponents([growth(Case.within(people(19, 4)), TAU, numbers=[2])]) == []


def test_halves_share_nobody_and_the_test_is_on_the_other_one() -> None:
    population = people(80, 8, 0.3)
    mask = halves(population.people)
    assert int(mask.sum()) == 40
    parts = [population.of_people(mask == side) for side in (False, True)]
    assert not {*parts[0].people.tolist()} & {*parts[1].people.tolist()}
    found = ratios_on_other_half([population], {"utk": strangers(800)}, TAU)
    assert found["people"].keys() >= {2, 3, 5}
    assert 0.5 < found["people"][2] < 1.6


def test_exponents_are_tested_on_people_who_did_not_calibrate_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One half allows the exponent 0.5 at most, the other 1: each is judged by that of the other."""
    sides = iter([{"people": _growth({2: [0.0, 2.0]})}, {"people": _growth({2: [0.0, 1.0]})}])
    monkeypatch.setattr(scores, "growths", lambda *_, **__: next(sides))
    # The first half under 1, twice its rate; the second under 0.5, half of it.
    assert ratios_on_other_half([people(4, 2)], {}, TAU) == {"people": {2: pytest.approx((2.0 + 0.5) / 2)}}


def test_a_clean_gallery_stays_another_array_than_its_probes() -> None:
    both = people(25, 2)
    one_sided = Population("people", both.probes, both.gallery.copy(), both.people, both.lengths)
    kept = np.arange(10)
    assert (chosen := both.only(kept)).gallery is chosen.probes
    assert (chosen := one_sided.only(kept)).gallery is not chosen.probes
