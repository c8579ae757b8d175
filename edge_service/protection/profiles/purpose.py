"""Chooses a gallery's threshold for a purpose, from the curves that its profile carries (docs/decisions/0034)."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from edge_service.protection.profiles.document import ProfileDocument
from shared.errors import Unprocessable
from shared.wire.common import NewThreshold
from shared.wire.curves import MeasuredCurve
from shared.wire.thresholds import ThresholdChoice, ThresholdFor

# Where n independent comparisons had no false match, the rate is below 3 / n with 95 % confidence (Hanley and
# Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 1983).
_RULE_OF_THREE: Final = 3
_LOWEST, _HIGHEST = 0.0001, 0.9999  # cosines of a new gallery's threshold


def choose_threshold(
    document: ProfileDocument, tau: float, wanted: ThresholdFor
) -> tuple[NewThreshold, ThresholdChoice]:
    """The lowest measured threshold at which a purpose is met in every population, and what it costs.

    With N subjects and a false match rate f of one comparison, somebody who is not enrolled matches one of them with
    probability 1 - (1 - f)^N. Between two measured thresholds, the rate of the lower one counts, and the true accepts
    of the higher one. No rate below 3 / (impostor pairs) is read from a curve.

    Args:
        document: of the profile, whose curves of the rule ``mean`` and of all ages are read.
        tau: cosine of the profile's default threshold, to compare with.
        wanted: the purpose.

    Raises:
        Unprocessable: the profile has no curves (``no_curves``), or they do not support so low a rate
            (``not_measured``).
    """
    curves = [one for one in document.curves or () if one.rule == "mean" and one.band is None]
    if not curves:
        raise Unprocessable(
            f"The profile {document.name!r} has no measured curves to choose a threshold from; name a threshold with "
            "its false match rate, or use a profile that `patronus lab measure --write` has measured.",
            reason="no_curves",
        )
    rate = -math.expm1(math.log1p(-wanted.false_accepts) / wanted.for_subjects)
    _refuse_unsupported(curves, wanted, rate)
    for cosine in sorted({at for one in curves for at in one.thresholds if _LOWEST <= at <= _HIGHEST}):
        worst = max(curves, key=lambda one: _fmr(one, cosine))
        fmr = _fmr(worst, cosine)
        if fmr <= rate:
            return NewThreshold(cosine=cosine, fmr=fmr), _choice(curves, worst, cosine, tau, wanted)
    raise Unprocessable(
        f"A comparison may have a false match rate of {rate:.2g} for this, and the measured curves of the profile "
        f"{document.name!r} end before it is as low; allow more false accepts, or name fewer subjects.",
        reason="not_measured",
    )


def _refuse_unsupported(curves: Sequence[MeasuredCurve], wanted: ThresholdFor, rate: float) -> None:
    fewest = min(curves, key=lambda one: one.impostor_pairs)
    least = _RULE_OF_THREE / fewest.impostor_pairs
    if rate >= least:
        return
    subjects = 0 if least >= 1 else math.floor(math.log1p(-wanted.false_accepts) / math.log1p(-least))
    allowed = 1.0 if least >= 1 else -math.expm1(wanted.for_subjects * math.log1p(-least))
    more = (
        f"allow false accepts of {_rounded_up(allowed):g}" if _rounded_up(allowed) < 1 else "use a larger measurement"
    )
    fewer = f", or name at most {subjects} subjects" if subjects else ""
    raise Unprocessable(
        f"A comparison may have a false match rate of {rate:.2g} for this, and the {fewest.impostor_pairs} measured "
        f"impostor pairs of {fewest.population} ({fewest.templates} enrolled) support {least:.2g} or more; "
        f"{more}{fewer}.",
        reason="not_measured",
    )


def _rounded_up(share: float) -> float:
    """To two digits, never down."""
    step = 10.0 ** (math.floor(math.log10(share)) - 1)
    return math.ceil(share / step - 1e-9) * step


def _choice(
    curves: Sequence[MeasuredCurve], worst: MeasuredCurve, cosine: float, tau: float, wanted: ThresholdFor
) -> ThresholdChoice:
    fewest = min((one.templates for one in curves if one.tar), default=0)
    genuine = [one for one in curves if one.tar and one.templates == fewest]
    lowest = min(genuine, key=lambda one: _tar(one, cosine), default=None)
    return ThresholdChoice(
        for_subjects=wanted.for_subjects,
        false_accepts=-math.expm1(wanted.for_subjects * math.log1p(-_fmr(worst, cosine))),
        population=worst.population,
        templates=worst.templates,
        impostor_pairs=worst.impostor_pairs,
        default_cosine=tau,
        true_accepts=None if lowest is None else _tar(lowest, cosine),
        true_accepts_at_default=None if lowest is None else _tar(lowest, tau),
        true_accepts_population=None if lowest is None else lowest.population,
    )


def _fmr(curve: MeasuredCurve, cosine: float) -> float:
    """An upper estimate of the false match rate at a cosine: that of the next lower threshold; 1 below all."""
    at = bisect_right(curve.thresholds, cosine) - 1
    return max(curve.fmr[at], _RULE_OF_THREE / curve.impostor_pairs) if at >= 0 else 1.0


def _tar(curve: MeasuredCurve, cosine: float) -> float:
    """A lower estimate of the share of genuine comparisons accepted: that of the next higher threshold."""
    at = bisect_left(curve.thresholds, cosine)
    return curve.tar[at] if curve.tar and at < len(curve.tar) else 0.0
