"""Calibrates the score of a subject with several templates: the exponents, and the weights.

The score is <p, m> / |m|^q, with m the weighted mean of the subject's templates (``shared.wire.common.SubjectScore``).
The larger q, the more impostors an unchanged threshold accepts. For each number of templates the calibration finds the
largest q, on a grid of 0.01, at which it accepts no more of them than the same subjects' templates do one by one: on
average over populations, and by no more than a tenth in any. A single population does not tell a tenth: with 50
people the 95 % interval of the ratio is 0.75 to 1.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.profiles.score import ScoreWeights
from lab.data.splits import PeopleRows, alike
from lab.data.verification import Floats, Ints, Rows
from shared.wire.common import SubjectScore

# Exponents are found for so many templates; the last one holds for more.
MOST_TEMPLATES: Final = 20
NUMBERS: Final = range(2, MOST_TEMPLATES + 1)
# Fewer enrolled people say little of impostors: each brings its own likeness to all others.
FEWEST_SUBJECTS: Final = 20
GRID: Final = 0.01
# FMR in one population over one template's, at most.
ALLOWED: Final = 1.1
_STEPS: Final = round(1 / GRID)
_BLOCK: Final = 512
# Few people are enrolled more often: as many pairs as that, and so many times at most.
_PAIRS: Final = 4_000_000
_MOST_DRAWS: Final = 16
# A mean that is this short is one of templates that cancel each other out.
_TINY: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Labelled people, as the gallery holds them and as probes show them.

    Attributes:
        name: as in the curves of a profile.
        probes: (n, d) float32, unit rows.
        gallery: (n, d) float32, unit rows: the same pictures as they are enrolled; the same array where both sides are
            protected alike.
        people: (n,) int64, who is on each.
        lengths: (n,) float64, of the raw embeddings.
    """

    name: str
    probes: Rows
    gallery: Rows
    people: Ints
    lengths: Floats

    def __len__(self) -> int:
        return len(self.people)

    def only(self, kept: NDArray[np.bool_] | Ints, name: str | None = None) -> Population:
        """The rows that a mask or row numbers choose."""
        probes = np.ascontiguousarray(self.probes[kept])
        gallery = probes if self.gallery is self.probes else np.ascontiguousarray(self.gallery[kept])
        return Population(name or self.name, probes, gallery, self.people[kept], self.lengths[kept])

    def of_people(self, chosen: NDArray[np.bool_]) -> Population:
        """The rows of some people: a (people,) mask over the sorted distinct people."""
        _, index = np.unique(self.people, return_inverse=True)
        return self.only(chosen[index])

    def alike(self) -> Population:
        """Without pictures that do not look like the others under the same name; see ``lab.data.splits.alike``."""
        return self.only(alike(PeopleRows(self.gallery, self.people)))


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Who is enrolled, and whose pictures try to be accepted as them.

    Attributes:
        name: of the case, for tables.
        enrolled: labelled people.
        probes: (n, d) float32, unit rows.
        people: (n,) int64, who is on each probe, numbered as the enrolled are; -1: nobody of them.
    """

    name: str
    enrolled: Population
    probes: Rows
    people: Ints

    @property
    def own(self) -> bool:
        """Whether the probes are the enrolled people's own pictures, row for row."""
        return self.probes is self.enrolled.probes

    @classmethod
    def within(cls, population: Population) -> Case:
        """The population's own pictures, against all of its people but the one on the picture."""
        return cls(population.name, population, population.probes, population.people)

    @classmethod
    def among(cls, population: Population, templates: int) -> Case:
        """As ``within``, among the people who have more than so many pictures: well-known ones, of a kind."""
        _, index, counts = np.unique(population.people, return_inverse=True, return_counts=True)
        chosen = population.only(counts[index] > templates)
        return cls(f"{population.name}, among those with pictures enough", chosen, chosen.probes, chosen.people)

    @classmethod
    def strangers(cls, population: Population, probes: Rows, name: str) -> Case:
        """Pictures of people of whom none is enrolled."""
        return cls(f"{name} against {population.name}", population, probes, np.full(len(probes), -1))


def weights_of(lengths: Floats, weights: ScoreWeights | None) -> Floats:
    """The weight of each template in its subject's mean: (n,) float64, as the edge rounds it; 1 without weights."""
    if weights is None:
        return np.ones(len(lengths))
    return np.array([weights.weight(float(length)) for length in lengths])


def enroll(people: Ints, templates: int, random: np.random.Generator) -> Ints:
    """Draws templates of everyone who has enough pictures: (s, templates) int64, rows, a line a subject."""
    order = random.permutation(len(people))
    order = order[np.argsort(people[order], kind="stable")]
    starts = np.flatnonzero(np.diff(people[order], prepend=people[order[:1]] - 1))
    counts = np.diff(starts, append=len(order))
    return np.asarray(order[starts[counts >= templates][:, None] + np.arange(templates)])


def means(gallery: Rows, rows: Ints, weights: Floats) -> tuple[Rows, Floats]:
    """The weighted means of the subjects' templates, and their lengths: (s, d) float32, (s,) float64."""
    share = weights[rows] / weights[rows].sum(axis=1, keepdims=True)
    found = np.einsum("sk,skd->sd", share, gallery[rows].astype(np.float64))
    return found.astype(np.float32), np.linalg.norm(found, axis=1).clip(min=_TINY)


def own_hits(case: Case, tau: float) -> tuple[Ints, Ints]:
    """False matches of each enrolled picture taken alone, and the impostor pairs it has: (n,) int64 each."""
    enrolled = case.enrolled
    hits = np.zeros(len(enrolled), np.int64)
    pairs = np.zeros(len(enrolled), np.int64)
    for start in range(0, len(enrolled), _BLOCK):
        rows = slice(start, start + _BLOCK)
        different = enrolled.people[rows, None] != case.people[None, :]
        hits[rows] = np.count_nonzero((enrolled.gallery[rows] @ case.probes.T >= tau) & different, axis=1)
        pairs[rows] = np.count_nonzero(different, axis=1)
    return hits, pairs


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """How the false match rate grows with the exponent, against that of the same templates one by one.

    Attributes:
        ratios: by number of templates, from 2: (101,) float64, FMR at exponent 0, 0.01 … 1 over one template's.
        one: by number of templates: FMR of one template.
        subjects: by number of templates: how many people were enrolled.
    """

    ratios: dict[int, Floats]
    one: dict[int, float]
    subjects: dict[int, int]

    def ratio(self, templates: int, exponent: float) -> float | None:
        """FMR at an exponent of the grid, over one template's."""
        found = self.ratios.get(templates)
        return None if found is None else float(found[round(exponent / GRID)])


def growth(
    case: Case,
    tau: float,
    *,
    weights: ScoreWeights | None = None,
    numbers: Iterable[int] = NUMBERS,
    draws: int = 4,
    seed: int = 0,
) -> Growth:
    """Measures FMR at tau for every number of templates and every exponent of the grid.

    Args:
        case: who is enrolled, and who tries.
        tau: cosine; it is over 0.
        weights: of templates in the mean.
        numbers: of templates, each 2 or more.
        draws: enrollments of each number of templates, drawn at random; more, up to 16, where people are few.
        seed: of the draws.

    Returns:
        ratios for each number of templates that at least 20 people have, and whose templates had a false match.
    """
    alone, trials = own_hits(case, tau)
    share = weights_of(case.enrolled.lengths, weights)
    _, counts = np.unique(case.enrolled.people, return_counts=True)
    ratios: dict[int, Floats] = {}
    one: dict[int, float] = {}
    subjects: dict[int, int] = {}
    for templates in numbers:
        random = np.random.default_rng([seed, templates])
        hits, pairs, single, singles = np.zeros(_STEPS + 1), 0, 0, 0
        subject_count = int(np.count_nonzero(counts >= templates))
        affordable = _PAIRS // max(1, subject_count * len(case.people))
        for _ in range(max(draws, min(_MOST_DRAWS, affordable))):
            rows = enroll(case.enrolled.people, templates, random)
            if len(rows) < FEWEST_SUBJECTS:
                break
            hits += _hits(case, rows, share, tau)
            pairs += int(trials[rows[:, 0]].sum())
            single += int(alone[rows].sum())
            singles += int(trials[rows].sum())
        if single:
            one[templates] = single / singles
            ratios[templates] = hits / pairs / one[templates]
            subjects[templates] = len(rows)
    return Growth(ratios, one, subjects)


def _hits(case: Case, rows: Ints, share: Floats, tau: float) -> Floats:
    """False matches at each exponent of the grid: (101,) float64.

    <p, m> >= tau |m|^q holds from q = log(<p, m> / tau) / log |m| on, as |m| is at most 1.
    """
    found, lengths = means(case.enrolled.gallery, rows, share)
    lengths = lengths.clip(max=1 - 1e-9)
    whose = case.enrolled.people[rows[:, 0]]
    counts = np.zeros(_STEPS + 1)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores = found[part] @ case.probes.T
        subject, probe = np.nonzero(scores >= (tau * lengths[part, None]))
        impostor = whose[part][subject] != case.people[probe]
        subject, probe = subject[impostor], probe[impostor]
        from_exponent = np.log(scores[subject, probe] / tau) / np.log(lengths[part][subject])
        step = np.ceil(from_exponent / GRID - 1e-9).clip(0, _STEPS).astype(np.int64)
        counts += np.bincount(step, minlength=_STEPS + 1)
    return np.cumsum(counts)


def growths(
    populations: Sequence[Population],
    strangers: Mapping[str, Rows],
    tau: float,
    weights: ScoreWeights | None = None,
    *,
    draws: int = 4,
    seed: int = 0,
) -> dict[str, Growth]:
    """The growth of every case: each population's own pictures, the same among people with enough, and strangers.

    Pictures that do not look like the others under their name are left out: one wrong name makes as many false matches
    as some thousand impostors.

    Args:
        populations: labelled people.
        strangers: (n, d) float32 unit rows of people of whom none is enrolled, by name.
        tau: cosine; it is over 0.
        weights: of templates in the mean.
        draws: enrollments of each number of templates.
        seed: of the draws.
    """
    found: dict[str, Growth] = {}
    for population in (each.alike() for each in populations):
        cases = [Case.within(population)]
        cases += [Case.strangers(population, rows, name) for name, rows in strangers.items()]
        found |= {case.name: growth(case, tau, weights=weights, draws=draws, seed=seed) for case in cases}
        each = {k: Case.among(population, k) for k in NUMBERS}
        few = [
            growth(case, tau, weights=weights, numbers=[templates], draws=draws, seed=seed)
            for templates, case in each.items()
            if len(case.people) < len(population)
        ]
        found[each[2].name] = Growth(
            *({k: value for one in few for k, value in getattr(one, name).items()} for name in Growth.__slots__)
        )
    return found


def exponents(found: Iterable[Growth], allowed: float = ALLOWED) -> list[float]:
    """The exponents for 2, 3, 4 … templates; they do not rise with the number of templates.

    They end where no case has enough people; the last one then holds for more templates.

    Args:
        found: one a case.
        allowed: the largest ratio of a single case; their mean is at most 1.
    """
    cases = list(found)
    result: list[float] = []
    for templates in NUMBERS:
        ratios = np.array([each.ratios[templates] for each in cases if templates in each.ratios])
        if not len(ratios):
            break
        held = np.flatnonzero((ratios <= allowed).all(axis=0) & (ratios.mean(axis=0) <= 1))
        largest = round(int(held[-1]) * GRID, 2) if len(held) else 0.0
        result.append(min([largest, *result[-1:]]))
    return result


def halves(people: Ints, seed: int = 0) -> NDArray[np.bool_]:
    """Half of the distinct people, at random: (people,) bool, for calibration on one half and a test on the other."""
    count = len(np.unique(people))
    return np.random.default_rng([seed, 11]).permutation(count) < count // 2


def ratios_on_other_half(
    populations: Sequence[Population],
    strangers: Mapping[str, Rows],
    tau: float,
    weights: ScoreWeights | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[int, float]]:
    """FMR over one template's, with exponents that were calibrated on the other half of the people; both ways.

    Strangers are halved by their order, so that no picture is on both sides.

    Returns:
        the mean of both ways, by case and number of templates.
    """
    masks = [halves(each.people, seed) for each in populations]
    sides = [
        growths(
            [each.of_people(mask == side) for each, mask in zip(populations, masks, strict=True)],
            {name: np.ascontiguousarray(rows[int(side) :: 2]) for name, rows in strangers.items()},
            tau,
            weights,
            seed=seed,
        )
        for side in (False, True)
    ]
    result: dict[str, dict[int, list[float]]] = {}
    for own, other in (sides, sides[::-1]):
        rule = SubjectScore(rule="mean", exponents=exponents(own.values()))
        for name, each in other.items():
            for templates in each.ratios:
                ratio = each.ratio(templates, rule.exponent(templates))
                if ratio is not None:
                    result.setdefault(name, {}).setdefault(templates, []).append(ratio)
    return {name: {k: float(np.mean(ratios)) for k, ratios in each.items()} for name, each in result.items()}
