"""Erase finds what tells of the picture and not of the person; the cohort tells of nobody."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lab.data.embedders import Encoder
from lab.data.images import FaceImages
from lab.data.matching import TooFewPeople, genuine_pairs
from lab.data.splits import CALIBRATE, FIT, TEST, Labelled, Material, PeopleRows, alike
from lab.defence.erase import MOST_OF_ONE, erase_basis, erase_matrix, erased, mixed, scatter
from lab.defence.statistics import (
    Way,
    best_of,
    covariance_root,
    cross_validated,
    digest,
    fit,
    limited_by_cohort,
    network_of,
    synthetic_cohort,
)
from tests.lab.defence.margin_limit import margin_limit

Rows = NDArray[np.float32]
DIM, NUISANCES = 16, 3


def _orthonormal(seed: int = 0) -> NDArray[np.float64]:
    """(d, 3): directions that tell of light and pose, and of nobody."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((DIM, DIM)))[0][:, :NUISANCES]


def _people(count: int, each: int = 5, *, nuisance: float = 1.5, seed: int = 0) -> tuple[Rows, NDArray[np.int64]]:
    """Unit embeddings of people: who they are lies outside the nuisances, which differ from picture to picture."""
    random, away = np.random.default_rng([seed, 1]), _orthonormal()
    own = random.standard_normal((count, DIM))
    own -= own @ away @ away.T
    who = np.repeat(np.arange(count), each)
    rows = own[who] + nuisance * random.standard_normal((len(who), NUISANCES)) @ away.T
    rows += 0.2 * random.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), who


# Erase


def test_the_basis_is_the_nuisances() -> None:
    unit, who = _people(800)
    basis = erase_basis(scatter(unit, who), NUISANCES)
    assert basis.T @ basis == pytest.approx(np.eye(NUISANCES), abs=1e-9)
    # Cosines of the principal angles between both spans.
    assert np.linalg.svd(_orthonormal().T @ basis, compute_uv=False).min() > 0.98


def test_the_worst_direction_comes_first() -> None:
    found = scatter(*_people(200))
    three = erase_basis(found, 3)
    for count in (1, 2):
        fewer = erase_basis(found, count)
        assert np.abs(np.linalg.svd(three[:, :count].T @ fewer, compute_uv=False) - 1).max() < 1e-9

    def ratio(direction: NDArray[np.float64]) -> float:
        return float(direction @ found.within @ direction / (direction @ found.between @ direction))

    random = np.random.default_rng(0).standard_normal((500, DIM))
    assert ratio(three[:, 0]) >= max(map(ratio, random)) * 0.99


@pytest.mark.parametrize("wiener", [0.0, 0.5])
@pytest.mark.parametrize("directions", [0, 1, 3, 8])
def test_nothing_is_left_in_an_erased_direction(directions: int, wiener: float) -> None:
    unit, who = _people(200)
    found = scatter(unit, who)
    matrix = erase_matrix(found, directions, wiener)
    left = erased(unit, matrix)
    assert np.linalg.matrix_rank(matrix, tol=1e-8) == DIM - directions
    assert np.linalg.norm(left, axis=1) == pytest.approx(1, abs=1e-6)
    if directions:
        assert np.abs(left @ erase_basis(found, directions)).max() < 1e-6


def test_without_directions_and_shrinking_erase_does_nothing() -> None:
    unit, who = _people(60)
    matrix = erase_matrix(scatter(unit, who), 0, 0.0)
    assert matrix == pytest.approx(np.eye(DIM), abs=1e-12)
    assert erased(unit, matrix) == pytest.approx(unit, abs=1e-6)


def test_two_pictures_that_differ_in_nuisances_alone_become_one() -> None:
    matrix = erase_matrix(scatter(*_people(400)), NUISANCES, 0.0)
    random, away = np.random.default_rng(9), _orthonormal()
    own = random.standard_normal((50, DIM))
    one, other = own, own + 0.7 * random.standard_normal((50, NUISANCES)) @ away.T
    before = _cosine(one, other)
    after = np.sum(erased(one, matrix).astype(np.float64) * erased(other, matrix), axis=1)
    assert before.min() < 0.9
    assert after.min() > 0.985


def test_on_other_people_the_same_person_comes_closer_and_strangers_do_not() -> None:
    found = scatter(*_people(200))
    unit, who = _people(80, seed=1)
    pairs = genuine_pairs(who)
    strangers = np.stack([np.arange(0, 200), np.arange(200, 400)], axis=1)

    def scores(rows: Rows) -> tuple[float, float]:
        return tuple(float(np.mean(np.sum(rows[p[:, 0]] * rows[p[:, 1]], axis=1))) for p in (pairs, strangers))

    genuine, impostor = scores(unit)
    for wiener in (0.0, 0.5):
        better, other = scores(erased(unit, erase_matrix(found, NUISANCES, wiener)))
        assert better > genuine + 0.2
        assert abs(other - impostor) < 0.05


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sum(one * other, axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_scatter_is_the_mean_covariance_within_and_that_of_the_means() -> None:
    unit, who = _people(DIM, each=4)
    shuffled = np.random.default_rng(0).permutation(len(who))
    found = scatter(unit[shuffled], who[shuffled])
    wide = unit.astype(np.float64)
    within = np.mean([np.cov(wide[who == one].T) for one in range(DIM)], axis=0)
    means = np.array([wide[who == one].mean(axis=0) for one in range(DIM)])
    assert found.within == pytest.approx(within)
    assert found.between == pytest.approx(np.cov(means.T, bias=True))
    assert found.people == DIM


def test_a_person_on_many_pictures_counts_no_more_than_others() -> None:
    unit, who = _people(DIM, each=4)
    more, _ = _people(1, each=MOST_OF_ONE + 30, seed=3)
    crowd = np.full(len(more), DIM)
    few = scatter(np.concatenate([unit, more[:MOST_OF_ONE]]), np.concatenate([who, crowd[:MOST_OF_ONE]]))
    many = scatter(np.concatenate([unit, more]), np.concatenate([who, crowd]))
    assert np.array_equal(few.within, many.within)
    assert np.array_equal(few.between, many.between)


@pytest.mark.parametrize("each", [1, 3])
def test_too_few_people_are_told_with_the_number_needed(each: int) -> None:
    unit, who = _people(DIM - 1 if each > 1 else 100, each)
    with pytest.raises(TooFewPeople, match=rf"needs {DIM} people with two pictures or more; there are ") as told:
        scatter(unit, who)
    assert told.value.extra["needed"] == DIM
    assert str(DIM - 1 if each > 1 else 0) in told.value.detail


# What is fitted for a network


def _material(nuisance: float = 1.5) -> Material:
    unit, who = _people(240, nuisance=nuisance)
    part = np.select([who % 4 < 2, who % 4 == 2], [FIT, CALIBRATE], TEST)
    images = FaceImages(np.arange(len(who)).astype(object), who.astype(object), np.empty((len(who), 0)), "")
    labelled = Labelled(images, unit, unit, who, part, genuine_pairs(who), None)
    encoder = Encoder("own", None, "", "", None, DIM, None)  # type: ignore[arg-type]
    return Material(encoder, images, unit[part == FIT], labelled)


def test_the_erase_step_that_is_chosen_keeps_errors_of_people_who_did_not_fit_it() -> None:
    material = _material()
    tried = cross_validated(material.fitting(), 0.7, seed=0)
    chosen = best_of(tried)
    clean = next(choice for choice in tried if choice.way == Way())
    assert chosen.way.directions > 0
    assert clean.tar.shape == (1, 3)  # one source; at tau, and where FMR is 1e-3 and 1e-4
    assert (chosen.tar >= clean.tar - 0.0035).all()
    most = max(choice.way.directions for choice in tried if (choice.tar >= clean.tar - 0.0035).all())
    assert chosen.way.directions == most
    assert chosen in tried
    fitted = fit(material, 0.7, erases=True, cohort=12, seed=0)
    assert fitted.eraser is not None
    assert fitted.way == chosen.way
    assert 0.5 <= fitted.scale <= 1.05
    if not chosen.way.keeps_mean:
        assert np.linalg.matrix_rank(fitted.eraser) == DIM - chosen.way.directions


def test_further_people_show_directions_that_the_first_ones_do_not_vary_in() -> None:
    own = scatter(*_people(400))
    # The further people's pictures differ in one more direction than those of the first people.
    more, who = _people(40, each=MOST_OF_ONE, seed=5)
    new = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0][:, NUISANCES]
    rows = more + 0.8 * np.random.default_rng(6).standard_normal((len(more), 1)) * new
    further = scatter((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), who)
    both = mixed([own, further])
    assert both.between is own.between
    assert np.trace(both.within) == pytest.approx(np.trace(own.within))
    for found, left in ((own, 1.0), (both, 0.0)):
        matrix = erase_matrix(found, NUISANCES + 1, 0.0)
        kept = np.linalg.norm(matrix @ new)
        assert kept == pytest.approx(left, abs=0.3)
    assert mixed([own]).within == pytest.approx(own.within)


def test_pictures_under_a_wrong_name_are_left_out() -> None:
    unit, who = _people(30, each=12, nuisance=0.2)
    wrong = np.arange(0, len(who), 24)  # of every second person, one picture shows the next person
    renamed = who.copy()
    renamed[wrong] = (who[wrong] + 1) % 30
    kept = alike(PeopleRows(unit, renamed))
    assert not kept[wrong].any()
    assert kept[np.setdiff1d(np.arange(len(who)), wrong)].mean() > 0.97
    # Too few pictures to tell who is meant.
    assert alike(PeopleRows(unit[:4], np.zeros(4, np.int64))).all()


def test_a_network_has_what_was_fitted() -> None:
    material = _material()
    fitted = fit(material, 0.7, erases=True, cohort=12, seed=0)
    network = network_of(fitted, 0.5, seed=1)
    unit = material.labelled.unit[:40]
    assert network.erase(torch.from_numpy(unit)).numpy() == pytest.approx(erased(unit, fitted.eraser), abs=1e-5)
    assert np.array_equal(network.cohort.numpy(), fitted.cohort)
    # Every face may use phi_max, until the cohort limits it.
    caller = torch.full((len(unit),), 9.0)
    assert network.limits(torch.from_numpy(unit), caller).numpy() == pytest.approx(np.full(len(unit), 0.5))
    limited_by_cohort(network, 0.7, 2.0)
    expected = margin_limit(unit, fitted.cohort, 0.7, 2.0, 0.5)
    assert network.limits(torch.from_numpy(unit), caller).numpy() == pytest.approx(expected, abs=1e-4)
    assert expected.min() < 0.5
    same, other = (network_of(fitted, 0.5, seed=seed) for seed in (1, 2))
    assert torch.equal(network.leave.weight, same.leave.weight)
    assert not torch.equal(network.leave.weight, other.leave.weight)


def test_a_plug_in_erases_nothing() -> None:
    material = _material()
    fitted = fit(material, 0.7, erases=False, cohort=12, seed=0)
    assert fitted.eraser is None
    assert fitted.scale == 1
    unit = material.labelled.unit[:40]
    kept = network_of(fitted, 0.5, seed=1).erase(torch.from_numpy(3 * unit)).numpy()
    assert kept == pytest.approx(unit, abs=1e-6)


# Cohort


def test_nobody_real_is_in_the_cohort() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((3000, 32)) * np.linspace(0.3, 2, 32) + 0.5
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    cohort = synthetic_cohort(unit, 200, seed=0)
    assert cohort.shape == (200, 32)
    assert cohort.dtype == np.float32
    assert np.linalg.norm(cohort.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-6)
    assert (cohort @ unit.T).max() < 0.99
    assert np.array_equal(cohort, synthetic_cohort(unit, 200, seed=0))
    assert not np.isclose(cohort, synthetic_cohort(unit, 200, seed=1)).all(axis=1).any()


def test_the_cohort_is_spread_as_real_faces_are() -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((4000, 12)) * np.linspace(0.2, 1, 12) + np.linspace(1, 0, 12)
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    cohort = synthetic_cohort(unit, 4000, seed=0)
    assert cohort.mean(axis=0) == pytest.approx(unit.mean(axis=0), abs=0.05)
    assert cohort.std(axis=0) == pytest.approx(unit.std(axis=0), abs=0.05)


def test_turns_are_spread_as_real_faces_are() -> None:
    unit, _ = _people(300)
    root = covariance_root(unit).astype(np.float64)
    covariance = np.cov(unit.astype(np.float64).T)
    assert root == pytest.approx(root.T, abs=1e-6)
    assert np.trace(root) == pytest.approx(DIM, rel=1e-6)
    assert root @ root == pytest.approx(covariance * np.trace(root @ root) / np.trace(covariance), abs=1e-5)


def test_a_digest_is_of_the_numbers_and_not_of_how_they_lie() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    expected = hashlib.sha256(rows.astype("<f4").tobytes()).hexdigest()
    assert digest(rows) == digest(np.asfortranarray(rows)) == digest(rows.astype(">f4")) == expected
    assert digest(rows[::-1]) != expected
