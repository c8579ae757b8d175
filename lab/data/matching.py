"""A matcher with a fixed threshold, before and after protection: which decisions change, and how sure that is.

Everything is paired: the same pictures, the same pairs and the same draws of people on both sides, so that what the
clean system gets wrong anyway cancels. Only the *rise* of an error rate is bounded, not the rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lab.data.verification import Floats, Rows
from shared.errors import Unprocessable

AnyRows = NDArray[np.floating[Any]]  # (n, d), unit rows
People = NDArray[np.int64]  # (n,), who is on each picture
Sides = Literal["both", "probe"]  # which sides of a comparison are protected

_BLOCK = 2048
# Person pairs weighted at a time: with 1000 draws, 16 MiB of products.
_AT_ONCE = 4096
# Under this a draw of people is too coarse for a 95 % bound: the chance to miss a certain person is about 1/e.
_FEWEST_PEOPLE = 20
# float32 embeddings are unit to about 1e-6; more than this is not rounding.
_UNIT_ERROR = 1e-4


class TooFewPeople(Unprocessable):
    """Fewer people, or pairs of one a person, than a statement of this strength needs; ``needed`` says how many."""

    kind = "too-few-people"
    title = "Too few people"


@dataclass(frozen=True, slots=True)
class Rise:
    """How far an error rate rises through protection, at an unchanged threshold.

    Attributes:
        clean: the rate without protection, a share of 1.
        protected: the rate with it.
        upper: upper confidence bound of ``protected - clean``.
        harmed: pairs decided right before and wrong after.
        mended: pairs decided wrong before and right after.
        pairs: pairs compared; with only probes protected, each pair counts in both orders.
    """

    clean: float
    protected: float
    upper: float
    harmed: int
    mended: int
    pairs: int

    @property
    def rise(self) -> float:
        """``protected - clean``, as measured."""
        return self.protected - self.clean


@dataclass(frozen=True, slots=True)
class Change:
    """What protection does to a matcher with a fixed threshold.

    Attributes:
        fnmr: over genuine pairs; harmed are accepted before and rejected after.
        fmr: over all pairs of different people; harmed are rejected before and accepted after.
    """

    fnmr: Rise
    fmr: Rise


def genuine_pairs(people: People, *, most: int = 10, seed: int = 0) -> NDArray[np.int64]:
    """Pairs of pictures of one person, at most so many a person.

    Else the rate would be that of the few people with hundreds of pictures.

    Args:
        people: (n,) who is on each picture.
        most: pairs a person; drawn at random without replacement where there are more.
        seed: of the draw.

    Returns:
        (g, 2) int64, rows of pictures, the lower row first.
    """
    random = np.random.default_rng(seed)
    found = [np.empty((0, 2), dtype=np.int64)]
    for one in np.unique(people):
        rows = np.flatnonzero(people == one)
        first, second = np.triu_indices(len(rows), 1)
        if len(first) > most:
            chosen = np.sort(random.choice(len(first), most, replace=False))
            first, second = first[chosen], second[chosen]
        found.append(np.stack([rows[first], rows[second]], axis=1))
    return np.concatenate(found)


def one_pair_a_person(
    first: NDArray[np.int64], second: NDArray[np.int64], *, seed: int = 0, most: int | None = None
) -> NDArray[np.int64]:
    """Chooses pairs such that nobody is in two of them, which makes pairs of independent people independent.

    Pairs are taken in random order; one is kept if neither of its people was met before.

    Args:
        first: (g,) who is on the first picture of each pair.
        second: (g,) who is on the second; the same people for genuine pairs.
        seed: of the order.
        most: stop at so many.

    Returns:
        (k,) int64, positions of the kept pairs, ascending.
    """
    met: set[int] = set()
    kept: list[int] = []
    for at in np.random.default_rng(seed).permutation(len(first)):
        if len(kept) == most:
            break
        pair = {int(first[at]), int(second[at])}
        if met.isdisjoint(pair):
            met |= pair
            kept.append(int(at))
    return np.sort(np.array(kept, dtype=np.int64))


class Comparison:
    """The clean system at its threshold, to be compared with protected versions of the same embeddings.

    Bounds are percentiles over draws of people with replacement (the subsets bootstrap: Bolle, Ratha and Pankanti,
    "Error analysis of pattern recognition systems: the subsets bootstrap", 2004), never of pairs: pairs that share a
    person are not independent. With w_p the times that person p is drawn,

    * FNMR: sum_p w_p h_p / sum_p w_p g_p, with g_p the genuine pairs of p and h_p those harmed less those mended;
    * FMR: sum_{p<q} w_p w_q c_pq / sum_{p<q} w_p w_q n_p n_q, with n_p the pictures of p and c_pq the pairs newly
      accepted less those newly rejected between p and q. Pairs between two draws of one person are no impostors and do
      not count. c is sparse, for only changed decisions enter, and the lower sum is ((sum w n)^2 - sum w^2 n^2) / 2,
      so a draw costs the number of changed person pairs and not of all pairs.

    w_p w_q is the pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", 2007) for pairs within one population: the
    part of the variance that comes from people is right, and the part that comes from single pairs is counted up to
    three times, so the bound on FMR is on the safe side where few, unconnected pairs change.

    A bootstrap that sees no harm cannot imagine any. Where no pair was harmed, the bound is therefore at least
    -ln(1 - confidence) / m (the rule of three: Hanley and Lippman-Hand, 1983), with m the people who have genuine
    pairs for FNMR and, as if they were independent, the impostor pairs for FMR. Embeddings that are not changed at all
    have a bound of exactly 0.

    Args:
        unit: (n, d) unit rows, the clean embeddings; scores are taken in float32, as an index does.
        people: (n,) int64, who is on each picture.
        tau: cosine; a pair is accepted at ``score >= tau``.
        genuine: (g, 2) int64, rows of the genuine pairs; ``genuine_pairs(people)`` if not given.
        sides: ``both`` if probe and gallery are protected, ``probe`` if the gallery stays clean.
        confidence: of each upper bound, one-sided.
        rounds: draws of people.
        seed: of the draws.

    Raises:
        TooFewPeople: under 20 people, or under 20 of them with a genuine pair.
        ValueError: the embeddings are not unit rows, or the shapes do not fit each other.
    """

    def __init__(
        self,
        unit: AnyRows,
        people: People,
        tau: float,
        *,
        genuine: NDArray[np.int64] | None = None,
        sides: Sides = "both",
        confidence: float = 0.95,
        rounds: int = 1000,
        seed: int = 0,
    ) -> None:
        if people.shape != unit.shape[:1]:
            raise ValueError("one person a row is needed")
        if not 0 < confidence < 1:
            raise ValueError("a confidence lies between 0 and 1")
        self.unit = _checked(unit)
        self.tau, self.sides, self.confidence, self.rounds, self.seed = tau, sides, confidence, rounds, seed
        self._drawn: dict[int, NDArray[np.float32]] = {}
        self._names, self._person = np.unique(people, return_inverse=True)
        self._pairs = genuine_pairs(self._person) if genuine is None else genuine
        if np.any(self._person[self._pairs[:, 0]] != self._person[self._pairs[:, 1]]):
            raise ValueError("a genuine pair shows one person")
        _enough(len(self._names), "people")
        _enough(len(np.unique(self._person[self._pairs])), "people with two pictures")

    def against(self, protected: AnyRows, *, draw: int = 0) -> Change:
        """Compares with a protected version.

        Args:
            protected: (n, d) unit rows, of the same pictures.
            draw: another number gives another draw of people, for a second look at the same figures.

        Raises:
            ValueError: not unit rows, or not as many and as long as the clean ones.
        """
        after = _checked(protected)
        if after.shape != self.unit.shape:
            raise ValueError("a protected version has as many rows as the clean one, each as long")
        weights = self._weights(draw)
        same = np.array_equal(after, self.unit)
        return Change(self._fnmr(after, weights, same), self._fmr(after, weights, same))

    def _weights(self, draw: int) -> NDArray[np.float32]:
        """(people, rounds): how often each person is drawn. Kept, since a search asks for the same draw many times."""
        if draw not in self._drawn:
            count = len(self._names)
            drawn = np.random.default_rng([self.seed, draw]).multinomial(count, np.full(count, 1 / count), self.rounds)
            # A row a person, so that the weights of a pair of people are two rows side by side in memory.
            self._drawn[draw] = np.ascontiguousarray(drawn.T, dtype=np.float32)
        return self._drawn[draw]

    def _fnmr(self, made: Rows, weights: NDArray[np.float32], same: bool) -> Rise:
        one, other = self._pairs.T
        sides = [(made[one], made[other])]
        if self.sides == "probe":
            sides = [(made[one], self.unit[other]), (made[other], self.unit[one])]
        before = np.tile(self._accepted(self.unit[one], self.unit[other]), len(sides))
        after = np.concatenate([self._accepted(probe, gallery) for probe, gallery in sides])
        person = np.tile(self._person[one], len(sides))
        count = len(self._names)
        change = np.bincount(person, before.astype(np.float64) - after, count)
        trials = np.bincount(person, minlength=count).astype(np.float64)
        harmed, mended = int(np.sum(before & ~after)), int(np.sum(~before & after))
        drawn = (change @ weights) / (trials @ weights)
        upper = 0.0 if same else self._upper(drawn, harmed, int(np.count_nonzero(trials)))
        return Rise(float(np.mean(~before)), float(np.mean(~after)), upper, harmed, mended, len(before))

    def _fmr(self, after: Rows, weights: NDArray[np.float32], same: bool) -> Rise:
        found = impostor_changes(self.unit, after, self._person, self.tau, self.sides)
        pictures = np.bincount(self._person).astype(np.float64)
        total = (pictures @ weights) ** 2 - (pictures**2) @ weights.astype(np.float64) ** 2
        pairs = total if self.sides == "probe" else total / 2
        sums = np.zeros(self.rounds)
        for start in range(0, len(found.change), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            sums += found.change[part].astype(np.float64) @ (weights[found.first[part]] * weights[found.second[part]])
        upper = 0.0 if same else self._upper(sums / pairs, found.newly_accepted, found.pairs)
        clean, protected = found.accepted_before / found.pairs, found.accepted_after / found.pairs
        return Rise(clean, protected, upper, found.newly_accepted, found.newly_rejected, found.pairs)

    def _accepted(self, probe: Rows, gallery: Rows) -> NDArray[np.bool_]:
        accepted: NDArray[np.bool_] = np.einsum("nd,nd->n", probe, gallery) >= self.tau
        return accepted

    def _upper(self, drawn: Floats, harmed: int, trials: int) -> float:
        upper = float(np.quantile(drawn, self.confidence))
        return upper if harmed else max(upper, -math.log(1 - self.confidence) / trials)


@dataclass(frozen=True, slots=True)
class ImpostorChanges:
    """Decisions over all pairs of different people, before and after.

    Attributes:
        pairs: how many pairs.
        accepted_before: false matches of the clean system.
        accepted_after: false matches of the protected one.
        newly_accepted: pairs rejected before and accepted after.
        newly_rejected: pairs accepted before and rejected after.
        first: (k,) int64, the lower person of each pair of people between whom something changed.
        second: (k,) int64, the higher one.
        change: (k,) int64, newly accepted less newly rejected pairs between them; 0 if they cancel.
    """

    pairs: int
    accepted_before: int
    accepted_after: int
    newly_accepted: int
    newly_rejected: int
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    change: NDArray[np.int64]


def impostor_changes(unit: Rows, protected: Rows, person: People, tau: float, sides: Sides) -> ImpostorChanges:
    """Compares every pair of pictures of different people, in blocks.

    The rates are those of ``verification.all_impostors``; its histogram does not tell which people a pair shows, which
    a draw of people needs.

    Args:
        unit: (n, d) float32, unit rows, clean.
        protected: (n, d) float32, unit rows, of the same pictures.
        person: (n,) int64 in 0..people-1.
        tau: cosine.
        sides: ``both``: each pair once, both protected. ``probe``: each pair in both orders, the gallery side clean.
    """
    count = int(person.max()) + 1
    places = np.arange(len(unit))
    pairs = before_sum = after_sum = up = down = 0
    codes, changes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(unit), _BLOCK):
        rows = slice(start, start + _BLOCK)
        left = start if sides == "both" else 0
        counted = person[rows, None] != person[None, left:]
        if sides == "both":
            counted &= places[None, left:] > places[rows, None]
        before = (unit[rows] @ unit[left:].T >= tau) & counted
        after = (protected[rows] @ (protected if sides == "both" else unit)[left:].T >= tau) & counted
        row, column = np.nonzero(before != after)
        accepted = after[row, column]
        one, other = person[start + row], person[left + column]
        block, change = _summed(np.minimum(one, other) * count + np.maximum(one, other), np.where(accepted, 1, -1))
        codes.append(block)
        changes.append(change)
        pairs += int(np.count_nonzero(counted))
        before_sum += int(np.count_nonzero(before))
        after_sum += int(np.count_nonzero(after))
        up += int(np.count_nonzero(accepted))
        down += int(np.count_nonzero(~accepted))
    code, change = _summed(np.concatenate(codes), np.concatenate(changes))
    return ImpostorChanges(pairs, before_sum, after_sum, up, down, code // count, code % count, change)


def _summed(codes: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct codes, and the sum of the values of each."""
    distinct, index = np.unique(codes, return_inverse=True)
    return distinct, np.bincount(index, values, len(distinct)).astype(np.int64)


def _checked(rows: AnyRows) -> Rows:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1) if rows.ndim == 2 else np.array([np.nan])
    if not np.all(np.abs(lengths - 1) <= _UNIT_ERROR):
        raise ValueError("embeddings are (n, d), with finite rows of length 1")
    return rows.astype(np.float32)


def _enough(found: int, what: str) -> None:
    if found < _FEWEST_PEOPLE:
        raise TooFewPeople(
            f"{_FEWEST_PEOPLE} {what} are needed, and {found} are there; add people.",
            needed=_FEWEST_PEOPLE,
            found=found,
        )
