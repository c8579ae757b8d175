"""Calibrated figures of the subject's score: exponents, weights, and what another picture is worth."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import Field

from shared.wire.common import MAX_EXPONENTS, Rate, StrictWire, SubjectScore

# Weights are limited to 1/4 to 4 and rounded to steps of the square root of 2: nine values, so that the cloud learns
# little of a picture's quality.
_STEPS_A_DOUBLING: Final = 2
_MOST_STEPS: Final = 4


class ScoreWeights(StrictWire):
    """A template's weight in the mean: (length of the raw embedding / ``norm``) ** ``power``, limited and rounded.

    Where an embedder's training makes it so, a short embedding is that of a poor picture.
    """

    norm: float = Field(gt=0, description="length of a raw embedding whose weight is 1")
    power: float = Field(ge=0, le=4)

    def weight(self, length: float) -> float:
        """The weight of a raw embedding of this length, over 0: 0.25 to 4, a power of the square root of 2."""
        steps = round(_STEPS_A_DOUBLING * self.power * math.log2(length / self.norm))
        return float(2 ** (max(-_MOST_STEPS, min(_MOST_STEPS, steps)) / _STEPS_A_DOUBLING))


class ScoreCalibration(StrictWire):
    """How subjects with several templates are compared under the rule ``mean``, as calibration found it.

    Of a profile; or of an embedder, for profiles that have none.
    """

    exponents: Annotated[list[Rate], Field(max_length=MAX_EXPONENTS)] = Field(
        default=[], description="q for 2, 3, 4 … templates, as in SubjectScore"
    )
    weights: ScoreWeights | None = Field(default=None, description="null: every template has weight 1")
    tar: Annotated[list[Rate], Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="share of genuine comparisons accepted at the profile's threshold, for 1, 2, 3 … enrolled "
        "templates, as measured",
    )
    fmr: Annotated[list[Rate], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="false match rate at the profile's threshold, for 1, 2, 3 … templates, as measured"
    )

    def subject_score(self) -> SubjectScore:
        """The rule ``mean`` with these exponents, for a gallery."""
        return SubjectScore(rule="mean", exponents=self.exponents)

    def covers(self, score: SubjectScore) -> bool:
        """Whether a gallery's score has no more false matches than this one: no exponent of it is larger."""
        calibrated = self.subject_score()
        return all(score.exponent(n) <= calibrated.exponent(n) for n in range(2, MAX_EXPONENTS + 2))

    def gain(self, templates: int) -> tuple[float, float] | None:
        """The share of genuine comparisons accepted now, and with one template more; None where it was not measured.

        Args:
            templates: that the subject has, 1 or more.
        """
        if self.tar is None or templates >= len(self.tar):
            return None
        return self.tar[templates - 1], self.tar[templates]
