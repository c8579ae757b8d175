"""A cosine is never taken for a distance."""

from __future__ import annotations

import math

import pytest

from shared.scores import CosineSimilarity, CosineThreshold


def test_a_threshold_accepts_from_its_value_on() -> None:
    threshold = CosineThreshold.of(0.363)
    assert threshold.accepts(CosineSimilarity(0.363))
    assert not threshold.accepts(CosineSimilarity(math.nextafter(0.363, 0)))


@pytest.mark.parametrize("score", [0.9, 1, None, CosineThreshold.of(0.4)])
def test_a_threshold_decides_on_nothing_but_a_cosine(score: object) -> None:
    with pytest.raises(TypeError, match="CosineSimilarity"):
        CosineThreshold.of(0.363).accepts(score)  # type: ignore[arg-type]


def test_a_cosine_and_a_number_are_not_equal() -> None:
    assert CosineSimilarity(0.5) != 0.5


@pytest.mark.parametrize("value", [1.01, -1.01, float("nan"), float("inf")])
def test_what_is_no_cosine_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="cosine"):
        CosineSimilarity(value)


def test_rounding_beyond_one_is_one() -> None:
    assert CosineSimilarity(1 + 5e-5).value == 1.0
