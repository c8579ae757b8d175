"""A threshold that the edge chooses for a purpose, and how it was chosen."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.strict_types import JsonInteger
from shared.wire.common import Cosine, Rate, StrictWire, Wire


class ThresholdFor(StrictWire):
    """A purpose, for which the threshold is chosen from the curves of the gallery's profile.

    Example:
        >>> from patronus_face import ThresholdFor
        >>> ThresholdFor(for_subjects=500, false_accepts=0.01)  # of a gallery: client.put_gallery("door", threshold=…)
        ThresholdFor(for_subjects=500, false_accepts=0.01)
    """

    for_subjects: JsonInteger = Field(ge=1, le=10_000_000, description="as many as the gallery will have")
    false_accepts: Annotated[
        float,
        Field(
            ge=1e-9,
            le=0.5,
            description="the most that may be: share of searches for people not enrolled that match somebody",
        ),
    ]


class ThresholdChoice(Wire):
    """How a threshold was chosen for a purpose, and what it costs, as measured for the profile."""

    for_subjects: int = Field(ge=1)
    false_accepts: Rate = Field(
        description="share of searches for people not enrolled that match somebody, at the chosen threshold"
    )
    population: str = Field(description="whose curve it was read from: the one with the most false matches there")
    templates: int = Field(ge=1, description="enrolled templates of each subject of that curve")
    impostor_pairs: int = Field(ge=1, description="number of comparisons of two people that the curve rests on")
    default_cosine: Cosine = Field(description="the profile's default threshold")
    true_accepts: Rate | None = Field(
        description="share of genuine comparisons accepted at the chosen threshold, with the fewest enrolled templates "
        "that were measured; null: not measured"
    )
    true_accepts_at_default: Rate | None = Field(description="the same at the default threshold")
    true_accepts_population: str | None = Field(description="whose they are: the population with the fewest")
