"""Linkability: nothing where scores tell nothing, everything where they tell all, and what no rotation hides."""

from __future__ import annotations

import numpy as np
import pytest

from edge_service.protection.seal import haar_orthogonal
from lab.attacks.key_recovery import neighborhoods
from lab.attacks.linkage import d_sys, d_sys_by_chance, likeness_of_neighborhoods, rank_1

DIM = 32


def test_scores_that_tell_nothing_are_at_chance() -> None:
    random = np.random.default_rng(0)
    found = d_sys(random.standard_normal(20_000), random.standard_normal(200_000))
    assert found < 0.02
    assert found == pytest.approx(d_sys_by_chance(20_000, 200_000), abs=0.005)


def test_scores_that_never_overlap_link_all() -> None:
    random = np.random.default_rng(0)
    assert d_sys(random.random(500) + 2, random.random(5000)) == 1


def test_it_is_what_the_formula_gives_for_known_densities() -> None:
    """Mated uniform on [0, 1], others on [0, 2]: where both are, the ratio is 2 and D is 2 * 2 / 3 - 1 = 1/3."""
    random = np.random.default_rng(0)
    assert d_sys(random.random(200_000), 2 * random.random(200_000)) == pytest.approx(1 / 3, abs=0.02)


def test_mated_scores_below_the_others_link_too() -> None:
    random = np.random.default_rng(0)
    assert d_sys(random.random(500), random.random(5000) + 2) == 1


def test_rank_1_counts_rows_won_and_no_ties() -> None:
    assert rank_1(np.eye(4)) == 1
    assert rank_1(np.zeros((4, 4))) == 0
    likeness = np.eye(4)
    likeness[0, 1] = 2
    assert rank_1(likeness) == 0.75


def test_a_rotation_does_not_hide_how_templates_lie_to_each_other() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((300, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    one, other = (np.asarray(rows @ haar_orthogonal(bytes([n]) * 32, DIM).T, dtype=np.float32) for n in (1, 2))
    assert rank_1((one @ other.T).astype(np.float64)) < 0.03
    assert rank_1(likeness_of_neighborhoods(neighborhoods(one), neighborhoods(other))) > 0.99


def test_neighborhoods_of_few_templates() -> None:
    rows = np.eye(4, DIM, dtype=np.float32)
    assert neighborhoods(rows).shape == (4, 3)
    assert not neighborhoods(rows).any()
