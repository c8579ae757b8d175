"""Attacks on a secret rotation: that they find it where they can, and not where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.protection.seal import haar_orthogonal
from lab.attacks.key_recovery import by_adversary, by_nearest, by_optimal_transport, by_spectrum, procrustes

DIM = 16
Rows = NDArray[np.float32]


def _faces(count: int, seed: int, *, skewed: bool = True) -> Rows:
    """Unit rows whose axes differ in variance, and whose coordinates are skewed."""
    random = np.random.default_rng([seed, 1])
    drawn = random.exponential(size=(count, DIM)) - 1 if skewed else random.standard_normal((count, DIM))
    mix = np.linalg.qr(np.random.default_rng(5).standard_normal((DIM, DIM)))[0]
    rows = drawn * np.linspace(1, 3, DIM) @ mix + 0.5
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _sealed(rows: Rows, number: int = 0) -> tuple[Rows, NDArray[np.float64]]:
    rotation = haar_orthogonal(bytes([number]) * 32, DIM)
    return np.asarray(rows @ rotation.T, dtype=np.float32), rotation


def _opened(templates: Rows, rotation: NDArray[np.float64], truth: Rows) -> float:
    return float(np.sum((templates @ rotation) * truth, axis=1).mean())


def test_as_many_pairs_as_dimensions_give_the_whole_rotation() -> None:
    rows = _faces(200, 0)
    templates, rotation = _sealed(rows)
    np.testing.assert_allclose(procrustes(rows[:DIM], templates[:DIM]), rotation, atol=1e-3)
    assert _opened(templates[DIM:], procrustes(rows[:DIM], templates[:DIM]), rows[DIM:]) > 0.9999


def test_few_pairs_give_part_of_it_and_none_give_nothing() -> None:
    rows = _faces(400, 0, skewed=False)
    rows = rows - rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    templates, _ = _sealed(rows)
    near = [_opened(templates[100:], procrustes(rows[:n], templates[:n]), rows[100:]) for n in (1, DIM // 2, DIM)]
    assert near[0] < 0.4 < near[1] < 0.95 < near[2]


@pytest.mark.parametrize("number", range(3))
def test_found_rotations_are_rotations(number: int) -> None:
    public, stolen = _faces(800, 1), _sealed(_faces(800, 2), number)[0]
    start = by_spectrum(public, stolen)
    for found in (
        start,
        by_nearest(public, stolen, start),
        by_optimal_transport(public, stolen, start, rounds=3),
        by_adversary(public, stolen, start, steps=5),
    ):
        np.testing.assert_allclose(found @ found.T, np.eye(DIM), atol=1e-9)


def test_the_shape_of_a_gallery_gives_its_rotation_away_where_axes_differ_much() -> None:
    public, inside = _faces(20_000, 1), _faces(20_000, 2)
    templates, _ = _sealed(inside)
    assert _opened(templates, by_spectrum(public, templates), inside) > 0.9


def test_and_does_not_where_all_axes_are_alike() -> None:
    random = np.random.default_rng(0)
    public, inside = random.standard_normal((2, 5000, DIM)).astype(np.float32)
    public, inside = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (public, inside))
    templates, _ = _sealed(inside)
    assert _opened(templates, by_spectrum(public, templates), inside) < 0.3


@pytest.mark.parametrize(
    "refine",
    [
        by_nearest,
        pytest.param(by_optimal_transport, marks=pytest.mark.slow(reason="seconds of transport")),
        pytest.param(by_adversary, marks=pytest.mark.slow(reason="trains an adversary")),
    ],
)
def test_refinements_mend_a_start_that_is_off(refine: object) -> None:
    """By nearest neighbors with the very same faces on both sides; by distribution alone with other ones."""
    public = _faces(2000, 1)
    inside = public[::-1].copy() if refine is by_nearest else _faces(2000, 2)
    templates, rotation = _sealed(inside)
    skew = np.random.default_rng(3).standard_normal((DIM, DIM)) * 0.07
    turned = np.linalg.qr(np.eye(DIM) + skew - skew.T)[0]
    start = rotation @ (turned * np.sign(np.diagonal(turned)))
    before = _opened(templates, start, inside)
    after = _opened(templates, refine(public, templates, start), inside)  # type: ignore[operator]
    assert before < 0.97
    assert 1 - after < 0.6 * (1 - before)


def test_without_pairs_nearest_neighbors_find_the_same_faces() -> None:
    public = _faces(1500, 1)
    templates, _ = _sealed(public[::-1].copy())
    found = by_nearest(public, templates, by_spectrum(public, templates))
    assert _opened(templates, found, public[::-1]) > 0.999
