"""What a profile costs further people who helped to fit its erase step, each judged by a step fitted without them."""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from lab.data.splits import Material, PeopleRows
from lab.data.verification import Floats, Ints
from lab.defence.network import PatronusNetwork
from lab.defence.protection import protect
from lab.defence.statistics import STRICT, Way, fit_again

_FOLDS: Final = 5
_RATES: Final = (*STRICT, 1e-5)
# Of cosines, from -1 to 1.
_BINS: Final = 4_000
_DRAWS: Final = 1000


def cost_in_folds(network: PatronusNetwork, material: Material, way: Way, tau: float, seed: int = 0) -> dict[str, Any]:
    """Measures the further people, each pair of them protected with an erase step fitted without either.

    People are in five folds. For each two folds a step is fitted on the three others, and all pairs of pictures within
    the two are compared. Pairs within one fold are then compared four times, and count a quarter. Intervals are of
    paired differences: people are drawn, and thresholds follow from the impostors of those who were drawn. The way to
    erase was chosen with all of them; the perturbation saw none.

    Args:
        network: trained; its erase matrix is replaced for each fold, and put back.
        material: with further people.
        way: the way to erase.
        tau: cosine threshold.
        seed: of folds and draws.

    Raises:
        ValueError: there are no further people.
    """
    more = material.more
    if more is None:
        raise ValueError("there are no further people")
    random = np.random.default_rng(seed)
    names, people = np.unique(more.people, return_inverse=True)
    fold_of = random.permutation(len(names)) % _FOLDS
    whole = network.eraser.clone()
    clean, protected = _Counts(len(names)), _Counts(len(names))
    try:
        for number, both in enumerate(combinations(range(_FOLDS), 2)):
            own = np.isin(fold_of[people], both)
            if network.size.erases:
                network.eraser.copy_(torch.from_numpy(fit_again(material, way, tau, more.only(~own))))
            unit = np.ascontiguousarray(more.unit[own])
            clean.add(PeopleRows(unit, people[own]), fold_of)
            protected.add(PeopleRows(protect(network, unit, seed=number).templates, people[own]), fold_of)
    finally:
        network.eraser.copy_(whole)
    weights = random.multinomial(len(names), np.full(len(names), 1 / len(names)), _DRAWS).astype(np.float64)
    drawn = [[counts.figures(weight, tau) for counts in (clean, protected)] for weight in weights]
    before, after = (counts.figures(np.ones(len(names)), tau) for counts in (clean, protected))
    differences = np.array([one - other for one, other in drawn])
    lost = before - after
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    return {
        "people": len(names),
        "pictures": len(people),
        "folds": _FOLDS,
        "fmr": {
            "clean": before[1],
            "protected": after[1],
            "clean_interval": np.quantile([one[1] for one, _ in drawn], [0.025, 0.975]).tolist(),
        },
        "points": [
            {"at": name, "fmr": rate, "clean": before[n], "protected": after[n], "lost": lost[n]}
            | {"interval": [low[n], high[n]]}
            for name, rate, n in (("tau", None, 0), *((f"fmr {rate:g}", rate, 2 + k) for k, rate in enumerate(_RATES)))
        ],
    }


class _Counts:
    """Histograms of cosines, by person and by pair of people.

    Args:
        people: how many there are.
    """

    def __init__(self, people: int) -> None:
        self._genuine = np.zeros((people, _BINS))
        self._impostor: dict[tuple[int, int], Floats] = {}
        self._impostors: Floats | None = None

    def add(self, rows: PeopleRows, fold_of: Ints) -> None:
        """Compares all pictures of the people of two folds with one another.

        Args:
            rows: of these people.
            fold_of: (people,) the fold of each.
        """
        own = {int(one): rows.unit[rows.people == one] for one in np.unique(rows.people)}
        for one, first in own.items():
            self._genuine[one] += _histogram((first @ first.T)[np.triu_indices(len(first), 1)]) / (_FOLDS - 1)
            for other, second in own.items():
                if other > one:
                    share = 1 / (_FOLDS - 1) if fold_of[one] == fold_of[other] else 1.0
                    found = share * _histogram((first @ second.T).ravel())
                    self._impostor[one, other] = self._impostor.get((one, other), 0.0) + found

    def figures(self, weights: Floats, tau: float) -> Floats:
        """TAR and FMR at tau, then TAR at each rate, with each person counted as often as its weight says."""
        one, other = np.array([*self._impostor]).T
        genuine = _accepted(weights @ self._genuine)
        impostor = _accepted((weights[one] * weights[other]) @ self._stacked())
        at_tau = int(np.ceil((tau + 1) / 2 * _BINS - 1e-9))
        # The lowest threshold at which no more than the rate is accepted; the last entry accepts nobody.
        thresholds = [int(np.argmax(impostor <= rate)) for rate in _RATES]
        return np.array([genuine[at_tau], impostor[at_tau], *genuine[thresholds]])

    def _stacked(self) -> Floats:
        if self._impostors is None:
            self._impostors = np.array([*self._impostor.values()])
        return self._impostors


def _histogram(scores: NDArray[np.float32]) -> Floats:
    bins = ((scores.astype(np.float64) + 1) / 2 * _BINS).astype(np.int64).clip(0, _BINS - 1)
    return np.bincount(bins, minlength=_BINS).astype(np.float64)


def _accepted(counts: Floats) -> Floats:
    """The share of scores at or over the lower edge of each bin, and 0 at the end: (bins + 1,)."""
    found = np.append(np.cumsum(counts[::-1])[::-1], 0.0)
    return np.asarray(found / found[0])
