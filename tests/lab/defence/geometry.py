"""Rotations of embeddings on the sphere, computed independently of the budgets that they test.

x, y are unit vectors, theta = arccos <x, y>; a pair is accepted at cos theta >= tau, that is theta <= theta_tau.
Protection rotates x into cos(phi) x + sin(phi) u, with u a unit tangent at x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.data.matching import AnyRows
from lab.data.verification import Floats
from lab.defence.budget import angle_of, checked_angles

# A direction with less than this outside the line through x names no tangent.
_TINY = 1e-9


def angles(first: AnyRows, second: AnyRows) -> Floats:
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


def rotated(unit: AnyRows, direction: AnyRows, phi: ArrayLike) -> Floats:
    """Rotates rows along the great circle toward a direction.

    With direction y itself this is the strongest attack on a decision between x and y: every radian counts.

    Args:
        unit: (n, d) unit rows.
        direction: (n, d) of any length; only the part tangent at the row matters.
        phi: (n,) or scalar, radians; negative rotates away.

    Returns:
        (n, d) float64, unit rows.

    Raises:
        ValueError: a direction is parallel to its row, so that it names no tangent.
    """
    x = unit.astype(np.float64)
    tangent = direction - np.sum(direction * x, axis=1, keepdims=True) * x
    length = np.linalg.norm(tangent, axis=1, keepdims=True)
    if np.any(~(length > _TINY * np.linalg.norm(direction, axis=1, keepdims=True))):
        raise ValueError("a direction that is parallel to its row names no rotation")
    tangent = tangent / length
    # A second time, for what rounding leaves of the row in a short tangent.
    tangent -= np.sum(tangent * x, axis=1, keepdims=True) * x
    angle = np.broadcast_to(np.asarray(phi, dtype=np.float64), len(x))[:, None]
    rotated_rows = np.cos(angle) * x + np.sin(angle) * tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
    found: Floats = rotated_rows / np.linalg.norm(rotated_rows, axis=1, keepdims=True)
    return found


def random_rotation(unit: AnyRows, phi: ArrayLike, random: np.random.Generator) -> Floats:
    """Rotates each row by phi in its own uniformly random tangent direction: noise of a given angle.

    Args:
        unit: (n, d) unit rows.
        phi: (n,) or scalar, radians.
        random: draws the directions.

    Returns:
        (n, d) float64, unit rows.
    """
    return rotated(unit, random.normal(size=unit.shape), phi)


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
    theta, changed = checked_angles(before), checked_angles(after)
    if theta.shape != changed.shape or not theta.size:
        raise ValueError("as many angles after as before are needed, and at least one")
    first, second = theta <= angle_of(tau), changed <= angle_of(tau)
    return Flips(int(np.sum(first & ~second)), int(np.sum(~first & second)), theta.size)


def angle_bounds(theta: ArrayLike, phi_x: ArrayLike, phi_y: ArrayLike) -> tuple[Floats, Floats]:
    """The least and the greatest angle a pair can have once its sides are rotated by at most phi_x and phi_y.

    |theta' - theta| <= phi_x + phi_y, the triangle inequality of angles on the sphere, used twice; both ends are
    reached by rotations along the great circle through the pair.

    Args:
        theta: (n,) radians, before.
        phi_x: (n,) or scalar, radians.
        phi_y: (n,) or scalar, radians; 0 if only the probe is rotated.

    Raises:
        ValueError: theta is not an angle in 0..pi, or a phi is negative.
    """
    before, reach = checked_angles(theta), checked_limits(phi_x) + checked_limits(phi_y)
    return np.maximum(before - reach, 0.0), np.minimum(before + reach, math.pi)


def can_flip(theta: ArrayLike, tau: float, phi_x: ArrayLike, phi_y: ArrayLike) -> NDArray[np.bool_]:
    """Which decisions a rotation of at most phi_x and phi_y can change; no rotation changes the others.

    Args:
        theta: (n,) radians, before.
        tau: cosine.
        phi_x: (n,) or scalar, radians.
        phi_y: (n,) or scalar, radians; 0 if only the probe is rotated.
    """
    low, high = angle_bounds(theta, phi_x, phi_y)
    limit = angle_of(tau)
    found: NDArray[np.bool_] = np.where(checked_angles(theta) <= limit, high > limit, low <= limit)
    return found


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of a score: float64, shaped as what they were asked for."""

    mean: Floats
    variance: Floats


def random_direction_score(score: ArrayLike, phi_x: ArrayLike, phi_y: ArrayLike, dim: int) -> Moments:
    """The score of a pair after both sides were rotated in independent, uniformly random directions.

    s' = cx cy s + cx sy <x, v> + sx cy <u, y> + sx sy <u, v>, with c and s the cosine and sine of each phi, u and v
    uniform on the unit tangents at x and y. They have mean 0 and covariances (I - xx^T) / (d - 1) and (I - yy^T) / (d
    - 1), and are independent, so the last three terms are uncorrelated with mean 0, and exactly

        mean     = cx cy s
        variance = (cx^2 sy^2 + sx^2 cy^2) (1 - s^2) / (d - 1) + sx^2 sy^2 (d - 2 + s^2) / (d - 1)^2.

    The shorter [2a(1-a) + (1-a)^2] / d = (1 - a^2) / d with a = cx cy is this at s = 0 for large d. Away from s = 0 it
    is too large: at s = 0.6 and two rotations of 15 degrees by a factor of 1.5.

    Args:
        score: (n,) or scalar, cosine before.
        phi_x: (n,) or scalar, radians.
        phi_y: (n,) or scalar, radians; 0 if only the probe is rotated.
        dim: d, length of an embedding, at least 2.

    Raises:
        ValueError: under two dimensions, where there is no direction to choose.
    """
    if dim < 2:
        raise ValueError("a rotation needs two dimensions")
    s = np.asarray(score, dtype=np.float64)
    x, y = np.asarray(phi_x, dtype=np.float64), np.asarray(phi_y, dtype=np.float64)
    single = (np.cos(x) * np.sin(y)) ** 2 + (np.sin(x) * np.cos(y)) ** 2
    double = (np.sin(x) * np.sin(y)) ** 2
    variance = single * (1 - s**2) / (dim - 1) + double * (dim - 2 + s**2) / (dim - 1) ** 2
    return Moments(np.cos(x) * np.cos(y) * s, np.asarray(variance))


def checked_limits(phi: ArrayLike) -> Floats:
    """Float64 radians; ValueError where one is negative or not a number."""
    found = np.asarray(phi, dtype=np.float64)
    if not np.all(found >= 0):
        raise ValueError("limits of an angle must be >= 0 radians")
    return found
