"""How far an embedding may be turned: budgets in radians, certified or measured, for all samples or for each.

x, y are unit vectors, theta = arccos <x, y>; a pair is accepted at cos theta >= tau, that is theta <= theta_tau.
Protection turns x into cos(phi) x + sin(phi) u, with u a unit tangent at x. *Before* is what the matcher would see
without the turn: where erase comes first, the erased embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.matching import Change, Comparison, Rows, Sides, TooFewPeople
from lab.verification import Floats, Unit

Protect = Callable[[Unit, float], Rows]  # (n, d) float32 unit rows and phi in radians, to (n, d) unit rows
# A direction with less than this outside the line through x names no tangent.
_TINY = 1e-9
# Radians. A turned float32 template and its score are off by a few 1e-7, which a certificate must not overlook.
_ROUNDING = 1e-6


def angles(first: Rows, second: Rows) -> Floats:
    """The angle of each pair of rows, in radians.

    2 atan2(|x - y|, |x + y|) (Kahan, "How futile are mindless assessments of roundoff", 2006, "mangled angles"): the
    arccos of a cosine loses half of the digits near 0 and pi.

    Args:
        first: (n, d) unit rows.
        second: (n, d) unit rows.

    Returns:
        (n,) float64 in 0..pi.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    found: Floats = 2 * np.arctan2(np.linalg.norm(x - y, axis=1), np.linalg.norm(x + y, axis=1))
    return found


def turn(unit: Rows, direction: Rows, phi: ArrayLike) -> Floats:
    """Turns rows along the great circle toward a direction.

    With direction y itself this is the strongest attack on a decision between x and y: every radian counts.

    Args:
        unit: (n, d) unit rows.
        direction: (n, d) of any length; only the part tangent at the row matters.
        phi: (n,) or scalar, radians; negative turns away.

    Returns:
        (n, d) float64, unit rows.

    Raises:
        ValueError: a direction is parallel to its row, so that it names no tangent.
    """
    x = unit.astype(np.float64)
    tangent = direction - np.sum(direction * x, axis=1, keepdims=True) * x
    length = np.linalg.norm(tangent, axis=1, keepdims=True)
    if np.any(~(length > _TINY * np.linalg.norm(direction, axis=1, keepdims=True))):
        raise ValueError("a direction that is parallel to its row names no turn")
    tangent = tangent / length
    # A second time, for what rounding leaves of the row in a short tangent.
    tangent -= np.sum(tangent * x, axis=1, keepdims=True) * x
    angle = np.broadcast_to(np.asarray(phi, dtype=np.float64), len(x))[:, None]
    turned = np.cos(angle) * x + np.sin(angle) * tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
    found: Floats = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return found


def random_turn(unit: Rows, phi: ArrayLike, random: np.random.Generator) -> Floats:
    """Turns each row by phi in its own uniformly random tangent direction: noise of a given angle.

    Args:
        unit: (n, d) unit rows.
        phi: (n,) or scalar, radians.
        random: draws the directions.

    Returns:
        (n, d) float64, unit rows.
    """
    return turn(unit, random.normal(size=unit.shape), phi)


@dataclass(frozen=True, slots=True)
class Flips:
    """Decisions that changed.

    Attributes:
        rejected: pairs accepted before and rejected after.
        accepted: pairs rejected before and accepted after.
        pairs: how many there are.
    """

    rejected: int
    accepted: int
    pairs: int

    @property
    def rate(self) -> float:
        """Changed decisions as a share of all."""
        return (self.rejected + self.accepted) / self.pairs


def flips(before: ArrayLike, after: ArrayLike, tau: float) -> Flips:
    """Counts the decisions that change between two sets of angles.

    Args:
        before: (n,) radians, n > 0.
        after: (n,) radians, of the same pairs.
        tau: cosine.

    Raises:
        ValueError: no pairs, not as many after as before, or not angles.
    """
    theta, turned = _angles(before), _angles(after)
    if theta.shape != turned.shape or not theta.size:
        raise ValueError("as many angles after as before are needed, and at least one")
    first, second = theta <= _angle_of(tau), turned <= _angle_of(tau)
    return Flips(int(np.sum(first & ~second)), int(np.sum(~first & second)), theta.size)


def angle_bounds(theta: ArrayLike, phi_x: ArrayLike, phi_y: ArrayLike) -> tuple[Floats, Floats]:
    """The least and the greatest angle a pair can have once its sides are turned by at most phi_x and phi_y.

    |theta' - theta| <= phi_x + phi_y, the triangle inequality of angles on the sphere, used twice; both ends are
    reached by turns along the great circle through the pair.

    Args:
        theta: (n,) radians, before.
        phi_x: (n,) or scalar, radians.
        phi_y: (n,) or scalar, radians; 0 if only the probe is turned.

    Raises:
        ValueError: theta is not an angle in 0..pi, or a phi is negative.
    """
    before, reach = _angles(theta), _turns(phi_x) + _turns(phi_y)
    return np.maximum(before - reach, 0.0), np.minimum(before + reach, math.pi)


def can_flip(theta: ArrayLike, tau: float, phi_x: ArrayLike, phi_y: ArrayLike) -> NDArray[np.bool_]:
    """Which decisions some turn of at most phi_x and phi_y changes: no turn at all changes the others.

    Args:
        theta: (n,) radians, before.
        tau: cosine.
        phi_x: (n,) or scalar, radians.
        phi_y: (n,) or scalar, radians; 0 if only the probe is turned.
    """
    low, high = angle_bounds(theta, phi_x, phi_y)
    limit = _angle_of(tau)
    found: NDArray[np.bool_] = np.where(_angles(theta) <= limit, high > limit, low <= limit)
    return found


@dataclass(frozen=True, slots=True)
class CertifiedBudget:
    """How far each protected side may be turned, in whatever direction.

    Attributes:
        genuine: radians a side that flip at most a share alpha of the decisions on genuine pairs.
        impostor: the same on impostor pairs.
        alpha: that share.
    """

    genuine: float
    impostor: float
    alpha: float

    @property
    def phi(self) -> float:
        """The smaller of both, radians a side."""
        return min(self.genuine, self.impostor)


def certified_budget(
    genuine: ArrayLike, impostor: ArrayLike, tau: float, alpha: float, *, sides: Sides = "both"
) -> CertifiedBudget:
    """The split-conformal budget: whoever chooses the turns, at most a share alpha of decisions flips.

    A decision can flip only if its margin |theta - theta_tau| is used up by the turns of the protected sides. With m
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
    * Genuine and impostor pairs are apart: alpha holds for each kind.

    Args:
        genuine: (n,) radians, angles of genuine pairs, one pair a person.
        impostor: (m,) radians, angles of impostor pairs, nobody in two of them.
        tau: cosine.
        alpha: share of decisions that may flip, in 0..1 without the ends.
        sides: ``both`` are turned, each by the budget, or only the ``probe``, which may then use the whole margin.

    Raises:
        TooFewPeople: under ceil(1 / alpha) - 1 pairs of a kind: no budget but 0 has the guarantee.
        ValueError: not angles, or alpha or tau out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError("alpha is a share between 0 and 1")
    found = [_conformal(_angles(theta), tau, alpha, 2 if sides == "both" else 1) for theta in (genuine, impostor)]
    return CertifiedBudget(found[0], found[1], alpha)


def _conformal(theta: Floats, tau: float, alpha: float, sides: int) -> float:
    exact = Fraction(str(float(alpha)))  # 0.29 * 100 is 28.999... as a float
    rank = math.floor(exact * (theta.size + 1))
    if rank == 0:
        needed = math.ceil(1 / exact) - 1
        raise TooFewPeople(
            f"A share of {alpha:g} needs {needed} pairs of a kind, one a person, and {theta.size} are there; "
            "add people or allow a larger share.",
            needed=needed,
            found=theta.size,
        )
    margin = np.sort(np.abs(theta - _angle_of(tau)))[rank - 1] / sides
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
    protect: Protect,
    comparison: Comparison,
    tolerance: Tolerance,
    *,
    phi_max: float,
    steps: int = 32,
    checks: int = 4,
) -> StatisticalBudget:
    """The largest phi at which the upper bounds of FNMR and FMR stay within the tolerance of the clean system's.

    A binary search over phi_max / steps, 2 phi_max / steps, ... phi_max finds a candidate. Errors need not rise
    steadily with phi, so the candidate is then verified, with other draws of people, together with phis spread evenly
    below it: a sample may be turned by less than the budget. Where one of them fails, the step below it is the next
    candidate, and is verified the same way.

    Each bound holds for one phi by itself; the best of several tries is a little lucky. Report the figures of the
    chosen phi on people who had no part in the choice.

    Args:
        protect: (n, d) float32 unit rows and phi in radians, to (n, d) unit rows, each turned by at most phi.
        comparison: the clean embeddings, people, pairs, threshold, and which sides are protected.
        tolerance: allowed rises.
        phi_max: radians, the largest phi of interest.
        steps: how finely phi is told.
        checks: phis verified, the candidate among them.

    Raises:
        ValueError: ``protect`` gave something that is not unit rows, or phi_max, steps or checks are not positive.
    """
    if not (phi_max > 0 and steps > 0 and checks > 0):
        raise ValueError("phi_max, steps and checks are positive")
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
    while good:
        verified = sorted({math.ceil(good * share / checks) for share in range(1, checks + 1)})
        failed = next((step for step in verified if not within(step, 1)), None)
        if failed is None:
            break
        good = failed - 1
    return StatisticalBudget(phi_max * good / steps, tuple(visited[key] for key in sorted(visited)))


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of a score: float64, shaped as what they were asked for."""

    mean: Floats
    variance: Floats


def random_direction_score(score: ArrayLike, phi_x: ArrayLike, phi_y: ArrayLike, dim: int) -> Moments:
    """The score of a pair after both sides were turned in independent, uniformly random directions.

    s' = cx cy s + cx sy <x, v> + sx cy <u, y> + sx sy <u, v>, with c and s the cosine and sine of each phi, u and v
    uniform on the unit tangents at x and y. They have mean 0 and covariances (I - xx^T) / (d - 1) and (I - yy^T) / (d
    - 1), and are independent, so the last three terms are uncorrelated with mean 0, and exactly

        mean     = cx cy s
        variance = (cx^2 sy^2 + sx^2 cy^2) (1 - s^2) / (d - 1) + sx^2 sy^2 (d - 2 + s^2) / (d - 1)^2.

    The shorter [2a(1-a) + (1-a)^2] / d = (1 - a^2) / d with a = cx cy is this at s = 0 for large d. Away from s = 0 it
    is too large: at s = 0.6 and two turns of 15 degrees by a factor of 1.5.

    Args:
        score: (n,) or scalar, cosine before.
        phi_x: (n,) or scalar, radians.
        phi_y: (n,) or scalar, radians; 0 if only the probe is turned.
        dim: d, length of an embedding, at least 2.

    Raises:
        ValueError: under two dimensions, where there is no direction to choose.
    """
    if dim < 2:
        raise ValueError("a turn needs two dimensions")
    s = np.asarray(score, dtype=np.float64)
    x, y = np.asarray(phi_x, dtype=np.float64), np.asarray(phi_y, dtype=np.float64)
    single = (np.cos(x) * np.sin(y)) ** 2 + (np.sin(x) * np.cos(y)) ** 2
    double = (np.sin(x) * np.sin(y)) ** 2
    variance = single * (1 - s**2) / (dim - 1) + double * (dim - 2 + s**2) / (dim - 1) ** 2
    return Moments(np.cos(x) * np.cos(y) * s, np.asarray(variance))


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
    limit: Floats = np.minimum(np.maximum(slope * (np.arccos(nearest) - _angle_of(tau)), 0.0), phi_max)
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
    limit: Floats = np.minimum(np.maximum(slope * (_angle_of(tau) - _angles(expected)), 0.0), phi_max)
    return limit


@dataclass(frozen=True, slots=True)
class Limits:
    """The limit of each sample, and how many may not be turned at all.

    Attributes:
        phi: (n,) float64, radians.
        unturned: samples with phi = 0. They go unprotected by the turn, so they are reported and never passed over.
        unturned_by: for each source, the samples to which it gives 0; a sample may count in several.
    """

    phi: Floats
    unturned: int
    unturned_by: dict[str, int]


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


def _angle_of(tau: float) -> float:
    if not -1 < tau < 1:
        raise ValueError("tau is a cosine between -1 and 1")
    return math.acos(tau)


def _angles(theta: ArrayLike) -> Floats:
    found = np.asarray(theta, dtype=np.float64)
    if not np.all((found >= 0) & (found <= math.pi)):
        raise ValueError("angles are radians in 0..pi")
    return found


def _turns(phi: ArrayLike) -> Floats:
    found = np.asarray(phi, dtype=np.float64)
    if not np.all(found >= 0):
        raise ValueError("a turn is an angle of at least 0")
    return found
