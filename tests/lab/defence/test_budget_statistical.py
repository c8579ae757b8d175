"""The measured budget: paired error rates at a fixed threshold, their bounds over people, and the search over phi."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from lab.data import matching
from lab.data.matching import Change, Comparison, Rise, TooFewPeople, genuine_pairs, impostor_changes
from lab.data.verification import Floats, Rows, all_impostors
from lab.defence.budget import Protect, Tolerance, statistical_budget
from tests.lab.defence.geometry import random_rotation

TAU = 0.5
DIM = 16


def _faces(people: int, each: int = 3, *, spread: float = 0.6, dim: int = DIM, seed: int = 0) -> tuple[Rows, Floats]:
    """Pictures of people: each at an angle of about ``spread`` from the person's own direction."""
    random = np.random.default_rng([seed, 7])
    centres = random.normal(size=(people, dim))
    centres = np.repeat(centres / np.linalg.norm(centres, axis=1, keepdims=True), each, axis=0)
    who = np.repeat(np.arange(people), each)
    return random_rotation(centres, spread * random.uniform(0.5, 1.5, len(who)), random).astype(np.float32), who


def _noise(seed: int = 3) -> Protect:
    """The same directions for every phi, as a protection that is a function of the picture has."""
    return lambda unit, phi: random_rotation(unit, phi, np.random.default_rng(seed)).astype(np.float32)


@pytest.fixture(scope="module")
def faces() -> tuple[Rows, Floats]:
    return _faces(120)


# Rates


@pytest.mark.parametrize("sides", ["both", "probe"])
def test_rates_and_changes_are_those_of_counting_every_pair(
    faces: tuple[Rows, Floats], sides: matching.Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, who = faces[0][:75], faces[1][:75]
    turned = _noise()(unit, 0.6)
    monkeypatch.setattr(matching, "_BLOCK", 16)  # several blocks, the last not full
    found = Comparison(unit, who, TAU, sides=sides, rounds=20).against(turned)
    tested: dict[bool, list[tuple[bool, bool]]] = {True: [], False: []}
    for i, j in combinations(range(len(unit)), 2):
        for a, b in [(i, j)] if sides == "both" else [(i, j), (j, i)]:
            after = turned[a] @ (turned if sides == "both" else unit)[b] >= TAU
            tested[who[a] == who[b]].append((bool(unit[a] @ unit[b] >= TAU), bool(after)))
    for rise, genuine in ((found.fnmr, True), (found.fmr, False)):
        before, after = np.array(tested[genuine]).T
        wrong = (~before, ~after) if genuine else (before, after)
        assert rise.pairs == len(before)
        assert (rise.clean, rise.protected) == (pytest.approx(wrong[0].mean()), pytest.approx(wrong[1].mean()))
        assert rise.harmed == np.sum(~wrong[0] & wrong[1]) > 0
        assert rise.mended == np.sum(wrong[0] & ~wrong[1]) > 0
        assert rise.rise == pytest.approx((rise.harmed - rise.mended) / rise.pairs)


@pytest.mark.parametrize("sides", ["both", "probe"])
def test_false_match_rates_agree_with_the_histogram_of_all_impostors(
    faces: tuple[Rows, Floats], sides: matching.Sides
) -> None:
    unit, who = faces
    turned = _noise()(unit, 0.4)
    found = impostor_changes(unit, turned, who, TAU, sides)
    clean, protected = all_impostors(unit, who), all_impostors(turned, who, None if sides == "both" else unit)
    assert found.pairs == protected.pairs
    assert found.accepted_before / found.pairs == pytest.approx(clean.fmr(TAU), abs=2e-5)
    assert found.accepted_after / found.pairs == pytest.approx(protected.fmr(TAU), abs=2e-5)
    assert found.newly_accepted - found.newly_rejected == found.accepted_after - found.accepted_before
    assert found.change.sum() == found.newly_accepted - found.newly_rejected
    assert np.all(found.first < found.second)


def test_a_person_with_many_pictures_gives_only_so_many_pairs() -> None:
    who = np.array([5] * 30 + [1, 2, 1] + [9])
    pairs = genuine_pairs(who, most=7)
    assert np.all(who[pairs[:, 0]] == who[pairs[:, 1]])
    assert np.all(pairs[:, 0] < pairs[:, 1])
    assert len(np.unique(pairs, axis=0)) == len(pairs) == 8
    assert np.bincount(who[pairs[:, 0]], minlength=10)[[1, 2, 5, 9]].tolist() == [1, 0, 7, 0]
    assert len(genuine_pairs(np.arange(4))) == 0


# Bounds


@pytest.mark.parametrize("sides", ["both", "probe"])
def test_bounds_are_those_of_drawing_people_and_counting_their_pairs_again(sides: matching.Sides) -> None:
    unit, who = _faces(25, seed=4)
    turned, rounds = _noise()(unit, 0.7), 60
    compared = Comparison(unit, who, TAU, sides=sides, rounds=rounds, confidence=0.9, seed=8)
    drawn = np.random.default_rng([8, 1]).multinomial(25, np.full(25, 1 / 25), rounds)
    gallery = turned if sides == "both" else unit
    change = (turned @ gallery.T >= TAU).astype(int) - (unit @ unit.T >= TAU)
    fnmr, fmr = [], []
    for weights in drawn:
        # The pictures of the drawn people; one drawn twice is there twice, as a person of the same name.
        copies = np.concatenate([np.flatnonzero(who == person) for person in np.repeat(np.arange(25), weights)])
        block = change[np.ix_(copies, copies)]
        fmr.append(block[who[copies][:, None] != who[copies]].mean())
        inside = [change[i, j] for person in np.repeat(np.arange(25), weights) for i, j in _ordered(who, person)]
        fnmr.append(-np.mean(inside))
    found = compared.against(turned, draw=1)
    assert found.fnmr.upper == pytest.approx(np.quantile(fnmr, 0.9), rel=1e-6)
    assert found.fmr.upper == pytest.approx(np.quantile(fmr, 0.9), rel=1e-6)
    assert compared.against(turned, draw=1) == found
    assert compared.against(turned, draw=0) != found


def _ordered(who: Floats, person: int) -> list[tuple[int, int]]:
    rows = np.flatnonzero(who == person)
    return [(i, j) for i in rows for j in rows if i != j]


def test_the_sums_do_not_depend_on_how_many_pairs_are_weighted_at_a_time(
    faces: tuple[Rows, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, turned = Comparison(*faces, TAU, rounds=50), _noise()(faces[0], 0.8)
    whole = compared.against(turned)
    monkeypatch.setattr(matching, "_AT_ONCE", 7)
    assert compared.against(turned).fmr.upper == pytest.approx(whole.fmr.upper, rel=1e-9)


def test_a_bound_lies_over_the_measured_rise_and_comes_closer_with_more_people() -> None:
    gaps = []
    for people in (40, 400):
        unit, who = _faces(people, seed=1)
        found = Comparison(unit, who, TAU, rounds=400).against(_noise()(unit, 0.5))
        assert found.fnmr.upper > found.fnmr.rise > 0
        assert found.fmr.upper > found.fmr.rise
        gaps.append((found.fnmr.upper - found.fnmr.rise, found.fmr.upper - found.fmr.rise))
    assert gaps[0][0] > 2 * gaps[1][0]
    assert gaps[0][1] > 2 * gaps[1][1]


def test_bounds_hold_about_as_often_as_they_say() -> None:
    # The truth is measured on many more people of the same kind.
    options = {"spread": 0.5, "each": 2, "dim": 6}
    unit, who = _faces(1500, seed=99, **options)
    truth = Comparison(unit, who, TAU, rounds=2).against(_noise()(unit, 0.45))
    held = {"fnmr": 0, "fmr": 0}
    repeats = 200
    for seed in range(repeats):
        unit, who = _faces(50, seed=seed, **options)
        found = Comparison(unit, who, TAU, rounds=200, confidence=0.9).against(_noise(seed)(unit, 0.45))
        held["fnmr"] += found.fnmr.upper >= truth.fnmr.rise
        held["fmr"] += found.fmr.upper >= truth.fmr.rise
    # 0.9, less three deviations of the count and what 50 people are short of many.
    assert held["fnmr"] / repeats > 0.82
    assert held["fmr"] / repeats > 0.82
    # And they can fail: a bound that always holds says nothing.
    assert held["fnmr"] / repeats < 0.99


def test_pairs_of_one_person_do_not_make_a_bound_surer() -> None:
    # Half of the people lose all of their pairs: 45 pairs each say no more than 1 each.
    found = []
    for each in (2, 10):
        who = np.repeat(np.arange(40), each)
        unit = np.eye(80, dtype=np.float32)[who]
        turned = unit.copy()
        lost = (who < 20) & (np.arange(len(who)) % 2 == 1)
        turned[lost] = np.eye(80, dtype=np.float32)[who[lost] + 40]
        pairs = genuine_pairs(who, most=1)
        if each == 10:
            rows = np.arange(len(who)).reshape(40, 10)
            pairs = np.stack([np.repeat(rows[:, ::2], 5, axis=1).ravel(), np.tile(rows[:, 1::2], 5).ravel()], axis=1)
        found.append(Comparison(unit, who, TAU, genuine=pairs).against(turned).fnmr)
    assert found[0].rise == found[1].rise == 0.5
    assert found[1].upper == pytest.approx(found[0].upper)
    assert found[1].upper > 0.6


def test_what_is_not_turned_has_a_bound_of_nothing_and_turns_without_harm_have_the_rule_of_three() -> None:
    unit, who = _faces(60, spread=0.05)
    compared = Comparison(unit, who, TAU)
    assert compared.against(unit).fnmr.upper == compared.against(unit).fmr.upper == 0
    found = compared.against(_noise()(unit, 0.01))
    assert (found.fnmr.harmed, found.fnmr.upper) == (0, pytest.approx(math.log(20) / 60))
    far = np.where(np.eye(60)[who] > 0, 1, 0).astype(np.float32)
    found = Comparison(far, who, TAU).against(_noise()(far, 0.01))
    assert (found.fmr.harmed, found.fmr.upper) == (0, pytest.approx(math.log(20) / found.fmr.pairs))
    assert found.fmr.pairs == 60 * 59 // 2 * 9


# Refusals


def test_too_few_people_are_refused_with_how_many_are_needed() -> None:
    unit, who = _faces(19)
    with pytest.raises(TooFewPeople, match="20 people are needed, and 19") as caught:
        Comparison(unit, who, TAU)
    assert caught.value.extra == {"needed": 20, "found": 19}
    unit, who = _faces(40)
    with pytest.raises(TooFewPeople, match="20 people with two pictures"):
        Comparison(unit, who, TAU, genuine=genuine_pairs(who)[:6])


def test_embeddings_that_are_not_unit_rows_are_refused(faces: tuple[Rows, Floats]) -> None:
    unit, who = faces
    compared = Comparison(unit, who, TAU, rounds=10)
    for broken in (unit * 1.01, np.where(np.arange(DIM) == 3, np.nan, unit), unit[0], np.zeros_like(unit)):
        with pytest.raises(ValueError, match="length 1"):
            compared.against(broken)
        with pytest.raises(ValueError, match=r"length 1|a row"):
            Comparison(broken, who, TAU)
    for misfit in (unit[:-1], np.eye(DIM + 1, dtype=np.float32)[np.arange(len(unit)) % DIM]):
        with pytest.raises(ValueError, match="as many rows"):
            compared.against(misfit)
    with pytest.raises(ValueError, match="one person a row"):
        Comparison(unit, who[:-1], TAU)
    with pytest.raises(ValueError, match="shows one person"):
        Comparison(unit, who, TAU, genuine=np.array([[0, 3]]))
    with pytest.raises(ValueError, match="confidence"):
        Comparison(unit, who, TAU, confidence=1.0)


# The search


def test_the_budget_is_the_largest_step_that_the_tolerance_allows(faces: tuple[Rows, Floats]) -> None:
    compared, tolerance = Comparison(*faces, TAU, rounds=300), Tolerance(fnmr=0.15, fmr=0.01)
    found = statistical_budget(_noise(), compared, tolerance, phi_max=1.0, steps=40)
    step = round(found.phi * 40)
    assert 0 < step < 40
    # Every step, instead of a search: all up to the budget are allowed, and the next is not in one of the two draws.
    allowed = [
        [tolerance.allows(compared.against(_noise()(compared.unit, at / 40), draw=draw)) for at in range(1, step + 2)]
        for draw in (0, 1)
    ]
    assert all(allowed[1][:step])
    assert not (allowed[0][step] and allowed[1][step])
    assert [visit.phi for visit in found.curve] == sorted(visit.phi for visit in found.curve)
    assert len(found.curve) < 20
    assert all(visit.within == tolerance.allows(visit.change) for visit in found.curve)
    assert any(visit.draw == 1 and visit.phi == found.phi and visit.within for visit in found.curve)


def test_a_protected_probe_alone_may_be_turned_further(faces: tuple[Rows, Floats]) -> None:
    phi = [
        statistical_budget(
            _noise(), Comparison(*faces, TAU, sides=sides, rounds=200), Tolerance(0.15, 0.01), phi_max=1.2
        ).phi
        for sides in ("both", "probe")
    ]
    assert phi[1] > phi[0] > 0


def test_a_tolerance_that_allows_all_gives_the_most_and_one_that_allows_nothing_gives_none(
    faces: tuple[Rows, Floats],
) -> None:
    compared = Comparison(*faces, TAU, rounds=50)
    assert statistical_budget(_noise(), compared, Tolerance(1, 1), phi_max=0.3).phi == 0.3
    found = statistical_budget(_noise(), compared, Tolerance(0, 0), phi_max=0.3)
    assert found.phi == 0
    assert not any(visit.within for visit in found.curve)


def test_a_tolerance_is_for_both_bounds_and_not_for_what_was_measured() -> None:
    fine, unsure = Rise(0, 0.01, 0.02, 1, 0, 100), Rise(0, 0.01, 0.04, 1, 0, 100)
    tolerance = Tolerance(fnmr=0.02, fmr=0.02)
    assert tolerance.allows(Change(fine, fine))
    assert not tolerance.allows(Change(unsure, fine))
    assert not tolerance.allows(Change(fine, unsure))


def test_each_of_the_two_rates_alone_can_end_the_budget(faces: tuple[Rows, Floats]) -> None:
    compared = Comparison(*faces, TAU, rounds=100)
    toward = np.ones((1, DIM))

    def gather(unit: Rows, phi: float) -> Rows:
        """Draws all rows together, which raises all scores: only FMR suffers."""
        rows = unit + math.tan(phi) * toward
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    for protect, tolerance in ((gather, Tolerance(1, 0.01)), (_noise(), Tolerance(0.1, 1))):
        assert 0 < statistical_budget(protect, compared, tolerance, phi_max=1.2, steps=32).phi < 1.2
    assert statistical_budget(gather, compared, Tolerance(0.1, 1), phi_max=0.5).phi == 0.5


def test_a_candidate_that_another_draw_refuses_is_stepped_down(faces: tuple[Rows, Floats]) -> None:
    class Second(Comparison):
        """Allows 7 steps at first, and 4 at a second look."""

        def against(self, protected: Rows, *, draw: int = 0) -> Change:
            bad = 0.0 if asked[-1] <= (0.75, 0.45)[draw] else 1.0
            rise = Rise(0, bad, bad, 0, 0, 1)
            return Change(rise, rise)

    asked: list[float] = []

    def protect(unit: Rows, phi: float) -> Rows:
        asked.append(phi)
        return unit

    compared = Second(*faces, TAU)
    found = statistical_budget(protect, compared, Tolerance(0.5, 0.5), phi_max=1.0, steps=10)
    assert found.phi == pytest.approx(0.4)


def test_a_protection_that_gives_no_templates_is_an_error_and_no_budget(faces: tuple[Rows, Floats]) -> None:
    compared = Comparison(*faces, TAU, rounds=10)
    with pytest.raises(ValueError, match="length 1"):
        statistical_budget(lambda unit, phi: unit * np.float32(math.nan), compared, Tolerance(1, 1), phi_max=0.3)
    for wrong in ({"phi_max": 0.0}, {"phi_max": 0.3, "steps": 0}):
        with pytest.raises(ValueError, match="positive"):
            statistical_budget(_noise(), compared, Tolerance(1, 1), **wrong)
