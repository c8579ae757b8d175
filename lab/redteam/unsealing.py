"""Attacks on the seal, and what faces they give back: known pairs, and a stolen gallery without any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lab.parts import CALIBRATE, FIT, TEST
from lab.redteam.keys import by_adversary, by_nearest, by_optimal_transport, by_spectrum, procrustes
from lab.redteam.rebuilding import adapted
from lab.redteam.scene import KEY, TARGET, Rows, Scene

# Known pairs, as shares of d.
_SHARES: Final = (1 / 128, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0)
# The attacker's own gallery, for what the profile makes of pictures at hand: no key of the one attacked.
_OWN: Final = 500
_STEPS_A_ROUND: Final = 25
Matrix = NDArray[np.float64]


def pairs(scene: Scene) -> list[dict[str, Any]]:
    """An insider with n faces whose embedding and template are both known: the rotation that fits them best."""
    few = scene.narrowed(scene.attacker.effort.curve)
    decoder = adapted(scene, KEY)
    known = np.random.default_rng([scene.seed, 31]).permutation(scene.labelled.rows(CALIBRATE))
    dim = scene.clean.shape[1]
    found = []
    for share in _SHARES:
        rows = known[: max(1, round(share * dim))]
        rotation = procrustes(scene.target.plain(scene.clean[rows], _OWN), scene.wire[rows])
        found.append({"pairs": len(rows), **_opened(few, decoder, rotation)})
    return found


def stolen(scene: Scene) -> dict[str, Any]:
    """A stolen gallery, and no pairs: its shape in space is matched to that of faces at hand."""
    effort = scene.attacker.effort
    few = scene.narrowed(effort.attacked or len(scene.chosen.attacked))
    decoder = adapted(scene, KEY)
    gallery, rest = _split(scene, effort.stolen)
    # Others' faces, under the same profile: the attacker's own and, alike in kind, those of people not in the gallery.
    public = np.concatenate(
        [scene.target.plain(scene.attacker.unit, _OWN), scene.target.plain(scene.clean[rest], _OWN)]
    )
    found: dict[str, Any] = {
        "templates": len(gallery),
        "public": len(public),
        "strangers": _between_strangers(scene),
        "methods": [{"method": "none", **_opened(few, decoder, np.eye(scene.clean.shape[1]))}],
    }
    for name, rotation in _alignments(public, scene.wire[gallery], effort.alignment_rounds, scene.seed):
        found["methods"].append({"method": name, **_opened(few, decoder, rotation)})
    found["same_people"] = _same_people(scene, effort.alignment_rounds)
    return found


def _alignments(public: Rows, stolen_rows: Rows, rounds: int, seed: int) -> list[tuple[str, Matrix]]:
    start = by_spectrum(public, stolen_rows)
    refined: list[tuple[str, Callable[[], Matrix]]] = [
        ("mutual neighbours", lambda: by_nearest(public, stolen_rows, start)),
        ("optimal transport", lambda: by_optimal_transport(public, stolen_rows, start, rounds=rounds, seed=seed)),
        ("adversary", lambda: by_adversary(public, stolen_rows, start, steps=_STEPS_A_ROUND * rounds, seed=seed)),
    ]
    found = [("spectrum and moments", start)]
    for name, refine in refined:
        rotation = refine()
        found.append((f"spectrum and moments, then {name}", rotation))
        if name != "mutual neighbours":
            rotation = by_nearest(public, stolen_rows, rotation)
            found.append((f"spectrum and moments, then {name}, then mutual neighbours", rotation))
    return found


def _split(scene: Scene, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the stolen gallery, those who test first, and the pictures of people who are not in it."""
    labelled = scene.labelled
    order = np.concatenate([labelled.rows(TEST), labelled.rows(CALIBRATE), labelled.rows(FIT)])
    gallery = order[:most]
    return gallery, np.setdiff1d(order, order[np.isin(labelled.people[order], labelled.people[gallery])])


def _same_people(scene: Scene, rounds: int) -> dict[str, Any]:
    """The gallery holds one half of each person's pictures, and the attacker has the other, without names.

    How many templates are then nearest to a picture of their own person tells whether somebody's gallery can be named
    from pictures of the same people.
    """
    halves: tuple[list[int], list[int]] = ([], [])
    for rows in scene.test_people(2).values():
        for place, one in enumerate(rows):
            halves[place % 2].append(int(one))
    inside, outside = (np.array(half) for half in halves)
    public, stolen_rows = scene.target.plain(scene.clean[outside], _OWN), scene.wire[inside]
    people = scene.labelled.people
    truth = scene.opened[inside]
    methods = [("has the key", None), *_alignments(public, stolen_rows, rounds, scene.seed)]
    found = []
    for name, rotation in methods:
        opened = truth if rotation is None else np.asarray(stolen_rows @ rotation, dtype=np.float32)
        nearest = np.argmax(opened @ public.T, axis=1)
        named = float(np.mean(people[outside][nearest] == people[inside]))
        cosine = float(np.sum(opened * truth, axis=1).mean())
        found.append({"method": name, "named": named, "cosine": cosine})
    return {"people": len(scene.test_people(2)), "templates": len(inside), "pictures": len(outside), "methods": found}


def _opened(few: Scene, decoder: Any, rotation: Matrix) -> dict[str, Any]:
    """How near a guessed rotation brings templates to what the right one gives, and the faces that come of it."""
    opened = np.asarray(few.wire @ rotation, dtype=np.float32)
    near = np.sum(few.of_cases(opened) * few.of_cases(few.opened), axis=1)
    outcome = few.score(decoder, opened)
    shares = {kind: getattr(outcome, kind)[TARGET] for kind in ("type_1", "type_2")}
    return {
        "cosine": float(near.mean()),
        **{kind: {"value": s.value, "low": s.low, "high": s.high} for kind, s in shares.items()},
        "ssim": outcome.ssim.value,
    }


def _between_strangers(scene: Scene) -> float:
    """The mean cosine of open templates of two people: what a guess that knows nothing of the key can reach."""
    rows, others = scene.of_cases(scene.opened), scene.opened[scene.strangers()]
    return float(np.sum(rows * others, axis=1).mean())
