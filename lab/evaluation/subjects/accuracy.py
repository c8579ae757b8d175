"""Accuracy of subjects with several templates, by rule and number of templates, with intervals over people.

Templates are drawn at random from each person's pictures, several times. All pictures of other people are impostors;
the pictures that were not enrolled, at most 20 a person, are genuine. Intervals draw people with replacement, both as
subjects and as probes (Owen, "The pigeonhole bootstrap", 2007), and take each threshold from the draw's own impostors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.profiles.score import ScoreWeights
from lab.data.verification import Floats, Ints, Rows
from lab.evaluation.subjects.scores import Case, Population, enroll, means, weights_of
from shared.wire.common import SubjectScore

NUMBERS: Final = (1, 2, 3, 5, 10, 20)
# False match rates at which the share of genuine comparisons is taken.
STRICT: Final = (1e-3, 1e-4)
# Else the rate would be that of the few people with hundreds of pictures.
_MOST_PROBES: Final = 20
# The highest scores of impostors decide at every rate that is looked at, also in draws that have more of them.
_KEPT: Final = 0.03
_BLOCK: Final = 512
_ROUNDS: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of enrolled subjects, over several enrollments.

    Attributes:
        genuine: (g,) float32.
        whose: (g,) int64, the person of each.
        first: (g,) bool, whether no other subject scored as high.
        impostor: (i,) float32, the highest scores of impostors, descending.
        subject: (i,) int64, the person who was enrolled.
        probe: (i,) int64, the person on the picture; -1: nobody of them.
        subjects: (people,) int64, whether each person was enrolled: 0 or 1.
        pictures: (people + 1,) int64, pictures of each person as a probe; the last place holds those of nobody.
        enrollments: how many.
        rows: enrolled pictures of all enrollments.
    """

    genuine: Rows
    whose: Ints
    first: NDArray[np.bool_]
    impostor: Rows
    subject: Ints
    probe: Ints
    subjects: Ints
    pictures: Ints
    enrollments: int
    rows: Ints

    def pairs(self, drawn: Floats) -> Floats:
        """Impostor pairs in draws of people: (people + 1, rounds) weights to (rounds,)."""
        enrolled = self.subjects @ drawn[:-1]
        own = (self.subjects * self.pictures[:-1]) @ drawn[:-1] ** 2
        return np.asarray(self.enrollments * (enrolled * (self.pictures @ drawn) - own))


def scored(
    case: Case,
    templates: int,
    rule: SubjectScore,
    *,
    weights: ScoreWeights | None = None,
    enrollments: int = 4,
    floor: float = 1.0,
    seed: int = 0,
) -> Scores:
    """Enrolls people at random, and scores all probes.

    Args:
        case: who is enrolled and who tries; its people are 0, 1, 2 ….
        templates: of each subject.
        rule: how a probe is compared with a subject.
        weights: of templates in the mean.
        enrollments: how many.
        floor: impostors with this score or more are kept all.
        seed: of the draws.
    """
    people = int(case.enrolled.people.max()) + 1
    random = np.random.default_rng([seed, templates])
    share = weights_of(case.enrolled.lengths, weights)
    parts: list[tuple[NDArray[Any], ...]] = []
    impostors: list[tuple[NDArray[Any], ...]] = []
    everything = []
    for _ in range(enrollments):
        rows = enroll(case.enrolled.people, templates, random)
        everything.append(rows.ravel())
        whose = case.enrolled.people[rows[:, 0]]
        own, best = np.full(len(case.people), -np.inf, np.float32), np.full(len(case.people), -np.inf, np.float32)
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores = rule_scores(case.enrolled, case.probes, rows[part], share, rule)
            same = whose[part][:, None] == case.people[None, :]
            own = np.maximum(own, np.where(same, scores, -np.inf).max(axis=0))
            scores[same] = -np.inf
            floor = min(floor, _high(scores))
            best = np.maximum(best, scores.max(axis=0))
            subject, probe = np.nonzero(scores >= floor)
            impostors.append((scores[subject, probe], whose[part][subject], case.people[probe]))
        free = np.isfinite(own)
        if case.own:
            free[rows] = False
        genuine = genuine_rows(case.people, free, random)
        parts.append((own[genuine], case.people[genuine], own[genuine] > best[genuine]))
    score, subject, probe = (np.concatenate(column) for column in zip(*impostors, strict=True))
    order = np.argsort(-score, kind="stable")
    order = order[: np.count_nonzero(score >= floor)]
    known = np.bincount(case.people[case.people >= 0], minlength=people)
    own_score, own_person, own_first = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Scores(
        genuine=own_score,
        whose=own_person,
        first=own_first,
        impostor=score[order],
        subject=subject[order],
        probe=probe[order],
        subjects=np.bincount(whose, minlength=people),
        pictures=np.append(known, np.count_nonzero(case.people < 0)),
        enrollments=enrollments,
        rows=np.concatenate(everything),
    )


def rule_scores(enrolled: Population, probes: Rows, rows: Ints, share: Floats, rule: SubjectScore) -> Rows:
    """Scores of all probes against some subjects: (s, n) float32.

    Args:
        enrolled: whose pictures are enrolled.
        probes: (n, d) float32, unit rows.
        rows: (s, k) int64, the enrolled pictures, a line a subject.
        share: the weight of each picture of the population.
        rule: how a probe is compared with a subject.
    """
    if rule.rule == "best":
        best = enrolled.gallery[rows[:, 0]] @ probes.T
        for at in range(1, rows.shape[1]):
            np.maximum(best, enrolled.gallery[rows[:, at]] @ probes.T, out=best)
        return np.asarray(best)
    found, lengths = means(enrolled.gallery, rows, share)
    return np.asarray((found / lengths[:, None] ** rule.exponent(rows.shape[1])).astype(np.float32) @ probes.T)


def _high(scores: Rows) -> float:
    """The score that 3 % are over, from a sample; own scores are -inf there."""
    sample = scores.ravel()[:: max(1, scores.size // 200_000)]
    return float(np.quantile(sample, 1 - _KEPT, method="lower"))


def genuine_rows(people: Ints, free: NDArray[np.bool_], random: np.random.Generator) -> Ints:
    """Rows of at most 20 pictures of each person, drawn at random from those that a mask allows."""
    found = random.permutation(np.flatnonzero(free))
    found = found[np.argsort(people[found], kind="stable")]
    starts = np.flatnonzero(np.diff(people[found], prepend=-2))
    place = np.arange(len(found)) - np.repeat(starts, np.diff(starts, append=len(found)))
    return np.asarray(found[place < _MOST_PROBES])


def draws_of_people(people: int, rounds: int = _ROUNDS, seed: int = 0) -> Floats:
    """How often each person is drawn: (people + 1, 1 + rounds) float64.

    The first draw is everyone once. The last row stands for strangers who are nobody of them, always once.
    """
    drawn = np.random.default_rng([seed, 7]).multinomial(people, np.full(people, 1 / people), size=rounds).T
    drawn = np.concatenate([np.ones((people, 1), np.int64), drawn], axis=1)
    return np.concatenate([drawn, np.ones((1, rounds + 1), np.int64)]).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Figures in every draw of people: (1 + rounds,) float64 each; the first is the measurement itself."""

    values: dict[str, Floats]

    def interval(self, name: str) -> dict[str, float]:
        """A figure with its 95 % interval."""
        return interval(self.values[name])


def interval(values: Floats) -> dict[str, float]:
    """``value``, ``low`` and ``high`` of a figure whose first draw is the measurement; NaN where it is in all draws."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def figures(scores: Scores, tau: float, drawn: Floats, alone: Floats | None = None) -> Drawn:
    """TAR and FMR at tau, TAR at strict false match rates, and rank-1.

    Args:
        scores: of subjects.
        tau: cosine.
        drawn: (people + 1, rounds) draws of people.
        alone: (rounds,) FMR of one template of the same subjects; adds ``fmr_ratio``.

    Returns:
        ``tar_at_tau``, ``fmr_at_tau``, ``tar_at_1e-03``, ``tar_at_1e-04``, ``rank_1``; NaN without genuine scores.
    """
    values: dict[str, Floats] = {}
    pairs = scores.pairs(drawn)
    rounds = drawn.shape[1]
    genuine = np.array([drawn[scores.whose, at] for at in range(rounds)]) if len(scores.genuine) else None
    accepted, strict = np.zeros(rounds), np.zeros((len(STRICT), rounds))
    for at in range(rounds):
        weight = np.cumsum(drawn[scores.subject, at] * drawn[scores.probe, at])
        inside = int(np.count_nonzero(scores.impostor >= tau))
        accepted[at] = weight[inside - 1] if inside else 0.0
        for row, rate in enumerate(STRICT):
            # The first impostor who would be one too many; the threshold lies just above.
            over = min(int(np.searchsorted(weight, rate * pairs[at], side="right")), len(weight) - 1)
            strict[row, at] = scores.impostor[over]
    values["fmr_at_tau"] = accepted / pairs
    if alone is not None:
        values["fmr_ratio"] = values["fmr_at_tau"] / np.where(alone > 0, alone, np.nan)
    if genuine is not None:
        total = genuine.sum(axis=1)
        values["tar_at_tau"] = genuine @ (scores.genuine >= tau) / total
        for row, rate in enumerate(STRICT):
            over = scores.genuine[None, :] > strict[row][:, None]
            values[f"tar_at_{rate:.0e}"] = np.sum(genuine * over, axis=1) / total
        values["rank_1"] = genuine @ scores.first / total
    return Drawn(values)


@dataclass(frozen=True, slots=True, eq=False)
class Alone:
    """False matches at tau of single templates: row of the enrolled picture and the two people, one entry each."""

    row: Ints
    subject: Ints
    probe: Ints

    @classmethod
    def of(cls, case: Case, tau: float) -> Alone:
        """Compares every enrolled picture with every probe of somebody else."""
        found = [np.empty((3, 0), np.int64)]
        enrolled = case.enrolled
        for start in range(0, len(enrolled), _BLOCK):
            scores = enrolled.gallery[start : start + _BLOCK] @ case.probes.T
            row, probe = np.nonzero(scores >= tau)
            row += start
            impostor = enrolled.people[row] != case.people[probe]
            row, probe = row[impostor], probe[impostor]
            found.append(np.stack([row, enrolled.people[row], case.people[probe]]))
        return cls(*np.concatenate(found, axis=1))

    def fmr(self, scores: Scores, templates: int, drawn: Floats) -> Floats:
        """FMR of the templates that were enrolled, one by one: (rounds,) float64."""
        times = np.bincount(scores.rows, minlength=int(self.row.max(initial=0)) + 1)[self.row]
        kept = times > 0
        weight = times[kept].astype(np.float64)
        subject, probe = self.subject[kept], self.probe[kept]
        hits = [weight @ (drawn[subject, at] * drawn[probe, at]) for at in range(drawn.shape[1])]
        return np.array(hits) / (scores.pairs(drawn) * templates)
