"""How far each sample may be turned: phi(x), from the impostor nearest to it and from its subject's own spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lab.defence.geometry import angle_of, angles, checked_angles
from lab.evaluation.matching import Rows
from lab.evaluation.verification import Floats


def margin_limit(
    erased: Rows, cohort: Rows, tau: float, slope: float, phi_max: float, caller: ArrayLike | None = None
) -> Floats:
    """phi(x) from the nearest impostor of a fixed cohort: what ``PatronusNetwork.limits`` computes, in numpy.

    clip(slope * (arccos max_j <e, c_j> - arccos tau), 0, phi_max), and never more than the caller's own limit.

    Args:
        erased: (n, d) unit rows, after erase and before the turn.
        cohort: (m, d) unit rows in the same space, of other people.
        tau: cosine.
        slope: share of the margin that a sample may use.
        phi_max: radians, the profile's limit.
        caller: (n,) or scalar, radians; a negative one counts as 0.

    Returns:
        (n,) float64, radians.
    """
    nearest = np.clip((erased.astype(np.float64) @ cohort.astype(np.float64).T).max(axis=1), -1, 1)
    limit: Floats = np.minimum(np.maximum(slope * (np.arccos(nearest) - angle_of(tau)), 0.0), phi_max)
    if caller is not None:
        limit = np.minimum(limit, np.maximum(np.asarray(caller, dtype=np.float64), 0.0))
    return limit


def expected_genuine_angle(enrolled: Rows) -> float:
    """The angle to expect between two pictures of a subject, in radians: the mean over all pairs of the enrolled ones.

    Unbiased if a probe is taken as the enrolled pictures were; pictures of one sitting are closer than that.

    Args:
        enrolled: (n, d) unit rows, pictures of one subject, n > 1.

    Raises:
        ValueError: under two pictures: nothing can be told from one.
    """
    if len(enrolled) < 2:
        raise ValueError("two enrollment pictures are needed to tell how far they lie apart")
    first, second = np.triu_indices(len(enrolled), 1)
    return float(np.mean(angles(enrolled[first], enrolled[second])))


def genuine_limit(expected: ArrayLike, tau: float, slope: float, phi_max: float) -> Floats:
    """phi(x) from the subject's own spread: clip(slope * (arccos tau - expected angle), 0, phi_max).

    Args:
        expected: (n,) or scalar, radians, from ``expected_genuine_angle``.
        tau: cosine.
        slope: share of the margin that a sample may use.
        phi_max: radians, the profile's limit.

    Returns:
        (n,) float64, radians; 0 where a second picture is expected to be rejected even without a turn.
    """
    limit: Floats = np.minimum(np.maximum(slope * (angle_of(tau) - checked_angles(expected)), 0.0), phi_max)
    return limit


@dataclass(frozen=True, slots=True)
class Limits:
    """The limit of each sample, and how many may not be turned at all.

    Attributes:
        phi: (n,) float64, radians.
        unperturbed: samples with phi = 0. They go unprotected by the turn, so they are reported and never passed over.
        unperturbed_by: for each source, the samples to which it gives 0; a sample may count in several.
    """

    phi: Floats
    unperturbed: int
    unperturbed_by: dict[str, int]


def combine_limits(sources: Mapping[str, ArrayLike]) -> Limits:
    """The smallest of several limits, sample by sample.

    Args:
        sources: for each name, (n,) or scalar radians, not negative; infinite where a source says nothing of a sample.

    Raises:
        ValueError: no sources, a limit that is negative or not a number, or a sample that nothing limits.
    """
    if not sources:
        raise ValueError("at least one source of limits is needed")
    parts = np.broadcast_arrays(*(np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in sources.values()))
    phi = np.min(np.stack(parts), axis=0)
    if not np.all(np.isfinite(phi) & (phi >= 0)):
        raise ValueError("limits are angles of at least 0, and each sample has a finite one")
    counts = {name: int(np.sum(part == 0)) for name, part in zip(sources, parts, strict=True)}
    return Limits(phi, int(np.sum(phi == 0)), counts)
