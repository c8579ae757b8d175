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


def cost_in_folds(
    network: PatronusNetwork, material: Material, way: Way, tau: float, seed: int = 0, draws: int = _DRAWS
) -> dict[str, Any]:
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
        draws: of people, for the intervals.

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
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    weights = np.concatenate([np.ones((1, len(names))), drawn])
    clean, protected = _Counts(weights), _Counts(weights)
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
    before, after = clean.figures(tau), protected.figures(tau)
    lost = before - after
    low, high = np.quantile(lost[1:], [0.025, 0.975], axis=0)
    return {
        "people": len(names),
        "pictures": len(people),
        "folds": _FOLDS,
        "fmr": {
            "clean": before[0, 1],
            "protected": after[0, 1],
            "clean_interval": np.quantile(before[1:, 1], [0.025, 0.975]).tolist(),
        },
        "points": [
            {"at": name, "fmr": rate, "clean": before[0, n], "protected": after[0, n], "lost": lost[0, n]}
            | {"interval": [low[n], high[n]]}
            for name, rate, n in (("tau", None, 0), *((f"fmr {rate:g}", rate, 2 + k) for k, rate in enumerate(_RATES)))
        ],
    }


class _Counts:
    """Histograms of cosines, genuine and impostor, for each draw of people.

    Args:
        weights: (draws, people) how often each person counts.
    """

    def __init__(self, weights: Floats) -> None:
        self._weights = weights
        self._genuine = np.zeros((len(weights), _BINS))
        self._impostor = np.zeros((len(weights), _BINS))

    def add(self, rows: PeopleRows, fold_of: Ints) -> None:
        """Compares all pictures of the people of two folds with one another.

        Args:
            rows: of these people.
            fold_of: (people,) the fold of each.
        """
        people = np.unique(rows.people)
        own = [rows.unit[rows.people == one] for one in people]
        # People of one fold are compared in each of its pairs of folds.
        repeated = 1 / (_FOLDS - 1)
        genuine = [repeated * _histogram((each @ each.T)[np.triu_indices(len(each), 1)]) for each in own]
        self._genuine += self._weights[:, people] @ np.array(genuine)
        for at, one in enumerate(people[:-1]):
            others = people[at + 1 :]
            share = np.where(fold_of[others] == fold_of[one], repeated, 1.0)
            found = np.array([_histogram((own[at] @ each.T).ravel()) for each in own[at + 1 :]])
            self._impostor += (self._weights[:, [one]] * self._weights[:, others] * share) @ found

    def figures(self, tau: float) -> Floats:
        """TAR and FMR at tau, then TAR at each rate, of each draw: (draws, 2 + rates)."""
        at_tau = int(np.ceil((tau + 1) / 2 * _BINS - 1e-9))
        genuine, impostor = _accepted(self._genuine), _accepted(self._impostor)
        # The lowest threshold at which no more than the rate is accepted; the last entry accepts nobody.
        thresholds = np.array([np.argmax(impostor <= rate, axis=1) for rate in _RATES]).T
        at_rates = np.take_along_axis(genuine, thresholds, axis=1)
        return np.column_stack([genuine[:, at_tau], impostor[:, at_tau], at_rates])


def _histogram(scores: NDArray[np.float32]) -> Floats:
    bins = ((scores.astype(np.float64) + 1) / 2 * _BINS).astype(np.int64).clip(0, _BINS - 1)
    return np.bincount(bins, minlength=_BINS).astype(np.float64)


def _accepted(counts: Floats) -> Floats:
    """The share of scores at or over the lower edge of each bin, and 0 at the end: (draws, bins + 1)."""
    found = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    return np.pad(found / found[:, :1], ((0, 0), (0, 1)))
