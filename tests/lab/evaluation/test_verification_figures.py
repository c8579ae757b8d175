"""The figures that accuracy is told by, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np

from lab.data.verification import all_impostors, bootstrap_over_people, ten_fold_accuracy


def _unit(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_pairs_that_a_threshold_parts_are_all_right() -> None:
    genuine = np.tile([True, False], 50)
    scores = np.where(genuine, 0.7, 0.1)
    assert ten_fold_accuracy(scores, genuine, np.arange(100) // 10) == (1.0, 0.0)


def test_a_fold_is_judged_at_the_threshold_of_the_others() -> None:
    # Fold 1 is parted at 0.5, fold 0 at 0.05: neither threshold serves the other fold's genuine or impostor pairs.
    genuine = np.array([True, False, True, False])
    scores = np.array([0.1, 0.0, 0.9, 0.6])
    mean, _ = ten_fold_accuracy(scores, genuine, np.array([0, 0, 1, 1]))
    assert mean == 0.5


def test_pairs_that_nothing_parts_are_right_half_of_the_time() -> None:
    random = np.random.default_rng(1)
    genuine = np.tile([True, False], 500)
    mean, _ = ten_fold_accuracy(random.normal(size=1000), genuine, np.arange(1000) // 100)
    assert abs(mean - 0.5) < 0.08


def test_every_pair_of_different_people_is_counted_once() -> None:
    people = np.array([0, 0, 1, 2, 2, 2])
    assert all_impostors(_unit(6), people).pairs == 15 - 1 - 3


def test_the_false_match_rate_is_the_share_of_impostor_pairs_at_or_over_tau() -> None:
    unit, people = _unit(300), np.arange(300) % 60
    impostors = all_impostors(unit, people)
    scores = (unit.astype(np.float64) @ unit.T.astype(np.float64))[np.triu_indices(300, 1)]
    different = (people[:, None] != people[None, :])[np.triu_indices(300, 1)]
    for tau in (-0.5, 0.0, 0.3, 0.8):
        assert abs(impostors.fmr(tau) - np.mean(scores[different] >= tau)) < 2e-4
    assert impostors.fmr(impostors.threshold_at(0.01)) <= 0.01
    assert impostors.fmr(impostors.threshold_at(0.01) - 0.001) > 0.01 - 1e-3


def test_with_another_gallery_side_both_orders_of_a_pair_count() -> None:
    people = np.array([0, 1, 2])
    assert all_impostors(_unit(3), people, _unit(3, seed=5)).pairs == 6


def test_an_interval_over_people_is_wider_than_one_over_their_pairs() -> None:
    # 20 people of 30 pairs each, of which all are right or all are wrong.
    values = np.repeat(np.arange(20) % 2, 30).astype(np.float64)
    low, high = bootstrap_over_people(values, np.repeat(np.arange(20), 30))
    pairs_low, pairs_high = bootstrap_over_people(values, np.arange(600))
    assert low < 0.5 < high
    assert high - low > 3 * (pairs_high - pairs_low)
