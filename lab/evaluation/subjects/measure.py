"""``patronus lab measure``: subjects with several templates, the curves of a profile, and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
from rich.console import Console

from edge_service.protection.profiles.curves import Cost
from edge_service.protection.profiles.document import ProfileDocument
from edge_service.protection.profiles.files import Profile
from edge_service.protection.profiles.score import ScoreCalibration, ScoreWeights
from lab.data.embedders import Encoder
from lab.data.verification import Floats, Ints
from lab.evaluation.demographics import BANDS, SEXES, band_name
from lab.evaluation.subjects import curves
from lab.evaluation.subjects.accuracy import NUMBERS, Alone, Scores, draws_of_people, figures, interval, scored
from lab.evaluation.subjects.faces import MORE, Faces, Protect, Sources, protection, read_faces
from lab.evaluation.subjects.scores import (
    MOST_TEMPLATES,
    Case,
    Population,
    exponents,
    growths,
    ratios_on_other_half,
)
from shared.errors import SetupError
from shared.wire.common import BEST, SubjectScore

POWERS: Final = (0.0, 1.0, 2.0)
# Weights have to gain this much TAR at FMR 1e-4, on average: they tell the cloud a little of each picture's quality.
_LEAST_GAIN: Final = 0.001
_WEIGHED: Final = (2, 3, 5)
# As many impostor pairs as that are scored for each figure, where people have pictures enough.
_PAIRS: Final = 2_000_000
_MOST_ENROLLMENTS: Final = 12
_FEWEST_ENROLLMENTS: Final = 3
_FEWEST_SUBJECTS: Final = 20
_BY_SEX: Final = (3, 10)
_DIGITS: Final = 6


def calibrate_score(faces: Faces, tau: float, seed: int = 0) -> tuple[ScoreCalibration, dict[str, Any]]:
    """Exponents and weights of subjects with several templates, and what was tried.

    Args:
        faces: under the protection.
        tau: cosine; it is over 0.
        seed: of all draws.

    Returns:
        the calibration, its rates as measured on the people with the most pictures; and figures, ready for JSON.
    """
    populations = faces.populations()
    norm = float(f"{np.median(np.concatenate([each.lengths for each in populations])):.3g}")
    strict = {power: _strict_at(faces, _weights(norm, power), tau, seed) for power in POWERS}
    best = max(POWERS, key=lambda power: (strict[power], -power))
    weights = _weights(norm, best) if strict[best] >= strict[0.0] + _LEAST_GAIN else None
    found = growths(populations, faces.probes(), tau, weights, seed=seed)
    chosen = exponents(found.values())
    rule = SubjectScore(rule="mean", exponents=chosen)
    tar, fmr = _by_number(populations[-1], rule, weights, tau, seed)
    ratios = {
        name: {k: _rounded(growth.ratio(k, rule.exponent(k))) for k in growth.ratios} for name, growth in found.items()
    }
    other = ratios_on_other_half(populations, faces.probes(), tau, weights, seed=seed)
    tried = {
        "weights": [{"power": power, "tar_at_1e-04": _rounded(value)} for power, value in strict.items()],
        "ratios": {name: each for name, each in ratios.items() if each},
        "ratios_on_other_half": {name: {k: _rounded(r) for k, r in each.items()} for name, each in other.items()},
    }
    return ScoreCalibration(exponents=chosen, weights=weights, tar=tar or None, fmr=fmr or None), tried


def _weights(norm: float, power: float) -> ScoreWeights | None:
    return ScoreWeights(norm=norm, power=power) if power else None


def _strict_at(faces: Faces, weights: ScoreWeights | None, tau: float, seed: int) -> float:
    """TAR at FMR 1e-4, the mean over populations and a few numbers of templates; the exponents hardly matter to it."""
    rule, found = SubjectScore(rule="mean", exponents=[0.6]), []
    for population in faces.populations():
        for templates in _WEIGHED:
            if _enough(population, templates):
                scores = _scored(Case.within(population), templates, rule, weights, tau, seed)
                everyone = draws_of_people(_people(population), 1)
                found.append(float(figures(scores, tau, everyone).values["tar_at_1e-04"][0]))
    return float(np.mean(found)) if found else 0.0


def _by_number(
    population: Population, rule: SubjectScore, weights: ScoreWeights | None, tau: float, seed: int
) -> tuple[list[float], list[float]]:
    """TAR and FMR at tau for 1, 2, 3 … templates, as far as 20 people have pictures enough."""
    tar, fmr = [], []
    everyone = draws_of_people(_people(population), 1)
    for templates in range(1, MOST_TEMPLATES + 1):
        if not _enough(population, templates):
            break
        scores = _scored(Case.within(population), templates, rule, weights, tau, seed)
        found = figures(scores, tau, everyone).values
        tar.append(_rounded(found["tar_at_tau"][0]))
        fmr.append(_rounded(found["fmr_at_tau"][0]))
    return tar, fmr


def accuracy(faces: Faces, score: ScoreCalibration, tau: float, seed: int = 0) -> list[dict[str, Any]]:
    """Rows for each population and number of templates: best, mean and weighted mean, each figure with its interval.

    ``gain`` holds by how much a rule differs from ``best``, for the same draws of people.
    """
    rules: dict[str, tuple[SubjectScore, ScoreWeights | None]] = {
        "best": (BEST, None),
        "mean": (score.subject_score(), None),
    }
    if score.weights is not None:
        rules["mean, weighted"] = (score.subject_score(), score.weights)
    rows = []
    for population in faces.populations():
        people = draws_of_people(_people(population))
        case = Case.within(population)
        alone = Alone.of(case, tau)
        for templates in NUMBERS:
            if not _enough(population, templates):
                continue
            first: dict[str, Floats] = {}
            for name, (rule, weights) in rules.items():
                if templates == 1 and name != "best":
                    continue
                scores = _scored(case, templates, rule, weights, tau, seed)
                found = figures(scores, tau, people, alone.fmr(scores, templates, people)).values
                first = first or found
                row: dict[str, Any] = {
                    "population": population.name,
                    "templates": templates,
                    "rule": name,
                    "subjects": int(scores.subjects.sum()),
                    "genuine": len(scores.genuine),
                } | {what: _interval(values) for what, values in found.items()}
                if name != "best":
                    row["gain"] = {
                        what: _interval(found[what] - first[what]) for what in found if what.startswith("tar")
                    }
                rows.append(row)
    return rows


def by_sex(faces: Faces, score: ScoreCalibration, tau: float, seed: int = 0) -> list[dict[str, Any]]:
    """False matches of strangers of each age band and sex with enrolled people: one template, and the mean of several.

    ``fmr_ratio`` is the mean's rate over one template's of the same people; its interval draws the enrolled people.
    """
    rows: list[dict[str, Any]] = []
    if faces.strangers is None or faces.labels is None:
        return rows
    for population in faces.populations():
        people = draws_of_people(_people(population))
        for band in range(len(BANDS)):
            for sex, called in enumerate(SEXES):
                inside = np.flatnonzero((faces.labels.band == band) & (faces.labels.sex == sex))
                if len(inside) < 2:
                    continue
                case = Case.strangers(population, np.ascontiguousarray(faces.strangers[0][inside]), "utk")
                alone = Alone.of(case, tau)
                for templates in _BY_SEX:
                    if not _enough(population, templates):
                        continue
                    scores = _scored(case, templates, score.subject_score(), score.weights, tau, seed)
                    one = alone.fmr(scores, templates, people)
                    found = figures(scores, tau, people, one).values
                    rows.append(
                        {
                            "population": population.name,
                            "ages": band_name(band),
                            "sex": called,
                            "templates": templates,
                            "pictures": len(inside),
                            "fmr_of_one": _interval(one),
                        }
                        | {what: _interval(found[what]) for what in ("fmr_at_tau", "fmr_ratio")}
                    )
    return rows


def measure(profile: Profile, encoder: Encoder, tau: float, sources: Sources, *, seed: int = 0) -> dict[str, Any]:
    """Everything that a profile's document says of its accuracy, and the tables of the documentation.

    Args:
        profile: to measure; one that only seals keeps the scores of unprotected embeddings.
        encoder: the embedder.
        tau: cosine of the threshold.
        sources: the faces.
        seed: of all draws.

    Returns:
        figures, ready for JSON.

    Raises:
        SetupError: a source is missing or too small, or the profile's network is damaged.
        TooFewPeople: too few people have two pictures.
    """
    if tau <= 0:
        raise SetupError("The score of a subject is calibrated at a threshold over 0; give another one with --tau.")
    console = Console(stderr=True)
    changes = profile.document.patronus is not None
    ways: dict[str, Protect] = {"clean": lambda rows: (rows, rows)}
    if changes:
        ways["protected"] = protection(profile)
    faces = read_faces(sources, encoder, ways)
    own = faces["protected" if changes else "clean"]
    console.print("exponents and weights ...")
    score, tried = calibrate_score(own, tau, seed)
    console.print("accuracy by number of templates ...")
    found: dict[str, Any] = {
        "profile": profile.document.name,
        "profile_sha256": profile.pin.sha256,
        "embedder": encoder.name,
        "tau": tau,
        "sources": sources.names(),
        "score": score.model_dump(),
        "tried": tried,
        "accuracy": accuracy(own, score, tau, seed),
        "by_sex": by_sex(own, score, tau, seed),
    }
    console.print("curves ...")
    found["curves"] = _curves(own, score)
    found["clean_curves"] = _curves(faces["clean"], score) if changes else []
    found["cost"], found["in_folds"] = [], []
    if changes:
        console.print("cost ...")
        helped = costs_in_folds(profile.document, sources)
        found["in_folds"] = sorted({each.population for each in helped})
        measured = [
            each
            for clean, protected, pairs in _compared(faces["clean"], own)
            if clean.name not in found["in_folds"]
            for each in curves.costs(clean, protected, pairs, seed=seed)
        ]
        found["cost"] = [each.model_dump() for each in [*measured, *helped]]
    return found


def costs_in_folds(document: ProfileDocument, sources: Sources) -> list[Cost]:
    """What a profile costs further people who helped to fit it; empty where other people are measured.

    Measured on the step that they helped to fit, the cost would be too low. The profile's evaluation has judged each of
    them by a step that was fitted without their pictures. They are known by the name of their folder or file.

    Args:
        document: of the profile.
        sources: what is measured on.
    """
    further = cast(Mapping[str, Any], (document.figures or {}).get("further_people") or {})
    if not further or further.get("source") != sources.names().get("more_people"):
        return []
    points = [point for point in further["points"] if point["fmr"] is not None]
    return [
        Cost(population=MORE, fmr=each["fmr"], tar_lost=each["lost"], interval=sorted(each["interval"]))
        for each in points
    ]


def _compared(clean: Faces, protected: Faces) -> list[tuple[Population, Population, Ints | None]]:
    found: list[tuple[Population, Population, Ints | None]] = [(clean.unseen, protected.unseen, clean.pairs)]
    if clean.more is not None and protected.more is not None:
        found.append((clean.more, protected.more, None))
    return found


def _curves(faces: Faces, score: ScoreCalibration) -> list[dict[str, Any]]:
    rule = score.subject_score()
    found = curves.people_curves(faces.unseen, rule, score.weights, faces.pairs)
    if faces.more is not None:
        found += curves.people_curves(faces.more, rule, score.weights)
    if faces.strangers is not None and faces.labels is not None:
        found += curves.band_curves("utk", *faces.strangers, faces.labels)
    return [each.model_dump() for each in found]


def _scored(
    case: Case, templates: int, rule: SubjectScore, weights: ScoreWeights | None, tau: float, seed: int
) -> Scores:
    _, counts = np.unique(case.enrolled.people, return_counts=True)
    pairs = int(np.count_nonzero(counts >= templates)) * len(case.probes)
    fewest = _FEWEST_ENROLLMENTS if templates > 1 else 1
    enrollments = max(fewest, min(_MOST_ENROLLMENTS, _PAIRS // max(pairs, 1)))
    return scored(case, templates, rule, weights=weights, enrollments=enrollments, floor=tau, seed=seed)


def _enough(population: Population, templates: int) -> bool:
    """Whether 20 people have more pictures than that."""
    _, counts = np.unique(population.people, return_counts=True)
    return bool(np.count_nonzero(counts > templates) >= _FEWEST_SUBJECTS)


def _people(population: Population) -> int:
    return int(population.people.max()) + 1


def _rounded(value: Any) -> Any:
    return None if value is None or np.isnan(value) else float(f"{float(value):.{_DIGITS}g}")


def _interval(values: Floats) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in interval(values).items()}
