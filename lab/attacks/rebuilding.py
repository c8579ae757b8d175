"""Attacks that rebuild faces: decoders by what they learned on, inversion by gradients, many templates of a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lab.attacks.attackers import denoised
from lab.attacks.target import CLEAN, KEY, OPENED, OTHER_KEYS, PLAIN, WIRE, AttackContext, row, surfaces
from lab.data.embedders import unit
from lab.data.pixels import embedded, resized
from lab.data.verification import Rows
from lab.defence.decoders import rebuilt
from lab.defence.training import descend
from lab.evaluation.reconstruction import TARGET

Faces = NDArray[np.float32]
_SIDE: Final = 64
_CHUNK: Final = 8  # what the torch embedder takes fastest
_PIXEL_RATE: Final = 0.05
_LATENT_RATE: Final = 0.03
_START_NOISE: Final = 0.3
_LATENT_NOISE: Final = 0.05
_LATENT_PULL: Final = 0.05  # towards vectors of length one, which are all that the decoder knows


def by_pixels(
    targets: Rows,
    embedder: nn.Module,
    average: Faces,
    *,
    steps: int,
    restarts: int,
    smooth: float = 2.0,
    seed: int = 0,
) -> Faces:
    """Descends on the pixels, with total variation to keep them a picture (Mahendran & Vedaldi, CVPR 2015).

    Args:
        targets: (n, d) float32, unit rows.
        embedder: differentiable embedder.
        average: (3, s, s) float32 in 0..1, the mean of the attacker's own pictures.
        steps: of Adam.
        restarts: from other noise; the best is kept.
        smooth: weight of the total variation.
        seed: of the noise.

    Returns:
        (n, 3, 64, 64) float32 in 0..1.
    """
    mean = torch.logit(resized(torch.from_numpy(np.ascontiguousarray(average))[None], _SIDE).clamp(0.02, 0.98))

    def begin(rows: Tensor, _: int, draws: torch.Generator) -> Tensor:
        return mean + _START_NOISE * torch.randn((len(rows), 3, _SIDE, _SIDE), generator=draws)

    def made(at: Tensor) -> tuple[Tensor, Tensor]:
        faces = torch.sigmoid(at)
        across = (faces[..., 1:] - faces[..., :-1]).abs().mean(dim=(1, 2, 3))
        down = (faces[..., 1:, :] - faces[..., :-1, :]).abs().mean(dim=(1, 2, 3))
        return faces, smooth * (across + down)

    return _descended(targets, embedder, begin, made, steps, restarts, _PIXEL_RATE, seed)


def by_latent(
    targets: Rows, embedder: nn.Module, decoder: nn.Module, *, steps: int, restarts: int, seed: int = 0
) -> Faces:
    """Descends on what a decoder is given, so that the picture stays a face.

    Args:
        targets: (n, d) float32, unit rows.
        embedder: differentiable embedder.
        decoder: from vectors (n, d) to faces.
        steps: of Adam.
        restarts: the first from the target itself, others from noise around it; the best is kept.
        seed: of the noise.

    Returns:
        (n, 3, s, s) float32 in 0..1.
    """

    def begin(rows: Tensor, number: int, draws: torch.Generator) -> Tensor:
        return rows + (_LATENT_NOISE if number else 0.0) * torch.randn(rows.shape, generator=draws)

    def made(at: Tensor) -> tuple[Tensor, Tensor]:
        return decoder(at), _LATENT_PULL * (at.norm(dim=1) - 1) ** 2

    return _descended(targets, embedder, begin, made, steps, restarts, _LATENT_RATE, seed)


def _descended(
    targets: Rows,
    embedder: nn.Module,
    begin: Callable[[Tensor, int, torch.Generator], Tensor],
    made: Callable[[Tensor], tuple[Tensor, Tensor]],
    steps: int,
    restarts: int,
    rate: float,
    seed: int,
) -> Faces:
    """Of all restarts, each face whose embedding came nearest to its target, which an attacker can tell.

    Args:
        begin: from targets, the number of the restart and random numbers, to what is descended on.
        made: from that, faces and what they cost beside 1 - cosine, (m,).
    """
    found = []
    for at in range(0, len(targets), _CHUNK):
        rows = torch.from_numpy(np.ascontiguousarray(targets[at : at + _CHUNK]))
        best, nearest = None, torch.full((len(rows),), -np.inf)
        for number in range(restarts):
            draws = torch.Generator().manual_seed((seed * 1009 + number) * 100_003 + at)
            free = begin(rows, number, draws).requires_grad_(True)
            optimizer = torch.optim.Adam([free], lr=rate)
            for _ in range(steps):
                faces, cost = made(free)
                loss = (1 - (embedded(embedder, faces) * rows).sum(dim=1) + cost).sum()
                descend(optimizer, loss)
            with torch.no_grad():
                faces = made(free)[0]
                cosine = (embedded(embedder, faces) * rows).sum(dim=1)
                nearer = cosine > nearest
                best = faces if best is None else torch.where(nearer[:, None, None, None], faces, best)
                nearest = torch.maximum(nearest, cosine)
        if best is None:
            raise ValueError("there is at least one start")
        found.append(best.numpy())
    return np.concatenate(found)


# Galleries whose templates an attacker without the key learns on: their keys are known to nobody else either.
_FIRST_OTHER: Final = 1000
_OTHERS: Final = 64
_ATTACKED_KEYS: Final = 10  # of galleries with the same people, by who has none of them
_AVERAGED: Final = (1, 4, 16, 64)
_MOST_PEOPLE: Final = 50
_DRAWS: Final = 3
_HELD_BACK: Final = 1


def learned_on(context: AttackContext, knows: str) -> Rows:
    """Templates of the attacker's own pictures, by ``KEY`` or ``OTHER_KEYS``: (n, d) float32."""
    clean = context.attacker.unit
    if knows == KEY:
        return context.target.plain(clean)
    gallery = np.random.default_rng([context.seed, 17]).integers(0, _OTHERS, len(clean))
    made = np.empty_like(clean)
    for number in np.unique(gallery):
        own = gallery == number
        made[own] = context.target.templates(clean[own], _FIRST_OTHER + int(number))
    return made


def attacked(context: AttackContext, knows: str) -> tuple[str, Rows]:
    """What somebody with this knowledge feeds to a decoder."""
    return (OPENED if context.target.seals else WIRE, context.opened) if knows == KEY else (WIRE, context.wire)


def adapted(context: AttackContext, knows: str) -> nn.Module:
    """The strongest decoder for what somebody knows."""
    attacker = context.attacker
    if knows == CLEAN:
        return attacker.best()
    return attacker.adapted(learned_on(context, knows), f"{knows} {context.target.profile.pin.sha256}")


def floors(context: AttackContext) -> list[dict[str, Any]]:
    """What an attack must beat to be one: nobody's face, another person's, and noise."""
    best = context.attacker.best()
    average = context.attacker.average()
    count = len(context.attacked)
    random = np.random.default_rng([context.seed, 23])
    noise = unit(random.standard_normal((count, context.clean.shape[1])).astype(np.float32))
    stranger = np.ascontiguousarray(context.clean[context.strangers()])
    found = [
        ("average face", np.ascontiguousarray(np.broadcast_to(average, (count, *average.shape)))),
        ("another person's embedding", rebuilt(best, stranger)),
        ("a random embedding", rebuilt(best, noise)),
    ]
    return [row(name, "", "", context.judged(faces)) for name, faces in found]


def decoders(context: AttackContext) -> list[dict[str, Any]]:
    """Decoders of all families that learned on unprotected embeddings, and the best one trained on."""
    found = []
    for family in context.attacker.effort.families:
        decoder = context.attacker.decoder(family)
        for on, templates in surfaces(context).items():
            found.append(row(f"decoder, {family}", CLEAN, on, context.score(decoder, templates)))
    best = context.attacker.best()
    for on, templates in surfaces(context).items():
        found.append(row(f"decoder, {context.attacker.lead()}, trained on", CLEAN, on, context.score(best, templates)))
    return found


def adaptive(context: AttackContext) -> list[dict[str, Any]]:
    """Denoise then decode, and a decoder retrained behind the denoiser, without the key and with it."""
    found = []
    for knows in (OTHER_KEYS, KEY):
        on, templates = attacked(context, knows)
        galleries = [context.of_cases(templates)]
        if knows == OTHER_KEYS and context.target.seals:
            # No key is more to this attacker than another: so many are attacked that a small gain would show.
            own = context.of_cases(context.clean)
            galleries += [context.target.templates(own, number) for number in range(1, _ATTACKED_KEYS)]
        wide, rows = context.repeated(len(galleries)), np.concatenate(galleries)
        denoiser = context.attacker.denoiser(learned_on(context, knows))
        cleaned = denoised(denoiser, rows)
        near = float(np.sum(cleaned * wide.of_cases(context.clean), axis=1).mean())
        outcome = wide.judged(rebuilt(context.attacker.best(), cleaned))
        keys = len(galleries)
        found.append(row("denoise, then decode", knows, on, outcome, cosine_of_embedding=near, keys=keys))
        outcome = wide.judged(rebuilt(adapted(context, knows), rows))
        found.append(row("decoder retrained", knows, on, outcome, keys=keys))
    return found


def inversion(context: AttackContext) -> list[dict[str, Any]]:
    """Gradient descent through the embedder: on pixels, and on what the best decoder is given."""
    attacker, effort = context.attacker, context.attacker.effort
    few = context.narrowed(effort.inverted, panel=True)
    steps, restarts, seed = effort.inversion_steps, effort.restarts, context.seed
    denoiser = attacker.denoiser(learned_on(context, KEY))
    targets = [
        (CLEAN, PLAIN, few.of_cases(context.clean)),
        (CLEAN, WIRE, few.of_cases(context.wire)),
        (KEY, attacked(context, KEY)[0], denoised(denoiser, few.of_cases(context.opened))),
    ]
    found = []
    for knows, on, rows in targets:
        faces = by_pixels(rows, attacker.embedder, attacker.average(), steps=steps, restarts=restarts, seed=seed)
        found.append(row("gradient descent, pixels", knows, on, few.judged(faces)))
        faces = by_latent(rows, attacker.embedder, attacker.best(), steps=steps // 2, restarts=restarts, seed=seed)
        found.append(row("gradient descent, decoder's input", knows, on, few.judged(faces)))
    return found


def averaging(context: AttackContext) -> list[dict[str, Any]]:
    """The mean of 1, 4, 16 and 64 templates of a person, rebuilt, and shown as that person's on another picture."""
    decoders = {
        PLAIN: (CLEAN, context.clean, context.attacker.best()),
        WIRE: (OTHER_KEYS, context.wire, adapted(context, OTHER_KEYS)),
    }
    decoders[attacked(context, KEY)[0]] = (KEY, context.opened, adapted(context, KEY))
    found = []
    for count in _AVERAGED:
        groups = _groups(context, count)
        if not groups:
            continue
        rows = np.array([group[:-_HELD_BACK] for group in groups])
        other = np.array([group[-1] for group in groups])
        cases = replace(context, attacked=rows[:, 0], other=other, judges={TARGET: context.judges[TARGET]})
        people = len(np.unique(context.labelled.people[other]))
        for on, (knows, templates, decoder) in decoders.items():
            faces = rebuilt(decoder, unit(templates[rows].mean(axis=1)))
            found.append(row(f"mean of {count}", knows, on, cases.judged(faces), averaged=count, people=people))
    return found


def _groups(context: AttackContext, count: int) -> list[NDArray[np.int64]]:
    """Pictures of people who have enough: so many that are averaged, and one that is not."""
    random = np.random.default_rng([context.seed, 29, count])
    people = context.test_people(count + _HELD_BACK)
    chosen = random.permutation(np.array(sorted(people)))[:_MOST_PEOPLE]
    return [random.permutation(people[int(one)])[: count + _HELD_BACK] for one in chosen for _ in range(_DRAWS)]
