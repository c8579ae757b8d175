"""What of a network is fitted and not trained: erase matrix, cohort, spread of directions, and the target of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from lab.cohort import covariance_root, synthetic_cohort
from lab.erase import erase_matrix, erased, scatter
from lab.network import NetworkShape, PatronusNetwork
from lab.parts import CALIBRATE, FIT, Labelled, Material
from lab.verification import ImpostorScores, all_impostors

Floats = NDArray[np.float64]
_WIENER: Final = (0.0, 0.5)
_TRIED: Final = (0, 8, 16, 24, 32, 40, 48, 64)
# Share of d that may be given up at most: what is left must still tell people apart.
_MOST: Final = 0.5
# Share of the clean system's FMR that scores are trained for: what the network fails to keep is mostly false matches.
_IN_HAND: Final = 0.9
# The erase step is to earn this much of TAR at the clean system's FMR, for the perturbation to spend.
_EARNED: Final = 0.005


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to erase, and what it did to people who calibrate.

    Attributes:
        directions: removed.
        wiener: strength of the shrinking of the rest.
        keeps_mean: whether the direction of the mean face is left as it is.
        tar: share of genuine pairs accepted where FMR is the clean system's at tau.
        tau: the threshold where that is.
    """

    directions: int
    wiener: float
    keeps_mean: bool
    tar: float
    tau: float


@dataclass(slots=True)
class Fitted:
    """The frozen part of a network.

    Attributes:
        eraser: (d, d) float64, or None where a profile does not erase.
        cohort: (m, d) float32, unit rows, synthetic, in the erased space.
        shape: (d, d) float32.
        within: (d, d) float32, a root of the scatter within people.
        scale: what protected cosines are to be of erased ones, so that FMR at tau is the clean system's.
        chosen: the erase step, if any.
        tried: all choices, for the record.
    """

    eraser: Floats | None
    cohort: NDArray[np.float32]
    shape: NDArray[np.float32]
    within: NDArray[np.float32]
    scale: float
    chosen: Choice | None
    tried: list[Choice]


def fit(material: Material, tau: float, *, erases: bool, cohort: int, seed: int) -> Fitted:
    """Fits the erase step on one part of the people and chooses it on another.

    Of all ways that accept half a percent more genuine pairs at the clean system's FMR than it does itself, the one
    that removes most directions is chosen; of these, the more accurate. Where none earns so much, the most accurate.

    Args:
        material: the faces.
        tau: cosine threshold.
        erases: whether the profile has an erase step.
        cohort: how many synthetic impostors.
        seed: of the cohort.
    """
    labelled = material.labelled
    rows = labelled.rows(FIT)
    found = scatter(labelled.unit[rows], labelled.people[rows])
    values, vectors = np.linalg.eigh(found.within)
    within = ((vectors * np.sqrt(values.clip(min=0))) @ vectors.T).astype(np.float32)
    if not erases:
        seen = material.learned
        return Fitted(None, synthetic_cohort(seen, cohort, seed), covariance_root(seen), within, 1.0, None, [])
    mean = material.learned.astype(np.float64).mean(axis=0)
    fmr = _impostors(labelled, labelled.unit, FIT).fmr(tau)
    tried = []
    dim = material.learned.shape[1]
    ways = [(k, wiener, keeps) for keeps in (False, True) for wiener in _WIENER for k in _TRIED if k <= dim * _MOST]
    matrices: dict[tuple[int, float, bool], Floats] = {}
    for directions, wiener, keeps in track(ways, "erase step", console=Console(stderr=True)):
        matrix = erase_matrix(found, directions, wiener)
        matrix = _balanced(matrix, mean, labelled, tau, fmr) if keeps else matrix
        matrices[directions, wiener, keeps] = matrix
        tried.append(_judged(labelled, matrix, (directions, wiener, keeps), tau))
    clean = next(choice for choice in tried if choice.directions == 0 and choice.wiener == 0)  # E is the identity
    good = [choice for choice in tried if choice.tar >= clean.tar + _EARNED]
    if good:
        chosen = max(good, key=lambda choice: (choice.directions, choice.tar))
    else:
        chosen = max(tried, key=lambda choice: (choice.tar, choice.directions))
    matrix = matrices[chosen.directions, chosen.wiener, chosen.keeps_mean]
    seen = erased(material.learned, matrix)
    after = _impostors(labelled, erased(labelled.unit, matrix), FIT).threshold_at(_IN_HAND * fmr)
    scale = float(min(1.0, tau / after)) if after > 0 else 1.0
    return Fitted(matrix, synthetic_cohort(seen, cohort, seed), covariance_root(seen), within, scale, chosen, tried)


def _balanced(matrix: Floats, mean: Floats, labelled: Labelled, tau: float, fmr: float) -> Floats:
    """An erase matrix that leaves the mean of all faces alone, and FMR at tau where it was as far as it can.

    Some embedders give all faces a large common part (dlib's have cosine 0.8 between strangers): erasing in what is
    left would bring all faces closer together. So the rest is multiplied by the gain that keeps FMR.
    """
    axis = mean / np.linalg.norm(mean)
    common = np.outer(axis, axis)
    rest = np.eye(len(mean)) - common
    matrix = rest @ matrix @ rest
    low, high = 0.5, 2.0
    for _ in range(8):
        gain = float(np.sqrt(low * high))
        above = _impostors(labelled, erased(labelled.unit, common + gain * matrix), FIT).fmr(tau) > fmr
        low, high = (gain, high) if above else (low, gain)
    return np.asarray(common + high * matrix)


def _judged(labelled: Labelled, matrix: Floats, way: tuple[int, float, bool], tau: float) -> Choice:
    clean = _impostors(labelled, labelled.unit, CALIBRATE).fmr(tau)
    rows = erased(labelled.unit, matrix)
    at = _impostors(labelled, rows, CALIBRATE).threshold_at(clean)
    pairs = labelled.pairs_of(CALIBRATE)
    scores = np.sum(rows[pairs[:, 0]].astype(np.float64) * rows[pairs[:, 1]], axis=1)
    return Choice(*way, float(np.mean(scores >= at)), at)


def _impostors(labelled: Labelled, rows: NDArray[np.float32], part: int) -> ImpostorScores:
    chosen = labelled.rows(part)
    return all_impostors(np.ascontiguousarray(rows[chosen]), labelled.people[chosen])


def network_of(fitted: Fitted, tau: float, phi_max: float, slope: float, seed: int) -> PatronusNetwork:
    """An untrained network with all that was fitted.

    Args:
        fitted: the frozen part.
        tau: cosine threshold.
        phi_max: radians.
        slope: of phi over the margin to the nearest of the cohort.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    shape = NetworkShape(fitted.shape.shape[0], erases=fitted.eraser is not None, cohort=len(fitted.cohort))
    network = PatronusNetwork(shape)
    if fitted.eraser is not None:
        network.eraser.copy_(torch.from_numpy(fitted.eraser))
    network.cohort.copy_(torch.from_numpy(fitted.cohort))
    network.shape.copy_(torch.from_numpy(fitted.shape))
    for buffer, value in ((network.tau, tau), (network.phi_max, phi_max), (network.slope, slope)):
        buffer.fill_(value)
    return network
