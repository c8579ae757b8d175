"""One seal for a gallery, or one for each subject: what attacks on all of a gallery at once still find.

Nothing is rebuilt here. With one seal, all templates of a gallery keep their angles to each other; with one for each
subject, which a verify-only gallery has, only those of one subject do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from lab.attacks.key_recovery import STARTS, aligned, procrustes
from lab.attacks.linkage import WAYS, d_sys, d_sys_by_chance, rank_1
from lab.attacks.target import AttackContext
from lab.data.splits import CALIBRATE
from lab.data.verification import Floats, Ints, Rows

D_SYS: Final = "D_sys"
RANK_1: Final = "rank-1"
_PEOPLE: Final = 1000
_FIRST: Final = 3000
_OWN: Final = 500
# Rows of labelled faces, and the number of a gallery, to templates.
Stored = Callable[[Ints, int], Rows]


def scopes(context: AttackContext) -> list[dict[str, Any]]:
    """The same attacks on both kinds of gallery."""
    if not context.target.seals:
        return []
    people = context.labelled.people

    def together(rows: Ints, gallery: int) -> Rows:
        return context.target.templates(context.clean[rows], gallery)

    def one_by_one(rows: Ints, gallery: int) -> Rows:
        return context.target.one_by_one(context.clean[rows], people[rows], gallery)

    found = []
    both = zip(_figures(context, together), _figures(context, one_by_one), strict=True)
    for (attack, figure, chance, value), (_, _, _, alone) in both:
        found.append({"attack": attack, "figure": figure, "chance": chance, "one_seal": value, "a_seal_each": alone})
    return found


def _figures(context: AttackContext, stored: Stored) -> Iterator[tuple[str, str, float, float]]:
    """The attack, its figure, what chance gives, and what was found.

    Of templates named, chance is what naming the most frequent person each time gives.
    """
    halves = [(rows[::2], rows[1::2]) for rows in context.test_people(2).values()]
    for has, most in (("one other photo of each person", 1), ("all other photos of each person", None)):
        inside, outside = (np.concatenate([half[side][:most] for half in halves]) for side in (0, 1))
        templates, people = _named(context, inside, outside, stored(inside, _FIRST))
        most_frequent = float(np.bincount(context.labelled.people[inside]).max() / len(inside))
        yield f"has {has}, without names", "templates named", most_frequent, templates
        yield f"has {has}, without names", "people named by one template or more", 1 / len(halves), people
    first, second = (np.array([half[side][0] for half in halves[:_PEOPLE]]) for side in (0, 1))
    for picture, rows in (("other photos of the same people", second), ("the same pictures", first)):
        one, other = stored(first, _FIRST), stored(rows, _FIRST + 1)
        ways = [way(context, one, other) for way in WAYS.values()]
        chance = d_sys_by_chance(len(one), len(one) * (len(one) - 1))
        attack = f"links two galleries that hold {picture}"
        yield attack, D_SYS, chance, max(d_sys(*_scores(way)) for way in ways)
        yield attack, RANK_1, 1 / len(one), max(rank_1(way) for way in ways)
    known = np.random.default_rng([context.seed, 47]).permutation(context.labelled.rows(CALIBRATE))
    known = known[: 2 * context.clean.shape[1]]
    rotation = procrustes(context.target.plain(context.clean[known], _OWN), stored(known, _FIRST))
    opened = np.asarray(stored(context.attacked, _FIRST) @ rotation, dtype=np.float32)
    near = np.sum(opened * context.target.plain(context.of_cases(context.clean), _OWN), axis=1)
    yield f"insider with {len(known)} pairs of other people", "cosine of opened templates", 0.0, float(near.mean())


def _named(context: AttackContext, inside: Ints, outside: Ints, templates: Rows) -> tuple[float, float]:
    """The share of templates whose nearest picture, once the gallery is aligned, is of their own person; best start.

    And the share of people of whom that is so for one template or more.
    """
    public = context.target.plain(context.clean[outside], _OWN)
    people = context.labelled.people
    shares = []
    for start in STARTS.values():
        nearest = np.argmax(aligned(context, public, templates, start) @ public.T, axis=1)
        right = people[outside][nearest] == people[inside]
        whole = len(np.unique(people[inside]))
        shares.append((float(right.mean()), len(np.unique(people[inside][right])) / whole))
    return max(shares)


def _scores(likeness: Floats) -> tuple[Floats, Floats]:
    return np.diagonal(likeness), likeness[~np.eye(len(likeness), dtype=bool)]
