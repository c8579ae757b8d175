"""Other people's protections, as far as they are what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lab.attacks.baselines import Cost, advface, crafter, gaussian_noise, scaled_noise, steered
from lab.defence.decoders import build, rebuilt

DIM = 32
Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def decoder() -> nn.Module:
    torch.manual_seed(0)
    return build("upsampling", DIM).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unit() -> Rows:
    rows = np.random.default_rng(0).standard_normal((96, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _angles(one: Rows, other: Rows) -> NDArray[np.float64]:
    return np.rad2deg(np.arccos(np.sum(one.astype(np.float64) * other, axis=1).clip(-1, 1)))


@pytest.mark.parametrize("degrees", [5.0, 20.0])
def test_noise_has_its_angle_and_another_direction_in_each_gallery(unit: Rows, degrees: float) -> None:
    made = gaussian_noise(unit, degrees, seed=1)
    np.testing.assert_allclose(_angles(unit, made), degrees, atol=0.01)
    assert _angles(made, gaussian_noise(unit, degrees, seed=2)).min() > degrees / 2


@pytest.mark.slow(reason="gradient descent through a decoder, face by face")
@pytest.mark.parametrize("cost", [advface, crafter])
def test_steered_noise_stays_within_its_angle_and_spends_it(unit: Rows, decoder: nn.Module, cost: Cost) -> None:
    made = steered(unit, 20.0, decoder=decoder, cost=cost)
    assert _angles(unit, made).max() < 20.01
    assert _angles(unit, made).mean() > 10
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


@pytest.mark.slow(reason="gradient descent through a decoder, face by face")
def test_advface_moves_the_picture_further_than_noise_of_its_angle(unit: Rows, decoder: nn.Module) -> None:
    clean = rebuilt(decoder, unit)
    made, blind = steered(unit, 20.0, decoder=decoder, cost=advface), gaussian_noise(unit, 20.0)
    assert ((rebuilt(decoder, made) - clean) ** 2).mean() > 1.5 * ((rebuilt(decoder, blind) - clean) ** 2).mean()


@pytest.mark.slow(reason="gradient descent through a decoder, face by face")
def test_crafter_brings_the_picture_nearer_to_the_average(unit: Rows, decoder: nn.Module) -> None:
    average = rebuilt(decoder, unit).mean(axis=0)
    towards = steered(unit, 20.0, decoder=decoder, cost=crafter)
    made, blind = (rebuilt(decoder, rows) for rows in (towards, gaussian_noise(unit, 20.0)))
    assert ((made - average) ** 2).mean() < 0.9 * ((blind - average) ** 2).mean()


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.026), (2.5, 0.12)])
def test_scaled_noise_shifts_cosines_as_the_published_scheme_does(factor: float, shift: float) -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 128))
    rows = np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
    made = scaled_noise(rows, factor)
    assert 1 - np.sum(rows * made, axis=1).mean() == pytest.approx(shift, rel=0.5)
