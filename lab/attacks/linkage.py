"""Attacks that rebuild nothing: linking a person's templates, telling who is enrolled, and what a person is like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lab.attacks.attackers import scores, train_classifier
from lab.attacks.key_recovery import STARTS, Start, aligned, neighborhoods
from lab.attacks.rebuilding import learned_on
from lab.attacks.target import CLEAN, KEY, OTHER_KEYS, PLAIN, AttackContext
from lab.data.verification import Floats, Rows
from lab.evaluation.demographics import labels_of

_BINS: Final = 40
_GRID: Final = 2001


def d_sys(mated: Floats, other: Floats, *, bins: int = _BINS) -> float:
    """Global linkability of a score (Gomez-Barrero et al., IEEE TIFS 13, 2018), with equal priors.

    0: scores of one person and of two are distributed alike; 1: they never overlap. Estimated by histograms whose
    bins hold equal shares of both kinds together, so it is a little over 0 also where there is nothing to find:
    compare with ``d_sys_by_chance``.

    Args:
        mated: (n,) scores of one person.
        other: (m,) scores of two.
        bins: of the histogram.
    """
    both = np.concatenate([np.quantile(scores, np.linspace(0, 1, _GRID)) for scores in (mated, other)])
    edges = np.quantile(both, np.linspace(0, 1, bins + 1)[1:-1])
    p, q = (np.bincount(np.searchsorted(edges, s), minlength=bins) / len(s) for s in (mated, other))
    ratio = np.divide(p, q, out=np.full(bins, np.inf), where=q > 0)
    with np.errstate(invalid="ignore"):
        local = np.where(np.isinf(ratio), 1.0, 2 * ratio / (1 + ratio) - 1)
    return float(np.sum(p * np.clip(local, 0, None)))


def d_sys_by_chance(mated: int, other: int, *, rounds: int = 20, bins: int = _BINS, seed: int = 0) -> float:
    """What the estimate gives on average for so many scores that tell nothing."""
    random = np.random.default_rng(seed)
    found = [d_sys(random.random(mated), random.random(other), bins=bins) for _ in range(rounds)]
    return float(np.mean(found))


def rank_1(likeness: Floats) -> float:
    """The share of rows whose largest score is on the diagonal: (n, n), one a person. Ties count as lost."""
    best = likeness.max(axis=1)
    own = np.diagonal(likeness)
    return float(np.mean((own >= best) & ((likeness >= best[:, None]).sum(axis=1) == 1)))


def likeness_of_neighborhoods(first: Rows, second: Rows) -> Floats:
    """How alike the neighborhoods of two galleries' templates are: (n, k) and (m, k) to (n, m), 0 at most."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2 * first @ second.T
    return np.asarray(-squares, dtype=np.float64)


def _cosines(first: Rows, second: Rows) -> Floats:
    return np.asarray(first.astype(np.float64) @ second.T)


def _laid(start: Start, context: AttackContext, first: Rows, second: Rows) -> Floats:
    return _cosines(first, aligned(context, first, second, start))


# Ways to compare the templates of two galleries.
WAYS: Final[dict[str, Callable[[AttackContext, Rows, Rows], Floats]]] = {
    "templates compared": lambda _, a, b: _cosines(a, b),
    "neighborhoods compared": lambda _, a, b: likeness_of_neighborhoods(neighborhoods(a), neighborhoods(b)),
} | {
    f"galleries laid on each other by {name}, templates compared": partial(_laid, start)
    for name, start in STARTS.items()
}
# Not attacks, but what they are compared with.
OPENED: Final = "both keys stolen, templates compared"
UNPROTECTED: Final = "no protection, embeddings compared"
REFERENCES: Final = (OPENED, UNPROTECTED)
_PEOPLE: Final = 1000
_FIRST: Final = 2000  # of the galleries that are linked
_LAID: Final = 3  # of these, as many as are laid on each other, which takes longer
_REPEATED: Final = 20  # pairs of galleries, each with keys of its own
_OTHER_SCORES: Final = 20_000  # of two people, a pair of galleries
_LABELLED: Final = (100, 1000)
_ATTRIBUTED: Final = 8000


def linkage(context: AttackContext) -> list[dict[str, Any]]:
    """Two galleries, or two epochs of one, with the same people in both: whose templates belong together?

    Templates are compared as the cloud compares them, and by what no rotation changes: how each lies to its gallery.
    """
    people = list(context.test_people(2).values())[:_PEOPLE]
    first, another = (np.array([rows[at] for rows in people]) for at in (0, 1))
    found = []
    for picture, second in (("other photo", another), ("same photo", first)):
        for where, step, epoch in (("two galleries", 1, 0), ("two epochs", 0, 1)):
            made = []
            for number in range(_FIRST, _FIRST + 2 * _REPEATED, 2):
                one = context.target.templates(context.clean[first], number)
                made.append((one, context.target.templates(context.clean[second], number + step, epoch)))
            for how, way in WAYS.items():
                few = made[:_LAID] if how.startswith("galleries laid") else made
                found.append(_linked(how, picture, where, [way(context, a, b) for a, b in few]))
    one, other = context.clean[first], context.clean[another]
    opened = _cosines(context.target.plain(one, 1), context.target.plain(other, 2))
    for how, likeness in ((OPENED, opened), (UNPROTECTED, _cosines(one, other))):
        found.append(_linked(how, "other photo", "two galleries", [likeness]))
    return found


def _linked(how: str, picture: str, where: str, likeness: list[Floats]) -> dict[str, Any]:
    people = len(likeness[0])
    random = np.random.default_rng(37)
    mated = np.concatenate([np.diagonal(each) for each in likeness])
    other = []
    for each in likeness:
        row, column = random.integers(0, people, _OTHER_SCORES), random.integers(1, people, _OTHER_SCORES)
        other.append(each[row, (row + column) % people])
    ranks = np.array([rank_1(each) for each in likeness])
    others = np.concatenate(other)
    return {
        "how": how,
        "picture": picture,
        "where": where,
        "people": people,
        "pairs_of_galleries": len(likeness),
        "d_sys": d_sys(mated, others),
        "d_sys_by_chance": d_sys_by_chance(len(mated), len(others)),
        "rank_1": float(ranks.mean()),
        "rank_1_worst": float(ranks.max()),
        "rank_1_by_chance": 1 / people,
    }


def attributes(context: AttackContext) -> list[dict[str, Any]]:
    """Sex and age band of a face, from its template, by a classifier; the attacker's own pictures carry the labels.

    One half of the pictures is learned on, the other half is attacked; nothing where no picture has labels.
    """
    labels = labels_of(context.attacker.pictures.names)
    known = labels.known
    sexes, ages = labels.sex[known], np.searchsorted(AGE_BANDS, labels.age[known], side="right")
    random = np.random.default_rng([context.seed, 41])
    order = random.permutation(len(known))[:_ATTRIBUTED]
    if len(order) < 4 * _LABELLED[0]:
        return []
    half = len(order) // 2
    learn, test = order[:half], order[half:]
    unit = context.attacker.unit
    wire = context.target.templates(unit)
    opened = context.target.opened(wire)
    others = learned_on(context, OTHER_KEYS)
    ways: list[tuple[str, Rows, Rows, NDArray[np.int64]]] = [
        (f"{CLEAN}; attacks {PLAIN}", unit, unit, learn),
        (CLEAN, unit, wire, learn),
        (OTHER_KEYS, others, wire, learn),
        (KEY, learned_on(context, KEY), opened, learn),
        *((f"knows labels of {n} people of the gallery", wire, wire, learn[:n]) for n in _LABELLED if n <= half),
    ]
    found = []
    for knows, seen, attacked, rows in ways:
        entry: dict[str, Any] = {"knows": knows, "learned": len(rows), "attacked": len(test)}
        for name, values, classes in (("sex", sexes, 2), ("age", ages, int(ages.max()) + 1)):
            network = train_classifier(seen[known[rows]], values[rows], classes, seed=context.seed)
            probabilities = scores(network, attacked[known[test]])
            entry[f"{name}_auc"] = auc_of_classes(probabilities, values[test])
            if classes == 2:
                entry[f"{name}_interval"] = auc_interval(probabilities[:, 1], values[test] == 1)
        found.append(entry)
    return found


def membership(context: AttackContext) -> list[dict[str, Any]]:
    """Is the person of a picture enrolled? Half of the people are, with another picture."""
    people = list(context.test_people(2).values())[:_PEOPLE]
    half = len(people) // 2
    enrolled = np.array([rows[0] for rows in people[:half]])
    asked = np.array([rows[1] for rows in people])
    inside = np.arange(len(people)) < half
    wire = context.target.templates(context.clean[enrolled])
    ways = [
        (f"{CLEAN}; attacks {PLAIN}", context.clean[enrolled], context.clean[asked]),
        (CLEAN, wire, context.clean[asked]),
        ("makes templates under a key of the attacker's own", wire, context.target.templates(context.clean[asked], 3)),
        (KEY, context.target.opened(wire), context.target.plain(context.clean[asked])),
    ]
    found = []
    for knows, gallery, probes in ways:
        nearest = (probes @ gallery.T).max(axis=1).astype(np.float64)
        low, high = auc_interval(nearest, inside)
        value = auc(nearest[inside], nearest[~inside])
        found.append({"knows": knows, "people": len(people), "auc": value, "low": low, "high": high})
    return found


# Years at which a new band begins.
AGE_BANDS: Final = (13, 20, 30, 40, 60)


def auc(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve: how often a positive's score is over a negative's, ties half."""
    ranks = rankdata(np.concatenate([positive, negative]))
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def auc_of_classes(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """The mean AUC of each class against the rest, of classes that occur: (n, classes) and (n,)."""
    found = []
    for one in range(probabilities.shape[1]):
        own = labels == one
        if own.any() and not own.all():
            found.append(auc(probabilities[own, one], probabilities[~own, one]))
    return float(np.mean(found))


def auc_interval(
    values: Floats, positive: NDArray[np.bool_], *, rounds: int = 200, seed: int = 0
) -> tuple[float, float]:
    """A 95 % interval of an AUC by bootstrap over faces."""
    random = np.random.default_rng(seed)
    one, other = values[positive], values[~positive]
    found = [
        auc(one[random.integers(0, len(one), len(one))], other[random.integers(0, len(other), len(other))])
        for _ in range(rounds)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
