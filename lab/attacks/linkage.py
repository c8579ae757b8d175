"""Linkage: are two templates of different galleries, or of different epochs of a key, of one person?"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
_BINS: Final = 40
_GRID: Final = 2001


def d_sys(mated: Floats, other: Floats, *, bins: int = _BINS) -> float:
    """Global linkability of a score (Gomez-Barrero et al., IEEE TIFS 13, 2018), with equal priors.

    0: scores of one person and of two are distributed alike; 1: they never overlap. Estimated by histograms whose
    bins hold equal shares of both kinds together, so it is a little over 0 also where there is nothing to find:
    compare with ``d_sys_by_chance``.

    Args:
        mated: (n,) scores of one person.
        other: (m,) scores of two.
        bins: of the histogram.
    """
    both = np.concatenate([np.quantile(scores, np.linspace(0, 1, _GRID)) for scores in (mated, other)])
    edges = np.quantile(both, np.linspace(0, 1, bins + 1)[1:-1])
    p, q = (np.bincount(np.searchsorted(edges, s), minlength=bins) / len(s) for s in (mated, other))
    ratio = np.divide(p, q, out=np.full(bins, np.inf), where=q > 0)
    with np.errstate(invalid="ignore"):
        local = np.where(np.isinf(ratio), 1.0, 2 * ratio / (1 + ratio) - 1)
    return float(np.sum(p * np.clip(local, 0, None)))


def d_sys_by_chance(mated: int, other: int, *, rounds: int = 20, bins: int = _BINS, seed: int = 0) -> float:
    """What the estimate gives on average for so many scores that tell nothing."""
    random = np.random.default_rng(seed)
    found = [d_sys(random.random(mated), random.random(other), bins=bins) for _ in range(rounds)]
    return float(np.mean(found))


def rank_1(likeness: Floats) -> float:
    """The share of rows whose largest score is on the diagonal: (n, n), one a person. Ties count as lost."""
    best = likeness.max(axis=1)
    own = np.diagonal(likeness)
    return float(np.mean((own >= best) & ((likeness >= best[:, None]).sum(axis=1) == 1)))


def neighborhoods(templates: Rows, *, nearest: int = 50) -> Rows:
    """A description of each template that no rotation changes: its largest cosines to the rest of its gallery.

    Args:
        templates: (n, d) unit rows, of one gallery.
        nearest: how many cosines; at most n - 1.

    Returns:
        (n, nearest) float32, sorted.
    """
    likeness = templates @ templates.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(nearest, len(templates) - 1)
    return np.asarray(np.sort(likeness, axis=1)[:, ::-1][:, :count], dtype=np.float32)


def likeness_of_neighborhoods(first: Rows, second: Rows) -> Floats:
    """How alike the neighborhoods of two galleries' templates are: (n, k) and (m, k) to (n, m), 0 at most."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2 * first @ second.T
    return np.asarray(-squares, dtype=np.float64)
