"""What protections cost and what they buy, ours and others', on the same axes.

Every way to protect is measured on the same people: accuracy at the unchanged threshold with both sides of a comparison
protected, and the faces rebuilt from templates by an attacker who learned on unprotected embeddings, and by one
who knows the protection and learned to undo it (a denoiser before the best decoder).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.profiles.files import available, load_profile
from lab.attacks.attackers import denoised, train_denoiser
from lab.attacks.baselines import advface, crafter, gaussian_noise, scaled_noise, steered
from lab.attacks.target import AttackContext, Target
from lab.data.splits import FIT, TEST
from lab.data.verification import Ints, Rows
from lab.defence.decoders import rebuilt
from lab.defence.erase import erase_matrix, erased, scatter
from lab.evaluation.accuracy import accuracy
from lab.evaluation.reconstruction import TARGET

# Of the attacker's pictures, for each point; and of people who test, for accuracy. Some ways descend face by face.
_LEARNED: Final = (4000, 1000)
_ROWS: Final = (3000, 600)
# Fewer people than this a point are a quick look.
_CURVE: Final = 100
_SHADOW: Final = "upsampling"
_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Way:
    """A way to protect.

    Attributes:
        name: of the family of ways.
        strength: in words.
        protect: unit rows, and a number that stands for the draw of one gallery, to templates.
        keyed: whether templates are sealed, so that only an attacker with the key can learn to undo it.
    """

    name: str
    strength: str
    protect: Callable[[Rows, int], Rows]
    keyed: bool = False


def frontier(context: AttackContext) -> list[dict[str, Any]]:
    """A point for each way and strength."""
    few = context.narrowed(context.attacker.effort.curve)
    random = np.random.default_rng([context.seed, 43])
    unit = context.attacker.unit
    quick = _quick(context)
    learned = np.sort(random.choice(len(unit), min(_LEARNED[quick], len(unit)), replace=False))
    rows = _tested(few, _ROWS[quick], random)
    return [_point(few, way, learned, rows) for way in _ways(context)]


def _quick(context: AttackContext) -> bool:
    return context.attacker.effort.curve < _CURVE


def _tested(few: AttackContext, most: int, random: np.random.Generator) -> Ints:
    """Rows for accuracy: of as many genuine pairs as there is room for, others, and the cases attacked."""
    labelled = few.labelled
    paired = np.unique(random.permutation(labelled.pairs_of(TEST))[: most // 2])
    others = np.setdiff1d(labelled.rows(TEST), paired)
    drawn = random.choice(others, min(len(others), max(0, most - len(paired))), replace=False)
    return np.unique(np.concatenate([paired, drawn, few.attacked]))


def _point(few: AttackContext, way: Way, learned: Ints, rows: Ints) -> dict[str, Any]:
    attacker, labelled = few.attacker, few.labelled
    made = np.array(labelled.unit)
    made[rows] = way.protect(labelled.unit[rows], 0)
    found = accuracy(labelled, made, made, rows, few.tau)
    taken = few.of_cases(made)
    best = attacker.best()
    seen = way.protect(attacker.unit[learned], 0 if way.keyed else 1)
    denoiser = train_denoiser(seen, attacker.unit[learned], epochs=attacker.effort.denoiser_epochs, seed=few.seed)
    point: dict[str, Any] = {
        "way": way.name,
        "strength": way.strength,
        "tar": found.tar.value,
        "tar_low": found.tar.low,
        "tar_high": found.tar.high,
        "fmr": found.fmr,
        "tar_at_fmr_1e3": found.tar_at_fmr_1e3,
        "attacks": {},
    }
    for knows, faces in (
        ("learned on unprotected embeddings", rebuilt(best, taken)),
        ("learned to undo it", rebuilt(best, denoised(denoiser, taken))),
    ):
        outcome = few.judged(faces)
        point["attacks"][knows] = {
            "ssim": outcome.ssim.value,
            "cosine": outcome.cosine[TARGET].value,
            **{kind: asdict(getattr(outcome, kind)[TARGET]) for kind in ("type_1", "type_2")},
        }
    return point


def _ways(context: AttackContext) -> Iterator[Way]:
    quick = _quick(context)
    dim = context.clean.shape[1]
    yield Way("no protection", "", lambda unit, _: np.array(unit))
    for degrees in (20.0,) if quick else (5.0, 10.0, 20.0, 30.0, 45.0):
        yield Way("Gaussian noise", f"{degrees:g}°", _at(gaussian_noise, degrees))
    for factor in (2.5,) if quick else (1.0, 2.5, 5.0):
        yield Way("scale and perturb", f"factor {factor:g}", _at(scaled_noise, factor))
    shadow = context.attacker.decoder(
        _SHADOW if _SHADOW in context.attacker.effort.families else context.attacker.lead()
    )
    for name, cost in (("AdvFace-style", advface), ("Crafter-style", crafter)):
        over = partial(steered, decoder=shadow, cost=cost, steps=_STEPS)
        for degrees in (20.0,) if quick else (15.0, 30.0):
            yield Way(name, f"{degrees:g}°", _at(over, degrees))
    known = context.labelled.rows(FIT)
    spread = scatter(context.clean[known], context.labelled.people[known], at_least=1)
    for share in (0.5,) if quick else (0.125, 0.25, 0.375, 0.5, 0.625, 0.75):
        matrix = erase_matrix(spread, round(share * dim), 1.0)
        yield Way("erase alone", f"{round(share * dim)} of {dim}", _erasing(matrix))
    yield from _of_profiles(context)


def _at(protect: Callable[..., Rows], strength: float) -> Callable[[Rows, int], Rows]:
    return lambda unit, number: protect(unit, strength, seed=number)


def _erasing(matrix: NDArray[np.float64]) -> Callable[[Rows, int], Rows]:
    return lambda unit, _: erased(unit, matrix)


def _of_profiles(context: AttackContext) -> Iterator[Way]:
    profile = context.target.profile
    yield Way(f"profile {profile.pin.name}, key stolen", "", context.target.plain, keyed=True)
    if context.target.seals:
        yield Way(f"profile {profile.pin.name}", "sealed", context.target.templates)
    for name in available():
        if name == profile.pin.name:
            continue
        other = load_profile(name)
        step = other.document.patronus
        if step is None:
            if context.target.profile.document.patronus is not None:
                yield Way("seal alone", "sealed", Target(other).templates)
        elif other.document.embedder_sha256 == context.attacker.encoder.sha256:
            yield Way(f"profile {name}" + (", key stolen" if other.seals else ""), "", Target(other).plain, keyed=True)
