"""Small networks and what they tell: denoisers, classifiers, AUC, labels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.protection.seal import haar_orthogonal
from lab.attacks.attackers import denoised, scores, train_classifier, train_denoiser
from lab.attacks.linkage import AGE_BANDS, auc, auc_interval, auc_of_classes
from lab.defence.protection import gaussian
from lab.evaluation.demographics import labels_of

DIM = 32
Rows = NDArray[np.float32]


def _unit(count: int, seed: int) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)) * np.linspace(2, 0.2, DIM)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _near(made: Rows, true: Rows) -> float:
    return float(np.sum(made * true, axis=1).mean())


def test_a_denoiser_undoes_a_rotation_that_it_learned() -> None:
    seal = haar_orthogonal(bytes(32), DIM)
    learn, test = _unit(3000, 0), _unit(300, 1)
    denoiser = train_denoiser(np.asarray(learn @ seal.T, dtype=np.float32), learn, epochs=4)
    assert _near(denoised(denoiser, np.asarray(test @ seal.T, dtype=np.float32)), test) > 0.99


def test_and_takes_noise_away_but_finds_nothing_behind_another_rotation() -> None:
    learn, test = _unit(3000, 0), _unit(300, 1)
    angle = np.full(3000, np.deg2rad(45))
    noisy = gaussian(test, angle[:300], seed=2)
    denoiser = train_denoiser(gaussian(learn, angle, seed=1), learn, epochs=8)
    assert _near(denoised(denoiser, noisy), test) > _near(noisy, test) + 0.03
    other = np.asarray(test @ haar_orthogonal(bytes(32), DIM).T, dtype=np.float32)
    assert abs(_near(denoised(denoiser, other), test)) < 0.2


def test_what_a_denoiser_learns_follows_from_its_seed() -> None:
    rows = _unit(500, 0)
    one, same, other = (denoised(train_denoiser(rows, rows[::-1], epochs=1, seed=s), rows) for s in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


def test_a_classifier_learns_what_is_there_and_nothing_else() -> None:
    rows, test = _unit(2000, 0), _unit(1000, 1)
    labels, wanted = (np.asarray(r[:, 0] > 0, dtype=np.int64) for r in (rows, test))
    told = scores(train_classifier(rows, labels, 2), test)
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-6)
    assert auc_of_classes(told, wanted) > 0.95
    noise = np.random.default_rng(3).integers(0, 2, 2000)
    assert 0.4 < auc_of_classes(scores(train_classifier(rows, noise, 2), test), wanted) < 0.6


def test_auc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 6, 40).astype(float), random.integers(0, 5, 50).astype(float)
    pairs = one[:, None] - other[None, :]
    assert auc(one, other) == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert auc(np.ones(3), np.zeros(4)) == 1


def test_an_interval_of_an_auc_holds_it_and_shrinks_with_more_faces() -> None:
    random = np.random.default_rng(0)
    widths = []
    for count in (100, 2000):
        positive = np.arange(count) % 2 == 0
        values = random.standard_normal(count) + positive
        low, high = auc_interval(values, positive)
        assert low < auc(values[positive], values[~positive]) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_labels_are_read_from_names_that_have_them() -> None:
    names = np.array(
        ["25_0_2_20170112.jpg.chip.jpg", "someone/3.jpg", "a/61_1_0_2017.jpg", "9_1_20170109.jpg"], dtype=object
    )
    found = labels_of(names)
    assert found.known.tolist() == [0, 2]
    assert found.sex[found.known].tolist() == [0, 1]
    assert np.searchsorted(AGE_BANDS, found.age[found.known], side="right").tolist() == [2, len(AGE_BANDS)]
