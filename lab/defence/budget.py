"""How far all embeddings may be perturbed: budgets in radians, certified or measured.

x, y are unit vectors, theta = arccos <x, y>; a pair is accepted at cos theta >= tau, that is
theta <= theta_tau. *Before* is what the matcher would see without perturbation: if erase comes first, the erased
embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from lab.data.matching import AnyRows, Change, Comparison, Sides, TooFewPeople
from lab.data.verification import Floats, Rows

Protect = Callable[[Rows, float], AnyRows]  # (n, d) float32 unit rows and phi in radians, to (n, d) unit rows
# Radians. A perturbed float32 template and its score are off by a few 1e-7, which a certificate must not overlook.
_ROUNDING = 1e-6


def certified_budget(theta: ArrayLike, tau: float, alpha: float, *, sides: Sides = "both") -> float:
    """The split-conformal budget: for any choice of directions, at most a share alpha of decisions flips.

    A decision can flip only if its margin |theta - theta_tau| is used up by the angles of the protected sides. With m
    the margin a side, on n calibration pairs, the budget is the floor(alpha (n + 1))-th smallest m (split conformal
    prediction: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005; Lei et al., 2018): a
    further pair has a smaller m with a probability of at most alpha. The budget stays 1e-6
    radians under that m, so that the statement survives float32 templates and holds if margins are equal.

    What it rests on, and what it does not say:

    * *Exchangeability*: the calibration pairs and the further pair could be swapped without anyone noticing. Pairs of
      one person are not, so nobody may be in two pairs (``matching.one_pair_a_person``), and camera, crowd and choice
      of pairs must be those of the service. tau must not have been chosen on these pairs.
    * The probability is over the calibration as well. With one calibration fixed and independent margins, the share
      that can flip follows Beta(k, n + 1 - k), k = floor(alpha (n + 1)): about alpha, give or take sqrt(alpha / n).
    * Genuine and impostor pairs are apart: alpha holds for each kind, within the smaller of both budgets.

    Args:
        theta: (n,) radians, angles of pairs of one kind, nobody in two of them.
        tau: cosine.
        alpha: share of decisions that may flip, in 0..1 without the ends.
        sides: ``both`` are perturbed, each by the budget, or only the ``probe``, which may then use the whole margin.

    Returns:
        how far each protected side may be perturbed, radians.

    Raises:
        TooFewPeople: under ceil(1 / alpha) - 1 pairs: no budget but 0 has the guarantee.
        ValueError: not angles, or alpha or tau out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError("alpha is a share between 0 and 1")
    found = checked_angles(theta)
    exact = Fraction(str(float(alpha)))  # 0.29 * 100 is 28.999... as a float
    rank = math.floor(exact * (found.size + 1))
    if rank == 0:
        needed = math.ceil(1 / exact) - 1
        raise TooFewPeople(
            f"A share of {alpha:g} needs {needed} pairs of a kind, one a person, and {found.size} are there; "
            "add people or allow a larger share.",
            needed=needed,
            found=found.size,
        )
    margin = np.sort(np.abs(found - angle_of(tau)))[rank - 1] / (2 if sides == "both" else 1)
    return max(0.0, float(margin) - _ROUNDING)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far each error rate may rise over the clean system's.

    Attributes:
        fnmr: absolute share of 1, for the upper bound of the rise.
        fmr: the same.
    """

    fnmr: float
    fmr: float

    def allows(self, change: Change) -> bool:
        """Whether both bounds stay within. Both must hold at once, so neither needs a correction for the other."""
        return change.fnmr.upper <= self.fnmr and change.fmr.upper <= self.fmr


@dataclass(frozen=True, slots=True)
class Visit:
    """A phi that was tried.

    Attributes:
        phi: radians.
        draw: 0 in the search, 1 in the verification, which draws other people.
        change: the error rates.
        within: whether the tolerance allows it.
    """

    phi: float
    draw: int
    change: Change
    within: bool


@dataclass(frozen=True, slots=True)
class StatisticalBudget:
    """The budget of a given way to protect.

    Attributes:
        phi: radians; 0 if not even the smallest step is allowed.
        curve: all that was tried, by phi.
    """

    phi: float
    curve: tuple[Visit, ...]


def statistical_budget(
    protect: Protect, comparison: Comparison, tolerance: Tolerance, *, phi_max: float, steps: int = 16
) -> StatisticalBudget:
    """The largest phi at which the upper bounds of FNMR and FMR stay within the tolerance of the clean system's.

    A binary search over phi_max / steps, 2 phi_max / steps, ... phi_max finds a candidate, which is then verified with
    another draw of people. Where it fails, the step below it is the next candidate, and is verified the same way.

    Each bound holds for one phi by itself; the best of several tries is a little lucky. Report the figures of the
    chosen phi on people who had no part in the choice.

    Args:
        protect: (n, d) float32 unit rows and phi in radians, to (n, d) unit rows, each perturbed by at most phi.
        comparison: the clean embeddings, people, pairs, threshold, and which sides are protected.
        tolerance: allowed rises.
        phi_max: radians, the largest phi of interest.
        steps: how finely phi is told.

    Raises:
        ValueError: ``protect`` gave something that is not unit rows, or phi_max or steps are not positive.
    """
    if not (phi_max > 0 and steps > 0):
        raise ValueError("phi_max and steps are positive")
    visited: dict[tuple[int, int], Visit] = {}

    def within(step: int, draw: int) -> bool:
        if (step, draw) not in visited:
            phi = phi_max * step / steps
            change = comparison.against(protect(comparison.unit, phi), draw=draw)
            visited[step, draw] = Visit(phi, draw, change, tolerance.allows(change))
        return visited[step, draw].within

    good, bad = (steps, steps + 1) if within(steps, 0) else (0, steps)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if within(middle, 0) else (good, middle)
    while good and not within(good, 1):
        good -= 1
    return StatisticalBudget(phi_max * good / steps, tuple(visited[key] for key in sorted(visited)))


def angle_of(tau: float) -> float:
    """arccos tau, in radians; ValueError where tau is no cosine."""
    if not -1 < tau < 1:
        raise ValueError("tau is a cosine between -1 and 1")
    return math.acos(tau)


def checked_angles(theta: ArrayLike) -> Floats:
    """Float64 radians; ValueError outside 0..pi."""
    found = np.asarray(theta, dtype=np.float64)
    if not np.all((found >= 0) & (found <= math.pi)):
        raise ValueError("angles are radians in 0..pi")
    return found
