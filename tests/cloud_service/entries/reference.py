"""How a subject of several templates is compared, in plain NumPy: the tests' own reading of the formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEAN: dict[str, Any] = {"rule": "mean", "exponents": [0.5, 0.6, 0.7]}
FLAT: dict[str, Any] = {"rule": "mean", "exponents": []}
BEST: dict[str, Any] = {"rule": "best", "exponents": []}


def exponent(score: dict[str, Any], templates: int) -> float:
    given = score["exponents"]
    return float(given[min(templates - 2, len(given) - 1)]) if given and templates > 1 else 0.0


def mean_vector(
    score: dict[str, Any], templates: Sequence[NDArray[np.float32]], weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """m / |m|^q of (n, d) templates."""
    mean = np.average(np.array(templates, np.float64), axis=0, weights=weights)
    length = np.linalg.norm(mean)
    if length < 1e-6:
        return np.zeros_like(mean)
    vector: NDArray[np.float64] = mean / length ** exponent(score, len(templates))
    return vector


def plain_score(
    score: dict[str, Any],
    templates: Sequence[NDArray[np.float32]],
    probe: NDArray[np.float32],
    weights: Sequence[float] | None = None,
) -> float:
    """The score of a probe and a subject with these templates."""
    wide = probe.astype(np.float64)
    if score["rule"] == "best":
        return float((np.array(templates, np.float64) @ wide).max())
    return float(mean_vector(score, templates, weights) @ wide)
