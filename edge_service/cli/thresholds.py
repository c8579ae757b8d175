"""Options that name a threshold, and what is said of one: for ``patronus gallery create`` and ``threshold``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shared.command import finite

if TYPE_CHECKING:
    from shared.wire.common import Threshold
    from shared.wire.edge import EdgeGallery
    from shared.wire.thresholds import ThresholdFor

Cosine = Annotated[float | None, typer.Option(callback=finite, min=0.0001, max=0.9999, help="Cosine to accept at.")]
Fmr = Annotated[
    float | None,
    typer.Option(callback=finite, min=0, max=1, help="False match rate that you measured at this threshold."),
]
ForSubjects = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10_000_000,
        help="Choose the threshold for so many subjects, with any number of pictures each, by the profile's curves.",
    ),
]
FalseAccepts = Annotated[
    float | None,
    typer.Option(
        callback=finite, min=1e-9, max=0.5, help="Share of searches for people not enrolled that may match somebody."
    ),
]


def wanted_threshold(
    threshold: float | None, fmr: float | None, for_subjects: int | None, false_accepts: float | None
) -> Threshold | ThresholdFor | None:
    """The threshold that the options name, as the edge takes it; None where they name none.

    Raises:
        BadParameter: one of a pair is missing, or both pairs are there.
    """
    if (threshold is None) != (fmr is None):
        raise typer.BadParameter("--threshold and --fmr go together: a threshold means nothing without its rate")
    if (for_subjects is None) != (false_accepts is None):
        raise typer.BadParameter("--for-subjects and --false-accepts go together")
    if threshold is not None and for_subjects is not None:
        raise typer.BadParameter("give --threshold and --fmr, or --for-subjects and --false-accepts, not both")
    from shared.wire.common import Threshold
    from shared.wire.thresholds import ThresholdFor

    if for_subjects is not None and false_accepts is not None:
        return ThresholdFor(for_subjects=for_subjects, false_accepts=false_accepts)
    return None if threshold is None or fmr is None else Threshold(cosine=threshold, fmr=fmr)


def threshold_of(info: EdgeGallery, whose: str = "") -> str:
    """A gallery's threshold in words.

    Args:
        info: the edge's answer.
        whose: rate it is, such as `` on adults``.
    """
    at = info.threshold
    return f"cosine {at.cosine:g} (false match rate {100 * at.fmr:.2g}%{whose})"


def cost_of(info: EdgeGallery) -> str:
    """What a threshold that was chosen for a purpose gives and costs; empty for another one."""
    choice = info.chosen
    if choice is None:
        return ""
    if info.verify_only:
        said = (
            f" It is chosen as for searches among {choice.for_subjects} subjects, where "
            f"{100 * choice.false_accepts:.2g}% of people not enrolled would match one ({choice.population}, "
            f"{choice.impostor_pairs} impostor pairs). This gallery is not searched: each claim of a person "
            "not enrolled matches at the false match rate above."
        )
    else:
        said = (
            f" Of people not enrolled, {100 * choice.false_accepts:.2g}% match one of "
            f"{choice.for_subjects} subjects ({choice.population}, {choice.impostor_pairs} impostor pairs)."
        )
    if choice.true_accepts is None or choice.true_accepts_at_default is None:
        return said
    return (
        f"{said} Of genuine comparisons, {100 * choice.true_accepts:.1f}% are accepted, "
        f"{100 * choice.true_accepts_at_default:.1f}% at the default {choice.default_cosine:g} "
        f"({choice.true_accepts_population})."
    )
