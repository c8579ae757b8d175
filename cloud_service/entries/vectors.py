"""The vectors of entries, whose inner product with a probe is the score.

With m the weighted mean of an entry's n templates and q the exponent for n, the score of a probe p is <p, m> / |m|^q
(``shared.wire.common.SubjectScore``). The vector of an entry is m / |m|^q: at most of length 1, and for one template
that template. It is rounded to float32 once, so that the index and every comparison use the same values.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.wire.common import SubjectScore

# A shorter mean has no direction to speak of: its entry scores 0.
_LEAST_LENGTH: Final = 1e-6


def entry_vectors(
    templates: NDArray[np.float32],
    weights: NDArray[np.float64],
    counts: NDArray[np.int64],
    score: SubjectScore,
) -> NDArray[np.float32]:
    """The vectors of entries.

    Args:
        templates: (n, d) float32, unit rows, entry after entry.
        weights: (n,) float64, over 0.
        counts: (g,) int64, how many rows each entry has, n in all. An entry of none has the vector zero.
        score: the gallery's.

    Returns:
        (g, d) float32.
    """
    if len(counts) == len(templates) and (counts == 1).all():
        return templates
    vectors = np.zeros((len(counts), templates.shape[1]), np.float32)
    starts = np.cumsum(counts) - counts
    alone = counts == 1
    vectors[alone] = templates[starts[alone]]
    several = np.flatnonzero(counts > 1)
    if len(several):
        rows = np.repeat(counts > 1, counts)
        weighted = templates[rows] * weights[rows, np.newaxis]
        first = np.cumsum(counts[several]) - counts[several]
        means = np.add.reduceat(weighted, first, axis=0)
        means /= np.add.reduceat(weights[rows], first)[:, np.newaxis]
        vectors[several] = _scaled(means, counts[several], score)
    return vectors


def agreements(
    templates: NDArray[np.float32],
    weights: NDArray[np.float64],
    asked: NDArray[np.int64],
    score: SubjectScore,
) -> NDArray[np.float64]:
    """The score of some of a subject's templates, each against the subject's others.

    Args:
        templates: (n, d) float32, n at least 2: unit rows.
        weights: (n,) float64.
        asked: (k,) int64, the rows of those that are compared.
        score: the gallery's.

    Returns:
        (k,) float64, in [-1, 1] up to rounding.
    """
    wide = templates.astype(np.float64)
    if score.rule == "best":
        products = wide[asked] @ wide.T
        products[np.arange(len(asked)), asked] = -np.inf
        best: NDArray[np.float64] = products.max(axis=1)
        return best
    weighted = wide * weights[:, np.newaxis]
    others = weighted.sum(axis=0) - weighted[asked]
    others /= (weights.sum() - weights[asked])[:, np.newaxis]
    scaled = _scaled(others, np.full(len(asked), len(templates) - 1), score)
    products = scaled * wide[asked]
    scores: NDArray[np.float64] = products.sum(axis=1)
    return scores


def rotated(templates: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rotates templates to another seal, in float64; rounding does not change their length.

    Args:
        templates: (n, d) float32, unit rows.
        matrix: (d, d) float64, orthogonal: a template T becomes M T.

    Returns:
        (n, d) float32, unit rows.
    """
    turned = templates.astype(np.float64) @ matrix.T
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return turned.astype(np.float32)


def _scaled(means: NDArray[np.float64], counts: NDArray[np.int64], score: SubjectScore) -> NDArray[np.float64]:
    """Means, each divided by its length to the power for so many templates."""
    exponents = np.array([score.exponent(n) for n in range(1, len(score.exponents) + 2)])
    power = exponents[np.minimum(counts, len(exponents)) - 1]
    lengths = np.linalg.norm(means, axis=1)
    sound = lengths >= _LEAST_LENGTH
    scale = np.where(sound, np.where(sound, lengths, 1.0) ** -power, 0.0)
    scaled: NDArray[np.float64] = means * scale[:, np.newaxis]
    return scaled
