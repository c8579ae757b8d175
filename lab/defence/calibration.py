"""How far a trained network may perturb: the largest angle at which the unchanged threshold still decides as it did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.data.matching import Comparison, TooFewPeople, one_pair_a_person
from lab.data.splits import CALIBRATE, Labelled
from lab.defence.budget import StatisticalBudget, Tolerance, certified_budget, statistical_budget
from lab.defence.network import PatronusNetwork
from lab.defence.protection import protect
from lab.defence.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibration found.

    Attributes:
        phi_max: degrees, the statistical budget: the largest limit that a sample may have.
        certified: degrees, the split-conformal budget of one side, or None with too few people for its alpha.
        alpha: of the certified budget.
        people: who calibrated.
        no_margin: share of samples with phi(x) = 0.
        curve: what was tried: phi in degrees, rises of FNMR and FMR and their upper bounds.
    """

    phi_max: float
    certified: float | None
    alpha: float
    people: int
    no_margin: float
    curve: list[dict[str, float]]


def calibrate(network: PatronusNetwork, labelled: Labelled, recipe: Recipe) -> Calibration:
    """Finds the budgets on people that neither trained nor test, and sets the network's phi_max.

    Args:
        network: trained; its ``phi_max`` is lowered to the statistical budget.
        labelled: the people.
        recipe: threshold, sides and tolerances.
    """
    rows = labelled.rows(CALIBRATE)
    unit, people = labelled.unit[rows], labelled.people[rows]
    comparison = Comparison(unit, people, recipe.tau, sides=recipe.sides)
    tolerance = Tolerance(fnmr=recipe.fnmr_rise, fmr=recipe.fmr_rise)
    found = statistical_budget(
        lambda unit, phi: protect(network, unit, phi).templates, comparison, tolerance, phi_max=float(network.phi_max)
    )
    network.phi_max.fill_(found.phi)
    limits = protect(network, unit).limits
    return Calibration(
        phi_max=float(np.rad2deg(found.phi)),
        certified=_certified(labelled, recipe),
        alpha=recipe.alpha,
        people=len(np.unique(people)),
        no_margin=float(np.mean(limits <= 0)),
        curve=_curve(found),
    )


def _certified(labelled: Labelled, recipe: Recipe) -> float | None:
    pairs = labelled.pairs_of(CALIBRATE)
    rows = labelled.rows(CALIBRATE)
    unit, people = labelled.unit, labelled.people
    random = np.random.default_rng(recipe.seed)
    other = random.choice(rows, (4 * len(rows), 2))
    other = other[people[other[:, 0]] != people[other[:, 1]]]
    angles = []
    for chosen in (pairs, other):
        kept = chosen[one_pair_a_person(people[chosen[:, 0]], people[chosen[:, 1]])]
        cosine = np.sum(unit[kept[:, 0]].astype(np.float64) * unit[kept[:, 1]], axis=1)
        angles.append(np.arccos(cosine.clip(-1, 1)))
    try:
        budgets = [certified_budget(theta, recipe.tau, recipe.alpha, sides=recipe.sides) for theta in angles]
    except TooFewPeople:
        return None
    return float(np.rad2deg(min(budgets)))


def _curve(found: StatisticalBudget) -> list[dict[str, float]]:
    return [
        {
            "phi": round(float(np.rad2deg(visit.phi)), 3),
            "draw": visit.draw,
            "fnmr": visit.change.fnmr.protected,
            "fnmr_rise_upper": visit.change.fnmr.upper,
            "fmr": visit.change.fmr.protected,
            "fmr_rise_upper": visit.change.fmr.upper,
            "within": float(visit.within),
        }
        for visit in found.curve
    ]
