"""Statistics that a network is given and does not learn: erase matrix, cohort, spread of directions, target of scores.

The cohort of impostors, against which every embedding's margin is measured, holds no real person. A profile is
published, and an embedding can be turned into a face. The cohort is drawn from a Gaussian with the mean and covariance
of many people's embeddings.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from lab.data.matching import genuine_pairs
from lab.data.splits import FIT, Material
from lab.data.verification import Floats, Rows, all_impostors
from lab.defence.erase import Scatter, erase_matrix, erased, scatter
from lab.defence.network import NetworkShape, PatronusNetwork


def synthetic_cohort(unit: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Draws people who do not exist: (count, d) float32, unit rows.

    Args:
        unit: (n, d) float32, unit rows, of many people.
        count: how many to draw.
        seed: of the draws.
    """
    rows = unit.astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    root = vectors * np.sqrt(values.clip(min=0))
    drawn = rows.mean(axis=0) + np.random.default_rng(seed).standard_normal((count, rows.shape[1])) @ root.T
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


def covariance_root(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """The symmetric root of the covariance, scaled to mean 1: (d, d) float32.

    Directions shaped by it have the energy of real faces in every direction: what lies where no face does, an attacker
    would simply project away.
    """
    root = _root(np.cov(unit.astype(np.float64).T))
    return np.asarray(root * len(root) / np.trace(root), dtype=np.float32)


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def digest(rows: NDArray[np.float32]) -> str:
    """Hex SHA-256 of the little-endian float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<f4").tobytes()).hexdigest()


# So steep that any angle to the cohort gives phi_max.
_NO_SLOPE: Final = 1e4
_WIENER: Final = (0.0, 0.5, 1.0)
_TRIED: Final = (0, 8, 16, 24, 32, 40, 48, 64)
# Share of d that may be given up at most: what is left must still tell people apart.
_MOST: Final = 0.5
# Share of the clean system's FMR that scores are trained for: what the network fails to keep is mostly false matches.
_IN_HAND: Final = 0.95
# What scores may be multiplied by, to bring FMR back to where it was.
_SCALES: Final = (0.5, 1.05)
# Share of genuine pairs that the erase step may lose in folds, which fit on a fifth fewer people than the final step.
_LOST: Final = 0.0035
_FOLDS: Final = 5
_ROUNDS: Final = 2
_BALANCED_ON: Final = 1000


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to erase, and what it did to people who did not fit it.

    Attributes:
        directions: removed.
        wiener: strength of the shrinking of the rest.
        keeps_mean: whether the direction of the mean face is left as it is.
        tar: share of genuine pairs accepted, every person counted once, at tau or at the threshold where FMR is the
            clean system's at tau, where that is higher: what raises scores makes room for perturbation, which lowers
            them, and what lowers them cannot be mended.
    """

    directions: int
    wiener: float
    keeps_mean: bool
    tar: float


@dataclass(slots=True)
class Fitted:
    """The frozen part of a network.

    Attributes:
        eraser: (d, d) float64, or None where a profile does not erase.
        cohort: (m, d) float32, unit rows, synthetic, in the erased space.
        shape: (d, d) float32.
        within: (d, d) float32, a root of the scatter within people.
        scale: what protected cosines are to be of erased ones, so that FMR at tau is the clean system's.
    """

    eraser: Floats | None
    cohort: NDArray[np.float32]
    shape: NDArray[np.float32]
    within: NDArray[np.float32]
    scale: float


def fit(material: Material, tau: float, *, erases: bool, cohort: int, seed: int) -> Fitted:
    """Fits the erase step, and chooses it by cross-validation over people, of whom none calibrates or tests.

    Args:
        material: the faces.
        tau: cosine threshold.
        erases: whether the profile has an erase step.
        cohort: how many synthetic impostors.
        seed: of cohort and folds.
    """
    rows = material.labelled.rows(FIT)
    unit, people = material.labelled.unit[rows], material.labelled.people[rows]
    everyone = scatter(unit, people)
    within = _root(everyone.within).astype(np.float32)
    if not erases:
        seen = material.learned
        return Fitted(None, synthetic_cohort(seen, cohort, seed), covariance_root(seen), within, 1.0)
    mean = material.learned.astype(np.float64).mean(axis=0)
    chosen = best_of(cross_validated(unit, people, mean, tau, seed))
    way = (chosen.directions, chosen.wiener, chosen.keeps_mean)
    matrix = _matrix(everyone, mean, way, unit, people, tau)
    fmr = all_impostors(unit, people).fmr(tau)
    after = all_impostors(erased(unit, matrix), people).threshold_at(_IN_HAND * fmr)
    scale = float(np.clip(tau / after, *_SCALES)) if after > 0 else 1.0
    seen = erased(material.learned, matrix)
    return Fitted(matrix, synthetic_cohort(seen, cohort, seed), covariance_root(seen), within, scale)


def best_of(tried: list[Choice]) -> Choice:
    """Of all ways that accept as many genuine pairs as the clean system, nearly, the one that removes most directions;
    of these, the one that accepts most.
    """
    clean = next(choice for choice in tried if choice.directions == 0 and choice.wiener == 0)  # E is the identity
    good = [way for way in tried if way.tar >= clean.tar - _LOST]
    return max(good, key=lambda way: (way.directions, way.tar))


def cross_validated(unit: Rows, people: NDArray[np.int64], mean: Floats, tau: float, seed: int) -> list[Choice]:
    """Every way to erase, judged on people who did not fit it; the identity among them."""
    random = np.random.default_rng(seed)
    folds = [random.integers(0, _FOLDS, people.max() + 1)[people] for _ in range(_ROUNDS)]
    owns = [fold == at for fold in folds for at in range(_FOLDS)]
    # With a fold less there are fewer people than the final fit has; the smallest directions suffer in all ways alike.
    found = [scatter(unit[~own], people[~own], at_least=1) for own in owns]
    most = _MOST * unit.shape[1]
    ways = [(k, wiener, keeps) for keeps in (False, True) for wiener in _WIENER for k in _TRIED if k <= most]
    tried = []
    for way in track(ways, "erase step", console=Console(stderr=True)):
        parts = []
        for known, own in zip(found, owns, strict=True):
            matrix = _matrix(known, mean, way, unit[~own], people[~own], tau)
            parts.append(_accepted(unit[own], people[own], matrix, tau))
        shares, weights = zip(*parts, strict=True)
        tried.append(Choice(*way, float(np.average(shares, weights=weights))))
    return tried


def _accepted(unit: Rows, people: NDArray[np.int64], matrix: Floats, tau: float) -> tuple[float, int]:
    """TAR with every person counted once, and how many people; see ``Choice``."""
    rows = erased(unit, matrix)
    pairs = genuine_pairs(people)
    whose = people[pairs[:, 0]]
    scores = np.sum(rows[pairs[:, 0]].astype(np.float64) * rows[pairs[:, 1]], axis=1)
    allowed = all_impostors(unit, people).fmr(tau)
    at = max(tau, all_impostors(rows, people).threshold_at(allowed))
    tar = np.average(scores >= at, weights=1 / np.bincount(whose)[whose])
    return float(tar), len(np.unique(whose))


def _matrix(
    found: Scatter, mean: Floats, way: tuple[int, float, bool], unit: Rows, people: NDArray[np.int64], tau: float
) -> Floats:
    """The erase matrix of a way. Where it keeps the direction of the mean face, that says how alike faces are.

    What is left after erasing brings strangers closer together in some embedders (dlib's have cosine 0.8 to begin with)
    and all faces further apart in others. So all but the mean is multiplied by a gain, such that FMR is as it was.
    """
    directions, wiener, keeps_mean = way
    if not keeps_mean:
        return erase_matrix(found, directions, wiener)
    axis = mean / np.linalg.norm(mean)
    common = np.outer(axis, axis)
    rest = np.eye(len(mean)) - common
    # As if people differed along the mean too: else it were the first direction to be given up.
    between = rest @ found.between @ rest + np.trace(found.between) / len(mean) * common
    matrix = erase_matrix(Scatter(rest @ found.within @ rest, between, found.people), directions, wiener) - common
    few = np.linspace(0, len(unit) - 1, min(len(unit), _BALANCED_ON)).astype(int)
    unit, people = unit[few], people[few]
    fmr = all_impostors(unit, people).fmr(tau)
    low, high = 0.2, 5.0
    for _ in range(9):
        gain = float(np.sqrt(low * high))
        above = all_impostors(erased(unit, common + gain * matrix), people).fmr(tau) > fmr
        low, high = (gain, high) if above else (low, gain)
    return np.asarray(common + high * matrix)


def network_of(fitted: Fitted, phi_max: float, seed: int) -> PatronusNetwork:
    """An untrained network with all that was fitted, which lets every face use phi_max; see ``limited_by_cohort``.

    Args:
        fitted: the frozen part.
        phi_max: radians.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    both = fitted.eraser is not None
    network = PatronusNetwork(NetworkShape(fitted.shape.shape[0], erases=both, rotates=both, cohort=len(fitted.cohort)))
    if fitted.eraser is not None:
        network.eraser.copy_(torch.from_numpy(fitted.eraser))
    network.cohort.copy_(torch.from_numpy(fitted.cohort))
    network.shape.copy_(torch.from_numpy(fitted.shape))
    for buffer, value in ((network.margin_from, 1.0), (network.phi_max, phi_max), (network.slope, _NO_SLOPE)):
        buffer.fill_(value)
    return network


def limited_by_cohort(network: PatronusNetwork, tau: float, slope: float) -> None:
    """Lets a face use its margin to the nearest impostor of the cohort, in place.

    Args:
        network: of ``network_of``.
        tau: cosine threshold, where the margin is zero.
        slope: the share of the margin that may be used.
    """
    network.margin_from.fill_(tau)
    network.slope.fill_(slope)
