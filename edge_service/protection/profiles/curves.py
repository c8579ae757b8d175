"""The cost of a profile in accuracy, beside its measured curves. The lab writes both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.wire.common import StrictWire
from shared.wire.curves import MeasuredCurve, Population


class Cost(StrictWire):
    """The accuracy that a profile costs: TAR of unprotected embeddings less that of its templates, at one FMR."""

    population: Population
    fmr: float = Field(gt=0, lt=1, description="false match rate at which both are taken")
    tar_lost: float = Field(ge=-1, le=1, description="share of genuine comparisons; below 0: the profile gains")
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="95 % bounds of `tar_lost`, by bootstrap over people"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.interval is not None and not -1 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError("an interval is its lower bound, then its upper bound, from -1 to 1")
        return self


def refuse_repeated(curves: Sequence[MeasuredCurve] | None, cost: Sequence[Cost] | None) -> None:
    """Refuses two curves of the same people, rule, templates and band, and two costs at one rate.

    Raises:
        ValueError: there are two.
    """
    curve_keys = [(one.population, one.rule, one.templates, one.band) for one in curves or ()]
    cost_keys = [(one.population, one.fmr) for one in cost or ()]
    if len({*curve_keys}) < len(curve_keys) or len({*cost_keys}) < len(cost_keys):
        raise ValueError("each curve and each cost is there once")
