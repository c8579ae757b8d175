"""Checks embeddings of other systems, normalizes them to unit rows, and weighs them by their length."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.profiles.files import Profile
from edge_service.protection.profiles.score import ScoreWeights
from shared.errors import Unprocessable

# Systems that keep unit vectors keep them in float32, or in float16 at worst.
_UNIT: Final = 1e-3
# A unit vector of 4,096 float32 values that were rounded one by one is off by less than this.
_ROUNDING: Final = 1e-6
_SHORTEST: Final = float(np.finfo(np.float32).tiny)
_LONGEST: Final = float(np.finfo(np.float32).max)
# Rows that a refusal names, as many as a request has.
_MOST_NAMED: Final = 500


def check_dimension(given: int, wanted: int) -> None:
    """Refuses embeddings of another dimension than the edge's templates, on every route.

    Args:
        given: values of an embedding.
        wanted: values of the embedder's, which the gallery's contract names too.

    Raises:
        Unprocessable: they differ; names both.
    """
    if given != wanted:
        raise Unprocessable(
            f"The embeddings have {given} dimensions, and {wanted} are wanted; send those of the gallery's embedder.",
            reason="wrong_dimension",
            given=given,
            wanted=wanted,
        )


def unit_rows(
    raw: NDArray[np.float32], profile: Profile, dim: int, first: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Raw embeddings as unit rows, and their lengths.

    Args:
        raw: (n, d) float32, of any length but 0.
        profile: that they are to be protected under; says which lengths are plausible. A row of length 1 always is:
            many systems keep embeddings so.
        dim: that they must have; see ``check_dimension``.
        first: number of the first row, for the error.

    Returns:
        (n, d) float32 unit rows, and (n,) float32 lengths.

    Raises:
        Unprocessable: another dimension, a value that is not finite, a zero vector, or a length that is not plausible;
            names the row, never a value of it.
    """
    check_dimension(raw.shape[1], dim)
    norms = row_norms(raw)
    check_norms(norms, profile, first)
    return divided(raw, norms), norms.astype(np.float32)


def row_norms(raw: NDArray[np.float32]) -> NDArray[np.float64]:
    """The lengths of rows: (n, d) float32 to (n,) float64. One is not finite where a value is not."""
    return np.asarray(np.linalg.norm(raw.astype(np.float64), axis=1))


def divided(raw: NDArray[np.float32], norms: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows as unit rows, given their lengths.

    A row that is a unit vector but for rounding stays as it is, bit by bit: its seed follows from its bits.
    """
    divisors = np.where(np.abs(norms - 1) <= _ROUNDING, 1.0, norms)
    return (raw.astype(np.float64) / divisors[:, None]).astype(np.float32)


def check_norms(norms: NDArray[np.float64], profile: Profile, first: int = 0) -> None:
    """Refuses embeddings of lengths that cannot be; see ``unit_rows``.

    Args:
        norms: (n,) float64, as ``row_norms`` gives them.
        profile: that they are to be protected under.
        first: number of the first row, for the error.

    Raises:
        Unprocessable: names the rows.
    """
    step = profile.document.patronus
    low, high = (_SHORTEST, _LONGEST) if step is None else step.input_norm or (1.0, 1.0)
    off = np.abs(norms - 1)
    # A length that is not finite fails both comparisons. What this lets through, no refusal below would meet.
    if not ((low <= norms) & (norms <= high) | (off <= _UNIT)).all():
        _refuse_one_of(norms, profile, first)


def _refuse_one_of(norms: NDArray[np.float64], profile: Profile, first: int) -> None:
    _refuse(~np.isfinite(norms), first, "holds a value that is not finite", "not_finite")
    _refuse(norms < _SHORTEST, first, "is a zero vector", "zero_vector")
    _refuse(norms > _LONGEST, first, "is longer than float32 can say", "not_finite")
    step, embedder = profile.document.patronus, profile.document.embedder
    if step is not None:
        low, high = step.input_norm or (1.0, 1.0)
        implausible = np.logical_and(np.logical_or(norms < low, norms > high), np.abs(norms - 1) > _UNIT)
        lengths = f"{low:g} to {high:g}, or 1" if step.input_norm else "1"
        _refuse(implausible, first, f"has a length that {embedder} does not give ({lengths})", "implausible_length")


def template_weights(lengths: NDArray[np.float32], weights: ScoreWeights | None) -> list[float]:
    """The weights of templates in the mean of their subject.

    Args:
        lengths: (n,) float32, of the raw embeddings, over 0.
        weights: how a weight follows from a length; None: each is 1.

    Returns:
        n weights of 0.25 to 4. Of an embedding of length 1 it is 1: many systems keep embeddings so, and the length
        that the embedder gave it is not known.
    """
    if weights is None:
        return [1.0] * len(lengths)
    return [1.0 if abs(length - 1) <= _UNIT else weights.weight(length) for length in map(float, lengths)]


def _refuse(wrong: NDArray[np.bool_], first: int, what: str, reason: str) -> None:
    if wrong.any():
        rows = [first + row for row in np.flatnonzero(wrong).tolist()]
        raise Unprocessable(
            f"Embedding {rows[0]}, counted from 0, {what}; {len(rows)} of them in all.",
            reason=reason,
            embedding=rows[0],
            embeddings=rows[:_MOST_NAMED],
            fault=what,
        )
