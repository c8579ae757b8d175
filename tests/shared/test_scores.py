"""A cosine is never taken for a distance."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.scores import CosineSimilarity, CosineThreshold, L2Distance


@given(st.floats(-1, 1))
def test_there_and_back_is_the_same_cosine(value: float) -> None:
    assert CosineSimilarity(value).to_l2().to_cosine().value == pytest.approx(value, abs=1e-12)


def test_the_published_thresholds_of_sface_are_one_threshold() -> None:
    assert CosineSimilarity(0.363).to_l2().value == pytest.approx(1.128, abs=1e-3)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_larger_cosine_is_a_smaller_distance_and_angle(first: float, second: float) -> None:
    one, two = CosineSimilarity(min(first, second)), CosineSimilarity(max(first, second))
    assert one.to_l2().value >= two.to_l2().value
    assert one.angle() >= two.angle()


def test_a_threshold_accepts_from_its_value_on() -> None:
    threshold = CosineThreshold.of(0.363)
    assert threshold.accepts(CosineSimilarity(0.363))
    assert not threshold.accepts(CosineSimilarity(math.nextafter(0.363, 0)))


@pytest.mark.parametrize("score", [0.9, L2Distance(0.1), 1, None])
def test_a_threshold_decides_on_nothing_but_a_cosine(score: object) -> None:
    with pytest.raises(TypeError, match="CosineSimilarity"):
        CosineThreshold.of(0.363).accepts(score)  # type: ignore[arg-type]


def test_a_cosine_and_a_distance_are_not_equal() -> None:
    assert CosineSimilarity(0.5) != L2Distance(0.5)


@pytest.mark.parametrize("value", [1.01, -1.01, float("nan"), float("inf")])
def test_what_is_no_cosine_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="cosine"):
        CosineSimilarity(value)


def test_rounding_beyond_one_is_one() -> None:
    assert CosineSimilarity(1 + 5e-5).value == 1.0
    assert CosineSimilarity(1 + 5e-5).angle() == 0.0


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_what_is_no_distance_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="distance"):
        L2Distance(value)


def test_a_distance_that_unit_vectors_cannot_have_is_no_cosine() -> None:
    with pytest.raises(ValueError, match="cosine"):
        L2Distance(2.1).to_cosine()
