"""The curves of a profile, and its cost in accuracy, as ``profile.json`` holds them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.profiles.curves import Cost
from edge_service.protection.profiles.score import ScoreWeights
from edge_service.vision.embed import EMBEDDERS
from lab.data.matching import genuine_pairs
from lab.data.verification import Floats, ImpostorScores, Ints, Rows, all_impostors, histogram
from lab.evaluation.demographics import BANDS, Labels
from lab.evaluation.subjects.accuracy import draws_of_people, genuine_rows, interval, rule_scores
from lab.evaluation.subjects.scores import Population, enroll, weights_of
from shared.wire.common import BEST, SubjectScore
from shared.wire.curves import Histogram, MeasuredCurve

TEMPLATES: Final = (1, 3, 10)
# False match rates at which the cost is taken.
COST_RATES: Final = (1e-3, 1e-4, 1e-5)
# Cosines, multiples of 1e-4 as the bins of ``ImpostorScores`` are: coarse where no threshold lies (dlib: 0.927).
# The embedders' own thresholds are among them, so that they have rates of their own.
_THRESHOLDS: Final = np.unique(
    np.round(
        np.concatenate(
            [
                np.arange(-0.2, 0.2, 0.02),
                np.arange(0.2, 0.8, 0.0025),
                np.arange(0.8, 1.0001, 0.001),
                [spec.threshold.cosine for spec in EMBEDDERS.values() if spec.threshold is not None],
            ]
        ),
        4,
    )
)
_BINS: Final = 100
_DIGITS: Final = 6
_FEWEST_SUBJECTS: Final = 20
_MOST_PAIRS: Final = 1000
_ENROLLMENTS: Final = 3
# Of impostor pairs, the highest scores are kept: enough for draws of people that have ten times as many false matches.
_KEPT: Final = 0.01
_ROUNDS: Final = 300
_BLOCK: Final = 1024


def people_curves(
    population: Population, rule: SubjectScore, weights: ScoreWeights | None, pairs: Ints | None = None, seed: int = 0
) -> list[MeasuredCurve]:
    """The curves of labelled people for 1, 3 and 10 templates, where 20 people have pictures enough, by both rules.

    With one template every pair of pictures counts, and the rules are the same.

    Args:
        population: the people.
        rule: ``mean`` with its exponents.
        weights: of templates in the mean.
        pairs: (g, 2) genuine pairs of pictures, rows; None: up to 1,000 of each person.
        seed: of the draws.
    """
    found = []
    genuine = genuine_pairs(population.people, most=_MOST_PAIRS) if pairs is None else pairs
    single = _single(population, genuine)
    for templates in TEMPLATES:
        _, counts = np.unique(population.people, return_counts=True)
        if templates > 1 and np.count_nonzero(counts > templates) < _FEWEST_SUBJECTS:
            continue
        for each in (rule, BEST):
            scores = single if templates == 1 else _several(population, templates, each, weights, seed)
            found.append(curve(population.name, each, templates, None, *scores))
    return found


def band_curves(name: str, probes: Rows, gallery: Rows, labels: Labels) -> list[MeasuredCurve]:
    """The curves of strangers of one age band against each other, with one template; no genuine pairs are known.

    Args:
        name: of the population.
        probes: (n, d) float32, unit rows.
        gallery: (n, d) float32: the same pictures as they are enrolled.
        labels: of the pictures; all known.
    """
    found = []
    for band, (low, high) in enumerate(BANDS):
        rows = np.flatnonzero(labels.band == band)
        if len(rows) < 2:
            continue
        other = None if gallery is probes else np.ascontiguousarray(gallery[rows])
        counts = all_impostors(np.ascontiguousarray(probes[rows]), np.arange(len(rows)), other).counts
        ages = f"{low}-{high}" if band + 1 < len(BANDS) else f"{low}+"
        found += [curve(name, rule, 1, ages, counts, None) for rule in (SubjectScore(rule="mean"), BEST)]
    return found


def curve(
    population: str, rule: SubjectScore, templates: int, band: str | None, impostor: Ints, genuine: Ints | None
) -> MeasuredCurve:
    """A curve from fine histograms of ``lab.data.verification.histogram``; rates to six digits."""
    return MeasuredCurve(
        population=population,
        rule=rule.rule,
        templates=templates,
        band=band,
        thresholds=_THRESHOLDS.tolist(),
        fmr=_rates(impostor),
        tar=None if genuine is None else _rates(genuine),
        impostor_pairs=int(impostor.sum()),
        genuine_pairs=0 if genuine is None else int(genuine.sum()),
        impostor_histogram=_coarse(impostor),
        genuine_histogram=None if genuine is None else _coarse(genuine),
    )


def _rates(counts: Ints) -> list[float]:
    scores = ImpostorScores(counts)
    return [float(f"{scores.fmr(float(at)):.{_DIGITS}g}") for at in _THRESHOLDS]


def _coarse(counts: Ints) -> Histogram:
    edges = np.round(np.linspace(-1, 1, _BINS + 1), 4)
    return Histogram(edges=edges.tolist(), counts=counts.reshape(_BINS, -1).sum(axis=1).tolist())


def _single(population: Population, pairs: Ints) -> tuple[Ints, Ints]:
    """Histograms of impostor and genuine scores of pictures one by one."""
    probes, gallery = population.probes, population.gallery
    other = None if gallery is probes else gallery
    impostor = all_impostors(probes, population.people, other).counts
    sides = [_cosine(probes, gallery, pairs)]
    if other is not None:
        sides.append(_cosine(probes, gallery, pairs[:, ::-1]))
    return impostor, histogram(np.concatenate(sides))


def _cosine(probes: Rows, gallery: Rows, pairs: Ints) -> Rows:
    return np.asarray(np.einsum("nd,nd->n", probes[pairs[:, 0]], gallery[pairs[:, 1]]))


def _several(
    population: Population, templates: int, rule: SubjectScore, weights: ScoreWeights | None, seed: int
) -> tuple[Ints, Ints]:
    random = np.random.default_rng([seed, templates])
    share = weights_of(population.lengths, weights)
    empty = histogram(np.empty(0, np.float32))
    impostor, genuine = empty.copy(), empty.copy()
    for _ in range(_ENROLLMENTS):
        rows = enroll(population.people, templates, random)
        whose = population.people[rows[:, 0]]
        own = np.full(len(population), -np.inf, np.float32)
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores = rule_scores(population, population.probes, rows[part], share, rule)
            same = whose[part][:, None] == population.people[None, :]
            impostor += histogram(scores[~same])
            own = np.maximum(own, np.where(same, scores, -np.inf).max(axis=0))
        own[rows] = -np.inf
        genuine += histogram(own[genuine_rows(population.people, np.isfinite(own), random)])
    return impostor, genuine


def costs(
    clean: Population, protected: Population, pairs: Ints | None = None, *, rounds: int = _ROUNDS, seed: int = 0
) -> list[Cost]:
    """TAR lost at strict false match rates, with one template a side; intervals draw the same people for both.

    Each draw takes its thresholds from its own impostors (Owen, "The pigeonhole bootstrap", 2007).

    Args:
        clean: unprotected embeddings.
        protected: the same pictures' templates.
        pairs: (g, 2) genuine pairs, rows; None: up to 1,000 of each person.
        rounds: draws of people.
        seed: of the draws.
    """
    genuine = genuine_pairs(clean.people, most=_MOST_PAIRS) if pairs is None else pairs
    _, people = np.unique(clean.people, return_inverse=True)
    drawn = draws_of_people(int(people.max()) + 1, rounds, seed)
    before, after = (_strict_tar(each, people, genuine, drawn) for each in (clean, protected))
    found = []
    for row, rate in enumerate(COST_RATES):
        lost = interval(before[row] - after[row])
        bounds = sorted((round(lost["low"], _DIGITS), round(lost["high"], _DIGITS)))
        found.append(
            Cost(population=clean.name, fmr=rate, tar_lost=round(lost["value"], _DIGITS), interval=bounds),
        )
    return found


def _strict_tar(population: Population, people: Ints, pairs: Ints, drawn: Floats) -> Floats:
    """TAR at each of the strict rates in every draw: (rates, 1 + rounds) float64."""
    score, first, second = _highest_impostors(population, people)
    both = [_cosine(population.probes, population.gallery, pairs)]
    if population.gallery is not population.probes:
        both.append(_cosine(population.probes, population.gallery, pairs[:, ::-1]))
    scores, whose = np.concatenate(both), np.tile(people[pairs[:, 0]], len(both))
    pictures = np.bincount(people).astype(np.float64)
    orders = 2 if population.gallery is not population.probes else 1
    total = ((pictures @ drawn[:-1]) ** 2 - pictures**2 @ drawn[:-1] ** 2) / 2 * orders
    found = np.zeros((len(COST_RATES), drawn.shape[1]))
    for at in range(drawn.shape[1]):
        weight = np.cumsum(drawn[first, at] * drawn[second, at])
        share = drawn[whose, at]
        for row, rate in enumerate(COST_RATES):
            over = min(int(np.searchsorted(weight, rate * total[at], side="right")), len(score) - 1)
            found[row, at] = share @ (scores > score[over]) / share.sum()
    return found


def _highest_impostors(population: Population, people: Ints) -> tuple[Rows, Ints, Ints]:
    """The highest scores of impostors, descending, and the two people of each."""
    one_sided = population.gallery is not population.probes
    floor: float | None = None
    found: list[tuple[NDArray[np.float32], Ints, Ints]] = []
    for start in range(0, len(people), _BLOCK):
        rows = slice(start, start + _BLOCK)
        left = 0 if one_sided else start
        scores = population.probes[rows] @ population.gallery[left:].T
        scores[people[rows, None] == people[None, left:]] = -np.inf
        if not one_sided:
            scores[np.tril_indices(len(scores), 0, scores.shape[1])] = -np.inf
        high = scores[np.isfinite(scores)]
        if not len(high):
            continue
        kept = float(np.quantile(high[:: max(1, len(high) // 200_000)], 1 - _KEPT))
        floor = kept if floor is None else min(floor, kept)
        row, column = np.nonzero(scores >= floor)
        found.append((scores[row, column], people[start + row], people[left + column]))
    score, first, second = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(-score, kind="stable")
    return score[order], first[order], second[order]
