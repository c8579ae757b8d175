"""Measured curves of a profile: accuracy along all thresholds, and histograms of scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.wire.common import Cosine, Rate, ScoreRule, StrictWire

Population = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="whose pictures were compared, such as `lfw_unseen`")
]
Count = Annotated[int, Field(ge=0)]
_FEWEST_THRESHOLDS = 200


class Histogram(StrictWire):
    """How many scores lie between each edge and the next; the last bin includes its upper edge."""

    edges: Annotated[list[Cosine], Field(min_length=2)]
    counts: Annotated[list[Count], Field(min_length=1)]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.counts) != len(self.edges) - 1:
            raise ValueError("a histogram has one count between each edge and the next")
        if not _ascends(self.edges):
            raise ValueError("the edges of a histogram ascend")
        return self


class MeasuredCurve(StrictWire):
    """Accuracy along all thresholds, for one population, rule and number of templates."""

    population: Population
    rule: ScoreRule
    templates: int = Field(ge=1, description="enrolled templates of each subject")
    band: Annotated[str, Field(min_length=1, max_length=32)] | None = Field(
        description="age band of both people, such as `18-29`; null: all ages"
    )
    thresholds: Annotated[list[Cosine], Field(min_length=_FEWEST_THRESHOLDS)]
    fmr: list[Rate] = Field(description="false match rate at each threshold")
    tar: list[Rate] | None = Field(description="share of genuine comparisons accepted; null: none were measured")
    impostor_pairs: int = Field(ge=1)
    genuine_pairs: Count
    impostor_histogram: Histogram
    genuine_histogram: Histogram | None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not _ascends(self.thresholds):
            raise ValueError("thresholds ascend")
        for name, rates in (("fmr", self.fmr), ("tar", self.tar)):
            if rates is not None and len(rates) != len(self.thresholds):
                raise ValueError(f"{name} has one value for each threshold")
            if rates is not None and any(later > earlier for earlier, later in pairwise(rates)):
                raise ValueError(f"{name} does not rise with the threshold")
        if len({self.tar is None, self.genuine_histogram is None, self.genuine_pairs == 0}) > 1:
            raise ValueError("tar, genuine_histogram and genuine_pairs go together")
        found = ((self.impostor_histogram, self.impostor_pairs), (self.genuine_histogram, self.genuine_pairs))
        if any(histogram is not None and sum(histogram.counts) != pairs for histogram, pairs in found):
            raise ValueError("a histogram counts each pair once")
        return self


def _ascends(values: Sequence[float]) -> bool:
    return all(earlier < later for earlier, later in pairwise(values))
