"""Verification figures from embeddings: plain functions over scores.

FMR: share of impostor pairs accepted. TAR: share of genuine pairs accepted (1 - FNMR). Both at ``score >= tau``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[np.float32]  # (n, d), unit rows
_BLOCK = 2048
# Cosines from -1 to 1 in steps of 1e-4: fine enough for thresholds given to three digits.
_BINS = 20_000


def ten_fold_accuracy(scores: Floats, genuine: NDArray[np.bool_], folds: Ints) -> tuple[float, float]:
    """LFW's protocol (Huang et al., 2007): each fold is judged at the threshold that is best on the other nine.

    Args:
        scores: (n,) cosine of each pair.
        genuine: (n,) whether the pair shows one person.
        folds: (n,) which fold the pair is in.

    Returns:
        mean and standard deviation over folds, as fractions of 1.
    """
    found = []
    for fold in np.unique(folds):
        inside = folds == fold
        tau = _best_threshold(scores[~inside], genuine[~inside])
        found.append(float(np.mean((scores[inside] >= tau) == genuine[inside])))
    return float(np.mean(found)), float(np.std(found))


def _best_threshold(scores: Floats, genuine: NDArray[np.bool_]) -> float:
    """The threshold of the highest accuracy, half way to the next lower score."""
    order = np.argsort(-scores, kind="stable")
    right = np.concatenate([[0], np.cumsum(np.where(genuine[order], 1, -1))])
    cut = int(np.argmax(right))
    ordered = scores[order]
    if cut == 0:
        return float(ordered[0]) + 1e-6
    if cut == len(ordered):
        return float(ordered[-1])
    return float(ordered[cut - 1] + ordered[cut]) / 2


@dataclass(frozen=True, slots=True)
class ImpostorScores:
    """A histogram of the cosines of all pairs of different people.

    Attributes:
        counts: (bins,) pairs by cosine, from -1 to 1.
    """

    counts: Ints

    @property
    def pairs(self) -> int:
        """How many pairs."""
        return int(self.counts.sum())

    def fmr(self, tau: float) -> float:
        """The share of pairs that are accepted at tau, to a ten-thousandth of cosine."""
        first = int(np.ceil((tau + 1) / 2 * _BINS - 1e-9))
        return float(self.counts[first:].sum() / self.counts.sum())

    def threshold_at(self, fmr: float) -> float:
        """The lowest threshold at which no more than this share is accepted."""
        accepted = np.cumsum(self.counts[::-1])[::-1] / self.counts.sum()
        allowed = np.flatnonzero(accepted <= fmr)
        first = int(allowed[0]) if len(allowed) else _BINS
        return first / _BINS * 2 - 1


def all_impostors(unit: Rows, people: Ints, other: Rows | None = None) -> ImpostorScores:
    """Scores of every pair of pictures of different people.

    Args:
        unit: (n, d) probes.
        people: (n,) who is on each.
        other: (n, d) gallery side of the same pictures, where it differs from the probes; then both orders count.
    """
    counts = np.zeros(_BINS, dtype=np.int64)
    gallery = unit if other is None else other
    for start in range(0, len(unit), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores = unit[rows] @ gallery.T
        different = people[rows, None] != people[None, :]
        if other is None:
            different &= np.arange(len(unit))[None, :] > np.arange(len(unit))[rows, None]
        counts += histogram(scores[different])
    return ImpostorScores(counts)


def histogram(scores: Rows) -> Ints:
    """The counts of ``ImpostorScores`` for these cosines."""
    bins = ((scores.astype(np.float64) + 1) / 2 * _BINS).astype(np.int64).clip(0, _BINS - 1)
    return np.bincount(bins, minlength=_BINS)


def bootstrap_over_people(values: Floats, people: Ints, *, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of a mean, drawing people, not pairs: pairs of one person are not independent.

    Args:
        values: (n,) a value a pair.
        people: (n,) whose pair it is.
        rounds: how often to draw.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    _, index = np.unique(people, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    found = []
    for _ in range(rounds):
        drawn = random.integers(0, len(sums), len(sums))
        found.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Share:
    """A mean with its 95 % interval over people."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64], people: Ints) -> Share:
        """The mean of a value a picture."""
        return cls(float(values.mean()), *bootstrap_over_people(values, people))
