"""Attacks on the seal, and what faces they give back: known pairs, and a stolen gallery without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lab.attacks.keys import by_adversary, by_nearest, by_neighborhoods, by_optimal_transport, by_spectrum, procrustes
from lab.attacks.rebuilding import adapted
from lab.attacks.scene import KEY, TARGET, Rows, Scene
from lab.data.splits import CALIBRATE, FIT, TEST

# Known pairs, as shares of d.
_SHARES: Final = (1 / 128, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0)
# The attacker's own gallery, for what the profile makes of pictures at hand: no key of the one attacked.
_OWN: Final = 500
_STEPS_A_ROUND: Final = 25
_STOLEN: Final = 0.8  # of all labelled faces at most: the rest is the attacker's
# Shares of the people in a gallery of whom an attacker has other pictures.
_KNOWN: Final = (0.5, 0.25, 0.1)
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
        ("mutual neighbors", lambda: by_nearest(public, stolen_rows, start)),
        ("optimal transport", lambda: by_optimal_transport(public, stolen_rows, start, rounds=rounds, seed=seed)),
        ("adversary", lambda: by_adversary(public, stolen_rows, start, steps=_STEPS_A_ROUND * rounds, seed=seed)),
    ]
    found = [("spectrum and moments", start)]
    for name, refine in refined:
        rotation = refine()
        found.append((f"spectrum and moments, then {name}", rotation))
        if name != "mutual neighbors":
            rotation = by_nearest(public, stolen_rows, rotation)
            found.append((f"spectrum and moments, then {name}, then mutual neighbors", rotation))
    return found


def _split(scene: Scene, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the stolen gallery, those who test first, and the pictures of people who are not in it."""
    labelled = scene.labelled
    order = np.concatenate([labelled.rows(TEST), labelled.rows(CALIBRATE), labelled.rows(FIT)])
    gallery = order[: min(most, round(_STOLEN * len(order)))]
    return gallery, np.setdiff1d(order, order[np.isin(labelled.people[order], labelled.people[gallery])])


def _same_people(scene: Scene, rounds: int) -> list[dict[str, Any]]:
    """The attacker has other pictures of people in the gallery, without names: whose are its templates?

    A template is named where its nearest picture, once the gallery is turned, is of the same person.
    """
    halves = {one: (rows[::2], rows[1::2]) for one, rows in scene.test_people(2).items()}
    everyone = np.array(list(halves))
    alone = [rows[0] for one, rows in scene.test_people(1).items() if one not in halves]
    strangers = np.array(alone, dtype=np.int64)
    cases: list[tuple[str, NDArray[np.int64], int | None]] = [
        ("all other photos of each", everyone, None),
        ("one other photo of each", everyone, 1),
    ]
    for share in _KNOWN:
        some = everyone[: round(share * len(everyone))]
        cases.append((f"all other photos of {share:.0%} of them, and photos of strangers", some, None))
    found = []
    for has, known, most in cases:
        inside = np.concatenate([halves[int(one)][0][:most] for one in everyone])
        outside = [halves[int(one)][1][:most] for one in known] + [strangers[: len(everyone) - len(known)]]
        for named in _named(scene, inside, np.concatenate(outside), known, rounds):
            found.append({"has": has, **named})
    return found


def _named(
    scene: Scene, inside: NDArray[np.int64], outside: NDArray[np.int64], known: NDArray[np.int64], rounds: int
) -> Iterator[dict[str, Any]]:
    public, stolen_rows, truth = (
        scene.target.plain(scene.clean[outside], _OWN),
        scene.wire[inside],
        scene.opened[inside],
    )
    people = scene.labelled.people
    can_be = np.isin(people[inside], known)
    starts: list[tuple[str, Matrix | None]] = [
        ("attacker with the key", None),
        ("spectrum", by_spectrum(public, stolen_rows)),
        ("neighborhoods", by_neighborhoods(public, stolen_rows)),
    ]
    for name, start in starts:
        opened = truth
        if start is not None:
            rotation = by_optimal_transport(public, stolen_rows, start, rounds=rounds, seed=scene.seed)
            opened = np.asarray(stolen_rows @ by_nearest(public, stolen_rows, rotation), dtype=np.float32)
        nearest = np.argmax(opened @ public.T, axis=1)
        yield {
            "method": name if start is None else f"{name}, then optimal transport, then mutual neighbors",
            "templates": len(inside),
            "pictures": len(outside),
            "named": float(np.mean((people[outside][nearest] == people[inside])[can_be])),
            "cosine": float(np.sum(opened * truth, axis=1).mean()),
        }


def _opened(few: Scene, decoder: Any, rotation: Matrix) -> dict[str, Any]:
    """How near a guessed rotation brings templates to what the right one gives, and the faces that come of it."""
    opened = np.asarray(few.wire @ rotation, dtype=np.float32)
    near = np.sum(few.of_cases(opened) * few.of_cases(few.opened), axis=1)
    outcome = few.score(decoder, opened)
    shares = {kind: getattr(outcome, kind)[TARGET] for kind in ("type_1", "type_2", "stranger")}
    return {
        "cosine": float(near.mean()),
        **{kind: {"value": s.value, "low": s.low, "high": s.high} for kind, s in shares.items()},
        "ssim": outcome.ssim.value,
    }


def _between_strangers(scene: Scene) -> float:
    """The mean cosine of open templates of two people: what a guess that knows nothing of the key can reach."""
    rows, others = scene.of_cases(scene.opened), scene.opened[scene.strangers()]
    return float(np.sum(rows * others, axis=1).mean())
