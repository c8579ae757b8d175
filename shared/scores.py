"""Scores and thresholds as types, so that a cosine is never compared with a distance.

For unit vectors, L2 = sqrt(2 - 2 cos): a larger cosine is a smaller distance, and 0.363 means something else in each.
A bare float says which only in its name; these types say it to the type checker and, at run time, to the interpreter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# float32 dot products of unit vectors leave [-1, 1] by rounding; more than this is not rounding.
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class CosineSimilarity:
    """The cosine of the angle between two embeddings; 1 is the same direction.

    Raises:
        ValueError: not finite, or outside [-1, 1] by more than rounding.
    """

    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or abs(self.value) > 1 + _ROUNDING:
            raise ValueError("a cosine lies in [-1, 1]")
        object.__setattr__(self, "value", min(1.0, max(-1.0, float(self.value))))


@dataclass(frozen=True, slots=True)
class CosineThreshold:
    """The matcher's tau: a pair is accepted when its cosine is at least this."""

    cosine: CosineSimilarity

    @classmethod
    def of(cls, value: float) -> CosineThreshold:
        """A threshold from a plain cosine value."""
        return cls(CosineSimilarity(value))

    def accepts(self, score: CosineSimilarity) -> bool:
        """Whether a pair with this score is a match.

        Raises:
            TypeError: the score is not a cosine similarity.
        """
        if not isinstance(score, CosineSimilarity):
            raise TypeError(f"a cosine threshold decides on a CosineSimilarity, not on a {type(score).__name__}")
        return score.value >= self.cosine.value
