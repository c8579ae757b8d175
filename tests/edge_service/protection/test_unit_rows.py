"""Embeddings of other systems become unit rows, or are refused by their row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_service.protection.embeddings import unit_rows
from edge_service.protection.profiles.files import Profile, load_profile
from shared.errors import Unprocessable
from tests.support.patronus_profile import make_network, make_profile

SEAL = load_profile("seal")


@given(arrays(np.float32, (3, 16), elements=st.floats(-1e4, 1e4, width=32)).filter(lambda rows: (rows**2).sum(1).all()))
@settings(deadline=None)
def test_rows_are_of_length_1_and_stay_so_bit_by_bit(raw: np.ndarray) -> None:
    unit, norms = unit_rows(raw, SEAL, 16)
    wide = raw.astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(norms, np.linalg.norm(wide, axis=1), rtol=1e-6)
    np.testing.assert_allclose(unit * norms[:, None], raw, rtol=1e-5, atol=1e-30)
    again, ones = unit_rows(unit, SEAL, 16)
    np.testing.assert_array_equal(again, unit)
    np.testing.assert_allclose(ones, 1, atol=1e-6)
    for row in range(3):
        np.testing.assert_array_equal(unit_rows(raw[row : row + 1], SEAL, 16)[0][0], unit[row])


@pytest.fixture(scope="module")
def ranged(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return make_profile(tmp_path_factory.mktemp("p"), make_network(dim=8), step={"input_norm": [4.0, 30.0]})


@pytest.mark.parametrize(("length", "fits"), [(1, True), (4.1, True), (29.9, True), (3.9, False), (30.1, False)])
def test_lengths_are_those_of_the_embedder_or_1(ranged: Profile, tmp_path: Path, length: float, fits: bool) -> None:
    rows = np.eye(8, dtype=np.float32)[:2]
    rows[1] *= np.float32(length)
    if fits:
        assert unit_rows(rows, ranged, 8)[1][1] == np.float32(length)
        return
    with pytest.raises(Unprocessable, match=r"^Embedding 101, .* \(4 to 30, or 1\); 1 of them in all\.$") as caught:
        unit_rows(rows, ranged, 8, first=100)
    assert (caught.value.reason, caught.value.extra["embedding"]) == ("implausible_length", 101)
    assert caught.value.extra["fault"] in caught.value.detail


def test_another_dimension_is_refused_with_both_named() -> None:
    with pytest.raises(Unprocessable, match="have 20 dimensions, and 18 are wanted"):
        unit_rows(np.ones((1, 20), np.float32), SEAL, 18)


def test_the_smallest_and_the_largest_values_are_no_trouble() -> None:
    rows = np.array([[1e-30] * 16, [7e37] * 16], np.float32)
    np.testing.assert_allclose(unit_rows(rows, SEAL, 16)[0], 0.25)
    with pytest.raises(Unprocessable, match="is longer than float32 can say"):
        unit_rows(np.full((1, 16), 3e38, np.float32), SEAL, 16)
    with pytest.raises(Unprocessable, match="is a zero vector"):
        unit_rows(np.full((1, 16), 1e-45, np.float32), SEAL, 16)
