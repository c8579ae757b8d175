"""Statistics that a network is given and does not learn: erase matrix, cohort, spread of directions, target of scores.

The cohort of impostors, against which every embedding's margin is measured, holds no real person. A profile is
published, and an embedding can be turned into a face. The cohort is drawn from a Gaussian with the mean and covariance
of many people's embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from lab.data.matching import genuine_pairs
from lab.data.splits import Material, PeopleRows
from lab.data.verification import Floats, ImpostorScores, Ints, all_impostors
from lab.defence.erase import Scatter, erase_matrix, erased, mixed, scatter
from lab.defence.network import NetworkShape, PatronusNetwork
from lab.progress import progress


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
_TRIED: Final = (0, 8, 16, 20, 24, 28, 32, 40, 48, 64)
# Share of d that may be given up at most: what is left must still tell people apart.
_MOST: Final = 0.5
# Share of the clean system's FMR that scores are trained for: what the network fails to keep is mostly false matches.
_IN_HAND: Final = 0.95
# What scores may be multiplied by, to bring FMR back to where it was.
_SCALES: Final = (0.5, 1.05)
# Share of genuine pairs that the erase step may lose in folds, at any of the points of the ROC below. Folds fit on
# two fifths fewer people than the final step.
_LOST: Final = 0.0035
# False match rates at which the erase step is judged, beside the clean system's at tau.
STRICT: Final = (1e-3, 1e-4)
_FOLDS: Final = 5
_BALANCED_ON: Final = 1500
# Genuine pairs of each person that a way is judged on.
_PAIRS: Final = 100


@dataclass(frozen=True, slots=True)
class Way:
    """One way to erase.

    Attributes:
        directions: removed.
        wiener: strength of the shrinking of the rest.
        keeps_mean: whether the direction of the mean face is left as it is.
    """

    directions: int = 0
    wiener: float = 0.0
    keeps_mean: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A way to erase, and what it did to people who did not fit it.

    Attributes:
        way: which.
        tar: (sources, points) share of genuine pairs accepted, every person counted once; the points are those of
            ``_points``.
    """

    way: Way
    tar: Floats


@dataclass(slots=True)
class Fitted:
    """The frozen part of a network.

    Attributes:
        eraser: (d, d) float64, or None where a profile does not erase.
        cohort: (m, d) float32, unit rows, synthetic, in the erased space.
        shape: (d, d) float32.
        within: (d, d) float32, a root of the scatter within people.
        scale: what protected cosines are to be of erased ones, so that FMR at tau is the clean system's.
        way: the way to erase that cross-validation chose.
    """

    eraser: Floats | None
    cohort: NDArray[np.float32]
    shape: NDArray[np.float32]
    within: NDArray[np.float32]
    scale: float
    way: Way = Way()


def fit(material: Material, tau: float, *, erases: bool, cohort: int, seed: int) -> Fitted:
    """Fits the erase step, and chooses it by cross-validation over people, of whom none calibrates or tests.

    Args:
        material: the faces.
        tau: cosine threshold.
        erases: whether the profile has an erase step.
        cohort: how many synthetic impostors.
        seed: of cohort and folds.
    """
    sources = material.fitting()
    everyone = _mixed(sources)
    within = _root(everyone.within).astype(np.float32)
    if not erases:
        seen = material.learned
        return Fitted(None, synthetic_cohort(seen, cohort, seed), covariance_root(seen), within, 1.0)
    way = best_of(cross_validated(sources, tau, seed)).way
    matrix = _matrix(everyone, way, sources, tau)
    scale = min(_scale(source, matrix, tau) for source in sources)
    seen = erased(material.learned, matrix)
    return Fitted(matrix, synthetic_cohort(seen, cohort, seed), covariance_root(seen), within, scale, way)


def fit_again(material: Material, way: Way, tau: float, more: PeopleRows) -> Floats:
    """The erase matrix of a way that was chosen, fitted with these further people instead of the material's."""
    sources = [material.fitting()[0], more]
    return _matrix(_mixed(sources), way, sources, tau)


def _scale(source: PeopleRows, matrix: Floats, tau: float) -> float:
    """What cosines are to be multiplied by, so that FMR at tau is a little under the clean system's."""
    fmr = all_impostors(source.unit, source.people).fmr(tau)
    after = all_impostors(erased(source.unit, matrix), source.people).threshold_at(_IN_HAND * fmr)
    return float(np.clip(tau / after, *_SCALES)) if after > 0 else 1.0


def _mixed(sources: Sequence[PeopleRows], at_least: int | None = None) -> Scatter:
    """One scatter of several sources; the first has as many people as there are dimensions, or so many."""
    return mixed(
        [scatter(source.unit, source.people, at_least if number == 0 else 1) for number, source in enumerate(sources)]
    )


def best_of(tried: list[Choice]) -> Choice:
    """Of all ways that accept as many genuine pairs as the clean system, nearly and at every point of the ROC, the one
    that removes most directions; of these, the one that accepts most.
    """
    clean = next(choice for choice in tried if choice.way == Way())  # E is the identity
    good = [choice for choice in tried if (choice.tar >= clean.tar - _LOST).all()]
    return max(good, key=lambda choice: (choice.way.directions, choice.tar.mean()))


def cross_validated(sources: Sequence[PeopleRows], tau: float, seed: int) -> list[Choice]:
    """Every way to erase, judged on people who did not fit it; the identity among them.

    Two of five folds at a time: the strict points of the ROC are decided by a few pairs of people who look alike, and
    folds by themselves hold a fifth of them.
    """
    random = np.random.default_rng(seed)
    folds = [random.integers(0, _FOLDS, source.people.max() + 1)[source.people] for source in sources]
    parts = [
        (
            [source.only(~np.isin(fold, both)) for source, fold in zip(sources, folds, strict=True)],
            [[source.only(fold == at) for at in both] for source, fold in zip(sources, folds, strict=True)],
        )
        for both in combinations(range(_FOLDS), 2)
    ]
    # Without two folds there are fewer people than the final fit has; the smallest directions suffer in all ways alike.
    found = [_mixed(known, at_least=1) for known, _ in parts]
    fmr = [all_impostors(source.unit, source.people).fmr(tau) for source in sources]
    most = _MOST * sources[0].unit.shape[1]
    ways = [Way(k, wiener, keeps) for keeps in (False, True) for wiener in _WIENER for k in _TRIED if k <= most]
    tried = []
    for way in progress(ways, "erase step", len(ways)):
        judged: list[list[list[PeopleRows]]] = [[] for _ in sources]
        for scatters, (known, own) in zip(found, parts, strict=True):
            matrix = _matrix(scatters, way, known, tau)
            for kept, both in zip(judged, own, strict=True):
                kept.append([PeopleRows(erased(part.unit, matrix), part.people) for part in both])
        tar = [_points(kept, allowed, tau) for kept, allowed in zip(judged, fmr, strict=True)]
        tried.append(Choice(way, np.array(tar)))
    return tried


def _points(parts: Sequence[Sequence[PeopleRows]], fmr: float, tau: float) -> Floats:
    """TAR of all together, every person counted once, at points of the ROC.

    The first is tau, or the threshold where FMR is the clean system's at tau, where that is higher: what raises scores
    makes room for perturbation, which lowers them, and what lowers them cannot be mended. The others are ``STRICT``.

    Args:
        parts: two folds each, every two of them once.
        fmr: of the clean system at tau.
        tau: cosine threshold.
    """
    impostors: Ints = np.zeros(1, np.int64)
    scores, weights = [], []
    for both in parts:
        unit, people = (np.concatenate(each) for each in zip(*((part.unit, part.people) for part in both), strict=True))
        inside = sum(all_impostors(part.unit, part.people).counts for part in both)
        # A pair within one fold is compared with each of the other folds, and counts once.
        impostors = impostors + (_FOLDS - 1) * all_impostors(unit, people).counts - (_FOLDS - 2) * inside
        pairs = genuine_pairs(people, most=_PAIRS)
        whose = people[pairs[:, 0]]
        scores.append(np.sum(unit[pairs[:, 0]].astype(np.float64) * unit[pairs[:, 1]], axis=1))
        weights.append(1 / np.bincount(whose)[whose])
    found = ImpostorScores(impostors)
    thresholds = [max(tau, found.threshold_at(fmr)), *(found.threshold_at(rate) for rate in STRICT)]
    every, weight = np.concatenate(scores), np.concatenate(weights)
    return np.array([np.average(every >= threshold, weights=weight) for threshold in thresholds])


def _matrix(found: Scatter, way: Way, sources: Sequence[PeopleRows], tau: float) -> Floats:
    """The erase matrix of a way. Where it keeps the direction of the mean face, that says how alike faces are.

    What is left after erasing brings strangers closer together in some embedders (dlib's have cosine 0.8 to begin with)
    and all faces further apart in others. So all but the mean is multiplied by a gain, such that FMR at tau is as it
    was: of several sources, in the geometric mean.
    """
    if not way.keeps_mean:
        return erase_matrix(found, way.directions, way.wiener)
    mean = sources[0].unit.astype(np.float64).mean(axis=0)
    axis = mean / np.linalg.norm(mean)
    common = np.outer(axis, axis)
    rest = np.eye(len(mean)) - common
    # As if people differed along the mean too: else it were the first direction to be given up.
    between = rest @ found.between @ rest + np.trace(found.between) / len(mean) * common
    apart = Scatter(rest @ found.within @ rest, between, found.people)
    matrix = erase_matrix(apart, way.directions, way.wiener) - common
    few = [_few(source) for source in sources]
    before = _log_fmr(few, tau)
    low, high = 0.2, 5.0
    for _ in range(9):
        gain = float(np.sqrt(low * high))
        with_gain = common + gain * matrix
        above = _log_fmr([PeopleRows(erased(source.unit, with_gain), source.people) for source in few], tau) > before
        low, high = (gain, high) if above else (low, gain)
    return np.asarray(common + high * matrix)


def _log_fmr(sources: Sequence[PeopleRows], tau: float) -> float:
    """The mean logarithm of the sources' FMR at tau, with half a false match added to each."""
    found = [all_impostors(source.unit, source.people) for source in sources]
    return float(np.mean([np.log(each.fmr(tau) + 0.5 / each.pairs) for each in found]))


def _few(source: PeopleRows) -> PeopleRows:
    """Some of the pictures, evenly spread: enough for a rate of false matches."""
    rows = np.linspace(0, len(source.unit) - 1, min(len(source.unit), _BALANCED_ON)).astype(int)
    return PeopleRows(np.ascontiguousarray(source.unit[rows]), source.people[rows])


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
