"""Budgets in angles: what no turn can flip, what a random turn does to a score, and the limit of each sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data.matching import TooFewPeople, one_pair_a_person
from lab.data.verification import Floats
from lab.defence.budget import certified_budget
from shared.errors import PatronusError
from tests.lab.defence.geometry import (
    angle_bounds,
    angles,
    can_flip,
    flips,
    random_direction_score,
    random_rotation,
    rotated,
)

TAU = 0.363
ROUNDING = 1e-9  # radians
DEGREE = math.pi / 180

dims = st.integers(2, 64)
seeds = st.integers(0, 2**32 - 1)
turns = st.floats(0, 1.2)
taus = st.floats(-0.9, 0.9)
quick = settings(deadline=None, derandomize=True)


def _unit(rows: int, dim: int, seed: int = 0) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _pair(theta: float, dim: int, seed: int) -> tuple[Floats, Floats]:
    """Two unit rows at this angle."""
    x, other = _unit(1, dim, seed), _unit(1, dim, seed + 1)
    return x, rotated(x, other, theta)


def _strongest(x: Floats, y: Floats, phi_x: float, phi_y: float, sign: int) -> Floats:
    """Both sides turned along their great circle, toward each other (1) or apart (-1)."""
    return angles(rotated(x, y, sign * phi_x), rotated(y, x, sign * phi_y))


# Turns


@quick
@given(dims, seeds, st.floats(0, math.pi))
def test_a_turn_moves_a_row_by_just_that_angle_and_leaves_it_a_unit_row(dim: int, seed: int, phi: float) -> None:
    unit = _unit(5, dim, seed)
    turned = random_rotation(unit, phi, np.random.default_rng([seed, 1]))
    assert np.allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-12)
    assert np.allclose(angles(unit, turned), phi, atol=1e-7)


def test_a_turn_along_the_row_itself_is_refused() -> None:
    unit = _unit(3, 8)
    for parallel in (unit, -2 * unit, np.zeros_like(unit)):
        with pytest.raises(ValueError, match="parallel"):
            rotated(unit, parallel, 0.1)


def test_small_angles_keep_their_digits() -> None:
    x = _unit(1, 128)
    assert angles(x, random_rotation(x, 1e-7, np.random.default_rng(1)))[0] == pytest.approx(1e-7, rel=1e-6)


# The triangle inequality


@quick
@given(dims, seeds, st.floats(0.01, 3.13), turns, turns)
def test_no_search_finds_turns_that_move_an_angle_further_than_their_sum(
    dim: int, seed: int, theta: float, phi_x: float, phi_y: float
) -> None:
    x, y = _pair(theta, dim, seed)
    low, high = angle_bounds(angles(x, y), phi_x, phi_y)
    random = np.random.default_rng([seed, 1])
    for sign in (-1, 1):
        # Random directions first, then small steps from the best of them, never over the budget.
        first, second = random.normal(size=(2, 64, dim))
        step = 1.0
        for _ in range(6):
            left = rotated(np.repeat(x, 64, axis=0), first, phi_x * random.uniform(0.9, 1, 64))
            right = rotated(np.repeat(y, 64, axis=0), second, phi_y * random.uniform(0.9, 1, 64))
            found = angles(left, right)
            assert np.all(found >= low - ROUNDING)
            assert np.all(found <= high + ROUNDING)
            best = int(np.argmax(sign * found))
            step /= 2
            first = first[best] + step * random.normal(size=(64, dim))
            second = second[best] + step * random.normal(size=(64, dim))


@quick
@given(dims, seeds, st.floats(0.1, 3.0), turns, turns)
def test_turns_along_the_great_circle_reach_both_ends(
    dim: int, seed: int, theta: float, phi_x: float, phi_y: float
) -> None:
    x, y = _pair(theta, dim, seed)
    low, high = angle_bounds(theta, phi_x, phi_y)
    if phi_x + phi_y < theta:
        assert _strongest(x, y, phi_x, phi_y, 1)[0] == pytest.approx(low, abs=1e-6)
    if phi_x + phi_y < math.pi - theta:
        assert _strongest(x, y, phi_x, phi_y, -1)[0] == pytest.approx(high, abs=1e-6)


@quick
@given(dims, seeds, taus, st.floats(0.01, 3.13), turns, turns)
def test_a_decision_with_a_larger_margin_than_both_turns_never_flips(
    dim: int, seed: int, tau: float, theta: float, phi_x: float, phi_y: float
) -> None:
    x, y = _pair(theta, dim, seed)
    before = angles(x, y)
    if abs(before[0] - math.acos(tau)) <= phi_x + phi_y + ROUNDING:
        return
    assert not can_flip(before, tau, phi_x, phi_y)[0]
    for sign in (-1, 1):
        assert flips(before, _strongest(x, y, phi_x, phi_y, sign), tau).rate == 0
    random = np.random.default_rng([seed, 1])
    many = [np.repeat(side, 200, axis=0) for side in (x, y)]
    after = angles(random_rotation(many[0], phi_x, random), random_rotation(many[1], phi_y, random))
    assert flips(np.repeat(before, 200), after, tau).rate == 0


@quick
@given(dims, seeds, taus, st.floats(0.05, 0.8), st.sampled_from([-1, 1]), st.floats(0.001, 1))
def test_the_bound_is_tight_a_little_more_than_the_margin_flips(
    dim: int, seed: int, tau: float, margin: float, side: int, share: float
) -> None:
    theta = math.acos(tau) + side * margin
    if not 0.1 < theta < 3.0:
        return
    x, y = _pair(theta, dim, seed)
    # The margin is split between both sides in any proportion, down to the probe alone.
    for excess, flipped in ((1e-5, 1), (-1e-5, 0)):
        phi_x = (margin + excess) * share
        phi_y = margin + excess - phi_x
        if phi_x + phi_y < (theta if side > 0 else math.pi - theta):
            found = flips(angles(x, y), _strongest(x, y, phi_x, phi_y, side), tau)
            assert found.rejected + found.accepted == flipped
            assert can_flip(angles(x, y), tau, phi_x, phi_y)[0] == bool(flipped)


def test_an_angle_at_the_threshold_is_accepted_on_both_sides_of_a_turn() -> None:
    limit = math.acos(TAU)
    assert can_flip([limit - 0.1, limit + 0.1], TAU, 0.1, 0).tolist() == [False, True]
    found = flips([limit, limit, limit + 0.1, limit - 0.1], [limit, limit + 0.1, limit, limit], TAU)
    assert (found.rejected, found.accepted, found.pairs, found.rate) == (1, 1, 4, 0.5)


def test_flips_are_counted_by_their_direction() -> None:
    found = flips([0.1, 0.1, 2, 2, 2], [2, 0.2, 0.1, 0.1, 3], TAU)
    assert (found.rejected, found.accepted, found.pairs) == (1, 2, 5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: flips([0.1], [0.1, 0.2], TAU),
        lambda: flips([], [], TAU),
        lambda: flips([math.nan], [0.1], TAU),
        lambda: flips([4.0], [0.1], TAU),
        lambda: flips([0.1], [0.1], 1.0),
        lambda: angle_bounds([0.1], -0.1, 0),
        lambda: angle_bounds([0.1], 0, math.nan),
        lambda: certified_budget([0.5], TAU, 0.0),
        lambda: certified_budget([0.5], TAU, 1.0),
        lambda: certified_budget([-0.5], TAU, 0.5),
    ],
)
def test_what_is_not_an_angle_a_share_or_a_pair_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"angle|limits|share|tau"):
        call()  # type: ignore[operator]


# The certified budget


def test_the_budget_is_the_named_order_statistic_of_half_the_margin() -> None:
    limit = math.acos(TAU)
    genuine = limit - np.arange(1, 100) * 0.01  # margins 0.01 .. 0.99
    impostor = limit + np.arange(99, 0, -1) * 0.005
    for theta, margin in ((genuine, 0.05), (impostor, 0.025)):
        assert certified_budget(theta, TAU, 0.05) == pytest.approx(margin / 2, abs=2e-6)  # floor(0.05 * 100) = 5
        assert certified_budget(theta, TAU, 0.05, sides="probe") == pytest.approx(margin, abs=2e-6)


def test_a_share_that_floats_cannot_tell_is_counted_exactly() -> None:
    limit = math.acos(TAU)
    margins = np.arange(1, 100) * 0.002
    # 0.29 * 100 is 28.999999999999996.
    for theta in (limit - margins, limit + margins):
        assert certified_budget(theta, TAU, 0.29) == pytest.approx(0.029, abs=2e-6)


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3), (0.001, 999)])
def test_with_too_few_people_there_is_no_budget_and_the_error_says_how_many_are_needed(
    alpha: float, needed: int
) -> None:
    enough, few = np.full(needed, 0.5), np.full(needed - 1, 0.5)
    assert certified_budget(enough, TAU, alpha) > 0
    with pytest.raises(TooFewPeople, match=str(needed)) as caught:
        certified_budget(few, TAU, alpha)
    assert isinstance(caught.value, PatronusError)
    assert caught.value.extra == {"needed": needed, "found": needed - 1}


def _coverage(draw: object, n: int, alpha: float, rounds: int = 2000) -> float:
    """The share of further pairs that the strongest turns flip, each with a calibration of its own."""
    random = np.random.default_rng(5)
    flipped = 0
    for _ in range(rounds):
        theta = draw(random, n + 1)  # type: ignore[operator]
        phi = certified_budget(theta[:-1], TAU, alpha)
        low, high = angle_bounds(theta[-1:], phi, phi)
        flipped += flips(theta[-1:], low, TAU).accepted + flips(theta[-1:], high, TAU).rejected
    return flipped / rounds


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (99, 0.1), (50, 0.25)])
def test_at_most_alpha_of_further_decisions_flip_and_the_budget_leaves_little_unused(n: int, alpha: float) -> None:
    share = _coverage(lambda random, size: np.clip(random.normal(1.1, 0.25, size), 0, math.pi), n, alpha)
    expected = math.floor(alpha * (n + 1)) / (n + 1)
    three_deviations = 3 * math.sqrt(expected * (1 - expected) / 2000)
    assert expected - three_deviations < share < alpha + three_deviations


def test_equal_margins_do_not_break_the_share() -> None:
    # Impostors on three angles only: a budget that reached the margin itself would flip half of them at once.
    share = _coverage(lambda random, size: math.acos(TAU) + random.choice([0.1, 0.2, 0.3], size), 99, 0.2)
    assert share == 0


def test_the_certificate_survives_float32_templates_and_scores() -> None:
    # All margins are equal, so that each of the turned pairs ends as close to the threshold as the budget lets it.
    limit, margin = math.acos(TAU), 0.2
    x = _unit(500, 128)
    y = random_rotation(x, limit + margin, np.random.default_rng(1))
    phi = min(certified_budget(theta, TAU, 0.05) for theta in (np.full(500, limit - margin), angles(x, y)))
    turned = [rotated(a, b, phi).astype(np.float32) for a, b in ((x, y), (y, x))]
    assert not np.any(np.einsum("nd,nd->n", *turned) >= TAU)
    turned = [rotated(a, b, phi + 2e-6).astype(np.float32) for a, b in ((x, y), (y, x))]
    assert np.all(np.einsum("nd,nd->n", *turned) >= TAU)


def test_nobody_is_in_two_of_the_chosen_pairs() -> None:
    random = np.random.default_rng(2)
    first, second = random.integers(0, 60, (2, 500))
    kept = one_pair_a_person(first, second, seed=1)
    met = [person for at in kept for person in {int(first[at]), int(second[at])}]
    assert len(met) == len(set(met))
    # None could be added.
    assert all({int(a), int(b)} & set(met) for a, b in zip(first, second, strict=True))
    assert len(one_pair_a_person(first, second, most=5)) == 5
    assert one_pair_a_person(first, second, seed=1).tolist() == kept.tolist()
    assert one_pair_a_person(first, second, seed=2).tolist() != kept.tolist()
    genuine = np.array([0, 0, 1, 1, 1, 2])
    assert np.array_equal(genuine[one_pair_a_person(genuine, genuine)], [0, 1, 2])


def test_many_pairs_of_few_people_break_the_share_and_one_pair_a_person_keeps_it() -> None:
    # 20 pairs of each of 10 people, who differ far more than one person's pairs do: 200 pairs say no more than 10.
    # Among those, 0.11 of 200 pairs reaches into a second person of ten: 2 of 11 further people flip.
    alpha, rounds, random = 0.11, 1000, np.random.default_rng(11)
    people = np.repeat(np.arange(10), 20)
    flipped = {"all": 0, "one": 0}
    for _ in range(rounds):
        level = random.uniform(0.05, 0.9, 11)
        theta = math.acos(TAU) - level[people] - random.uniform(0, 0.01, 200)
        further = math.acos(TAU) - level[10] - random.uniform(0, 0.01)
        for name, chosen in (("all", theta), ("one", theta[one_pair_a_person(people, people)])):
            phi = certified_budget(chosen, TAU, alpha)
            flipped[name] += int(can_flip([further], TAU, phi, phi)[0])
    three_deviations = 3 * math.sqrt(alpha * (1 - alpha) / rounds)
    assert flipped["one"] / rounds < alpha + three_deviations
    assert flipped["all"] / rounds > alpha + three_deviations


# Random directions


@pytest.mark.parametrize("dim", [2, 3, 8, 128])
@pytest.mark.parametrize("score", [-0.4, 0.0, 0.6, 0.95])
@pytest.mark.parametrize(("phi_x", "phi_y"), [(0.3, 0.3), (1.1, 1.2), (0.5, 0.0)])
def test_mean_and_variance_of_a_randomly_turned_score_are_those_of_a_simulation(
    dim: int, score: float, phi_x: float, phi_y: float
) -> None:
    count = 5_000
    x, y = _pair(math.acos(score), dim, 1)
    random = np.random.default_rng(dim)
    many = [np.repeat(side, count, axis=0) for side in (x, y)]
    scores = np.sum(random_rotation(many[0], phi_x, random) * random_rotation(many[1], phi_y, random), axis=1)
    found = random_direction_score(score, phi_x, phi_y, dim)
    # The kurtosis of the noise is at most a few, so 4 deviations are 10 % of the variance.
    assert np.mean(scores) == pytest.approx(found.mean, abs=5 * math.sqrt(float(found.variance) / count))
    assert np.var(scores) == pytest.approx(found.variance, rel=0.1)


def test_the_shorter_variance_holds_at_a_score_of_nothing_only() -> None:
    phi, dim = 15 * DEGREE, 128
    a = math.cos(phi) ** 2
    shorter = (2 * a * (1 - a) + (1 - a) ** 2) / dim
    assert shorter == pytest.approx(random_direction_score(0.0, phi, phi, dim).variance, rel=0.01)
    assert shorter / random_direction_score(0.6, phi, phi, dim).variance == pytest.approx(1.52, abs=0.01)


def test_a_score_without_turns_stays_and_one_dimension_is_refused() -> None:
    found = random_direction_score([0.1, 0.5], 0.0, 0.0, 16)
    assert found.mean.tolist() == [0.1, 0.5]
    assert found.variance.tolist() == [0, 0]
    with pytest.raises(ValueError, match="two dimensions"):
        random_direction_score(0.1, 0.1, 0.1, 1)
