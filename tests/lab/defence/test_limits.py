"""The limit of each sample: the network's equals the numpy reference, and the reference is the stated formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data.verification import Floats
from tests.lab.defence.geometry import random_rotation
from tests.lab.defence.margin_limit import margin_limit


def _unit(rows: int, dim: int, seed: int) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9), st.floats(0.05, 2), st.floats(0, 0.5))
def test_the_limit_from_the_cohort_is_that_of_the_network(seed: int, tau: float, slope: float, phi_max: float) -> None:
    torch = pytest.importorskip("torch")
    network = pytest.importorskip("lab.defence.network")
    cohort = _unit(40, 16, seed).astype(np.float32)
    # Some rows are in the cohort, some close to it, some anywhere.
    near = random_rotation(cohort[:20], np.linspace(0.01, 1.5, 20), np.random.default_rng([seed, 1]))
    erased = np.concatenate([cohort[:3], near, _unit(40, 16, seed + 1)]).astype(np.float32)
    caller = np.random.default_rng([seed, 2]).uniform(-0.1, 0.6, len(erased)).astype(np.float32)
    net = network.PatronusNetwork(network.NetworkShape(dim=16, width=8, blocks=0, cohort=40))
    for name, value in (("margin_from", tau), ("slope", slope), ("phi_max", phi_max)):
        getattr(net, name).fill_(value)
    net.cohort.copy_(torch.from_numpy(cohort))
    expected = net.limits(torch.from_numpy(erased), torch.from_numpy(caller)).detach().numpy()
    found = margin_limit(erased, cohort, tau, slope, phi_max, caller)
    assert np.allclose(found, expected, rtol=0, atol=5e-6)
    assert np.all(found[:3] == 0)


def test_the_limit_is_the_share_of_the_margin_between_zero_and_the_most() -> None:
    axes = np.eye(3)
    at = [axes[0] * math.cos(angle) + axes[1] * math.sin(angle) for angle in (0.5, 1.3, 1.5)]
    found = margin_limit(np.stack(at), axes[[0, 2]], math.cos(1.0), 0.5, 0.2)
    assert found == pytest.approx([0, 0.15, 0.2])
    assert margin_limit(np.stack(at), axes[[0, 2]], math.cos(1.0), 0.5, 0.2, 0.1) == pytest.approx([0, 0.1, 0.1])
    assert np.all(margin_limit(np.stack(at), axes[[0, 2]], math.cos(1.0), 0.5, 0.2, -1) == 0)
