"""A threshold for a purpose: read from the worst population's curve, never between or beyond what was measured."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_service.protection.profiles.document import ProfileDocument
from edge_service.protection.profiles.purpose import choose_threshold
from shared.errors import Unprocessable
from shared.wire.thresholds import ThresholdFor
from tests.support.patronus_profile import curve

TAU = 0.4
EASY, HARD = curve("easy", 50_000_000), curve("hard", 10_000_000, shift=0.05)


def document(*curves: dict[str, Any]) -> ProfileDocument:
    made = {"name": "mine", "summary": "for a test", "embedder": "any", "steps": [{"kind": "seal"}]}
    return ProfileDocument.model_validate(made | {"curves": list(curves) or None})


def chosen(*curves: dict[str, Any], subjects: int = 500, accepts: float = 0.01) -> Any:
    return choose_threshold(document(*curves), TAU, ThresholdFor(for_subjects=subjects, false_accepts=accepts))


def refused(*curves: dict[str, Any], subjects: int = 500, accepts: float = 0.01) -> Unprocessable:
    with pytest.raises(Unprocessable) as caught:
        chosen(*curves, subjects=subjects, accepts=accepts)
    return caught.value


def at(part: dict[str, Any], name: str, cosine: float) -> float:
    value: float = part[name][bisect_left(part["thresholds"], cosine)]
    return value


def test_the_lowest_threshold_is_chosen_at_which_the_worst_population_meets_the_purpose() -> None:
    threshold, choice = chosen(EASY, HARD)
    assert (choice.population, choice.impostor_pairs, choice.templates) == ("hard", 10_000_000, 1)
    assert threshold.fmr == at(HARD, "fmr", threshold.cosine)
    assert choice.false_accepts == pytest.approx(1 - (1 - threshold.fmr) ** 500, rel=1e-9)
    assert choice.false_accepts <= 0.01
    one_lower = HARD["fmr"][HARD["thresholds"].index(threshold.cosine) - 1]
    assert 1 - (1 - one_lower) ** 500 > 0.01
    assert chosen(EASY)[0].cosine < threshold.cosine


def test_it_says_what_it_costs_in_true_accepts() -> None:
    threshold, choice = chosen(EASY, HARD)
    assert (choice.default_cosine, choice.true_accepts_population) == (TAU, "easy"), "those with the fewest"
    assert choice.true_accepts == at(EASY, "tar", threshold.cosine)
    assert choice.true_accepts_at_default == at(EASY, "tar", TAU)
    assert choice.true_accepts < choice.true_accepts_at_default


def test_a_measurement_without_genuine_pairs_says_nothing_of_true_accepts() -> None:
    strangers = EASY | {"tar": None, "genuine_pairs": 0, "genuine_histogram": None}
    _, choice = chosen(strangers)
    assert (choice.true_accepts, choice.true_accepts_at_default, choice.true_accepts_population) == (None, None, None)


def test_curves_of_one_age_band_or_of_the_other_rule_are_not_read() -> None:
    others = [HARD | {"band": "0-9"}, HARD | {"rule": "best", "templates": 10}]
    assert chosen(EASY, *others) == chosen(EASY)
    assert refused(*others).reason == "no_curves"


def test_subjects_of_several_templates_count_too() -> None:
    several = HARD | {"population": "easy", "templates": 10}
    assert chosen(EASY, several)[1].templates == 10


def test_between_two_thresholds_the_lower_ones_rate_counts() -> None:
    """Of two grids, neither flatters: just below a threshold of one, its rate is that of the threshold before."""
    shifted = EASY | {"population": "other", "thresholds": [each + 0.001 for each in EASY["thresholds"]]}
    alone, both = chosen(EASY)[0], chosen(EASY, shifted)[0]
    assert both.cosine == pytest.approx(alone.cosine + 0.001)
    assert both.fmr == alone.fmr


def test_a_profile_without_curves_is_refused_with_what_would_do() -> None:
    error = refused()
    assert error.reason == "no_curves"
    assert "false match rate" in error.detail
    assert "patronus lab measure" in error.detail


def test_a_rate_below_three_over_the_pairs_is_refused_and_what_it_names_is_taken() -> None:
    few = EASY | {"impostor_pairs": 30_000, "impostor_histogram": {"edges": [-1.0, 1.0], "counts": [30_000]}}
    error = refused(few, HARD)
    assert error.reason == "not_measured"
    assert "30000 measured impostor pairs of easy" in error.detail
    assert "allow false accepts of 0.049, or name at most 100 subjects." in error.detail
    assert chosen(few, HARD, accepts=0.049)[0].fmr >= 3 / 30_000
    assert chosen(few, HARD, subjects=100)[0].fmr >= 3 / 30_000
    refused(few, HARD, subjects=101)


def test_a_measurement_that_supports_nothing_asks_for_a_larger_one() -> None:
    tiny = EASY | {"impostor_pairs": 2, "impostor_histogram": {"edges": [-1.0, 1.0], "counts": [2]}}
    assert refused(tiny).detail.endswith("support 1.5 or more; use a larger measurement.")


def test_curves_that_end_too_early_are_refused() -> None:
    flat = HARD | {"fmr": [0.5] * len(HARD["fmr"])}
    assert "end before" in refused(EASY, flat).detail


@given(st.integers(1, 100_000), st.floats(1e-6, 0.5))
def test_whatever_is_chosen_meets_the_purpose_and_is_supported(subjects: int, accepts: float) -> None:
    if -math.expm1(math.log1p(-accepts) / subjects) < 3 / 10_000_000:
        assert refused(EASY, HARD, subjects=subjects, accepts=accepts).reason == "not_measured"
        return
    threshold, choice = chosen(EASY, HARD, subjects=subjects, accepts=accepts)
    assert choice.false_accepts <= accepts * (1 + 1e-9)
    assert threshold.fmr >= 3 / choice.impostor_pairs
    for part in (EASY, HARD):
        assert at(part, "fmr", threshold.cosine) <= threshold.fmr
