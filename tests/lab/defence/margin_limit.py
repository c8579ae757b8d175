"""The limit phi(x) from the nearest impostor of the cohort, in numpy: what ``PatronusNetwork.limits`` must compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lab.data.matching import AnyRows
from lab.data.verification import Floats


def margin_limit(
    erased: AnyRows, cohort: AnyRows, tau: float, slope: float, phi_max: float, caller: ArrayLike = np.inf
) -> Floats:
    """clip(slope * (arccos max_j <e, c_j> - arccos tau), 0, phi_max), and never more than the caller's own limit."""
    nearest = np.clip((erased.astype(np.float64) @ cohort.astype(np.float64).T).max(axis=1), -1, 1)
    limit = np.minimum(np.maximum(slope * (np.arccos(nearest) - np.arccos(tau)), 0.0), phi_max)
    found: Floats = np.minimum(limit, np.maximum(np.asarray(caller, dtype=np.float64), 0.0))
    return found
