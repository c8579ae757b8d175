"""Attacks on the seal: the secret rotation from known pairs, and from a stolen gallery without any.

All give an orthogonal matrix R for which templates are about R x, so that ``templates @ R`` undoes the seal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from lab.attacks.rebuilding import adapted
from lab.attacks.target import KEY, AttackContext
from lab.data.splits import CALIBRATE, FIT, TEST
from lab.data.verification import Floats, Rows
from lab.defence.training import descend
from lab.evaluation.reconstruction import TARGET

_BLOCK: Final = 2048
_MOST: Final = 12_000  # of public faces, in a search for nearest ones
_NEIGHBOURS: Final = 1000
_SHAPES: Final = 3
_VAGUE: Final = 2.0


def procrustes(known: Rows, templates: Rows) -> Floats:
    """The rotation that takes embeddings to their templates best (Schönemann, Psychometrika 31, 1966).

    Args:
        known: (n, d) unit rows. Fewer than d of them leave the rest of the rotation free; it is then any.
        templates: (n, d) unit rows, of the same faces.

    Returns:
        (d, d) orthogonal.
    """
    return _nearest_rotation(templates.astype(np.float64).T @ known.astype(np.float64))


def _nearest_rotation(matrix: Floats) -> Floats:
    """The orthogonal factor of the polar decomposition."""
    u, _, vt = np.linalg.svd(matrix)
    return np.asarray(u @ vt)


def by_spectrum(public: Rows, stolen: Rows) -> Floats:
    """The rotation that takes the principal axes of public templates to those of stolen ones.

    Axes are ordered by their variance; the sign of each follows from the third moment along it and from the mean, as
    far as these can be told from chance.

    Args:
        public: (m, d) templates of other people, not sealed.
        stolen: (n, d) sealed templates.

    Returns:
        (d, d) orthogonal.
    """
    axes, signs = [], []
    for rows in (public, stolen):
        wide = rows.astype(np.float64)
        mean = wide.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(wide.T))
        along = (wide - mean) @ vectors
        deviation = along.std(axis=0)
        skewness = (along**3).mean(axis=0) / deviation**3 / np.sqrt(6 / len(wide))
        shift = (mean @ vectors) / deviation * np.sqrt(len(wide))
        axes.append(vectors)
        signs.append(np.stack([skewness, shift]))
    # Two standard scores that agree in sign on both sides speak for that sign, the smaller of each pair as loudly.
    agreement = (np.sign(signs[0] * signs[1]) * np.minimum(np.abs(signs[0]), np.abs(signs[1]))).sum(axis=0)
    return np.asarray((axes[1] * np.where(agreement < 0, -1.0, 1.0)) @ axes[0].T)


def by_neighborhoods(public: Rows, stolen: Rows) -> Floats:
    """The rotation that fits soft pairs of faces that lie alike to their own sides, which hold the same people.

    How a face lies to all others of its side, no rotation changes. Its few largest principal components are compared.

    Args:
        public: (m, d) templates, not sealed, or of another gallery.
        stolen: (n, d) sealed templates.

    Returns:
        (d, d) orthogonal.
    """
    count = min(_NEIGHBOURS, len(public) - 1, len(stolen) - 1)
    lies = [neighborhoods(rows, nearest=count).astype(np.float64) for rows in (public, stolen)]
    mean = np.concatenate(lies).mean(axis=0)
    _, values, axes = np.linalg.svd(np.concatenate(lies) - mean, full_matrices=False)
    scale = np.sqrt(len(public) + len(stolen)) / values[:_SHAPES]
    one, other = ((each - mean) @ axes[:_SHAPES].T * scale for each in lies)
    apart = (other**2).sum(axis=1)[:, None] + (one**2).sum(axis=1)[None, :] - 2 * other @ one.T
    plan = _sinkhorn(-apart, _VAGUE, rounds=100)
    return _nearest_rotation(stolen.astype(np.float64).T @ plan @ public)


def by_nearest(public: Rows, stolen: Rows, start: Floats, *, rounds: int = 30) -> Floats:
    """Refines a rotation: faces that are each other's nearest are taken for pairs, and Procrustes is solved again.

    Args:
        public: (m, d) templates, not sealed: of other people, or other pictures of the same ones.
        stolen: (n, d) sealed templates.
        start: (d, d).
        rounds: at most.
    """
    if len(public) > _MOST:
        public = public[np.linspace(0, len(public) - 1, _MOST).astype(int)]
    rotation = start
    before = -1
    for _ in range(rounds):
        opened = np.asarray(stolen @ rotation, dtype=np.float32)
        nearest, back = _nearest(opened, public), _nearest(public, opened)
        mutual = np.flatnonzero(back[nearest] == np.arange(len(stolen)))
        rotation = procrustes(public[nearest[mutual]], stolen[mutual])
        agreed = int((nearest[mutual] * 1000003 + mutual).sum() % (1 << 61))
        if agreed == before:
            break
        before = agreed
    return rotation


def _nearest(rows: Rows, among: Rows) -> NDArray[np.int64]:
    found = [np.argmax(rows[at : at + _BLOCK] @ among.T, axis=1) for at in range(0, len(rows), _BLOCK)]
    return np.concatenate(found).astype(np.int64)


def by_optimal_transport(
    public: Rows, stolen: Rows, start: Floats, *, rounds: int = 60, sample: int = 1500, seed: int = 0
) -> Floats:
    """Refines a rotation by soft pairs: Sinkhorn's transport plan, then Procrustes (Grave et al., AISTATS 2019).

    The plan is made softer at first and harder later.

    Args:
        public: (m, d) templates, not sealed.
        stolen: (n, d) sealed templates.
        start: (d, d).
        rounds: plans made.
        sample: faces of each side a round.
        seed: of the samples.
    """
    random = np.random.default_rng(seed)
    rotation = start.copy()
    for number in range(rounds):
        share = number / max(1, rounds - 1)
        softness = 0.1 * (0.02 / 0.1) ** share
        one = public[random.choice(len(public), min(sample, len(public)), replace=False)].astype(np.float64)
        other = stolen[random.choice(len(stolen), min(sample, len(stolen)), replace=False)].astype(np.float64)
        plan = _sinkhorn((other @ rotation) @ one.T, softness)
        step = 0.5 * (1 - share) + 0.1
        rotation = _nearest_rotation((1 - step) * rotation + step * _nearest_rotation(other.T @ plan @ one))
    return rotation


def _sinkhorn(likeness: Floats, softness: float, rounds: int = 30) -> Floats:
    kernel = np.exp((likeness - likeness.max()) / softness) + 1e-30
    row = np.full(len(kernel), 1 / len(kernel))
    column = np.full(kernel.shape[1], 1 / kernel.shape[1])
    right = np.ones_like(column)
    for _ in range(rounds):
        left = row / (kernel @ right)
        right = column / (kernel.T @ left)
    return np.asarray(left[:, None] * kernel * right)


def by_adversary(
    public: Rows, stolen: Rows, start: Floats, *, steps: int = 1500, batch: int = 256, seed: int = 0
) -> Floats:
    """Rotates stolen templates until a second network cannot tell them from public ones (Conneau et al., ICLR 2018).

    Args:
        public: (m, d) templates, not sealed.
        stolen: (n, d) sealed templates.
        start: (d, d) orthogonal.
        steps: of both networks.
        batch: faces a step of each side.
        seed: of weights and draws.
    """
    torch.manual_seed(seed)
    dim = public.shape[1]
    discriminator = nn.Sequential(
        nn.Dropout(0.1),
        nn.Linear(dim, 512),
        nn.LeakyReLU(0.2),
        nn.Linear(512, 512),
        nn.LeakyReLU(0.2),
        nn.Linear(512, 1),
    )
    back = torch.from_numpy(np.ascontiguousarray(start.T)).float().requires_grad_(True)
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-4, betas=(0.5, 0.99))
    rotation_optimizer = torch.optim.Adam([back], lr=1e-3, betas=(0.5, 0.99))
    random = np.random.default_rng(seed)
    scale = dim**0.5

    def drawn(rows: Rows) -> torch.Tensor:
        return torch.from_numpy(rows[random.integers(0, len(rows), batch)])

    for _ in range(steps):
        real, made = drawn(public), drawn(stolen)
        logits = discriminator(torch.cat([real, (made @ back.T).detach()]) * scale).squeeze(1)
        truth = torch.cat([torch.full((batch,), 0.9), torch.full((batch,), 0.1)])
        loss = functional.binary_cross_entropy_with_logits(logits, truth)
        descend(discriminator_optimizer, loss)
        fooled = discriminator((drawn(stolen) @ back.T) * scale).squeeze(1)
        descend(rotation_optimizer, functional.softplus(-fooled).mean())
        with torch.no_grad():  # back onto the rotations: a step of Newton's towards the polar factor
            back.copy_(1.5 * back - 0.5 * back @ back.T @ back)
    return _nearest_rotation(back.detach().numpy().astype(np.float64)).T


def neighborhoods(templates: Rows, *, nearest: int = 50) -> Rows:
    """A description of each template that no rotation changes: its largest cosines to the rest of its gallery.

    Args:
        templates: (n, d) unit rows, of one gallery.
        nearest: how many cosines; at most n - 1.

    Returns:
        (n, nearest) float32, sorted.
    """
    likeness = templates @ templates.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(nearest, len(templates) - 1)
    return np.asarray(np.sort(likeness, axis=1)[:, ::-1][:, :count], dtype=np.float32)


Start = Callable[[Rows, Rows], Floats]
STARTS: Final[dict[str, Start]] = {"spectrum": by_spectrum, "neighborhoods": by_neighborhoods}


def aligned(context: AttackContext, public: Rows, stolen: Rows, start: Start) -> Rows:
    """Stolen templates, laid on public ones as well as it can be: optimal transport, then mutual neighbors."""
    rounds, first = context.attacker.effort.alignment_rounds, start(public, stolen)
    rotation = by_optimal_transport(public, stolen, first, rounds=rounds, seed=context.seed)
    return np.asarray(stolen @ by_nearest(public, stolen, rotation), dtype=np.float32)


# Known pairs, as shares of d.
_SHARES: Final = (1 / 128, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0)
# The attacker's own gallery, for what the profile makes of pictures at hand: no key of the one attacked.
_OWN: Final = 500
_STEPS_A_ROUND: Final = 25
_STOLEN: Final = 0.8  # of all labelled faces at most: the rest is the attacker's
# Shares of the people in a gallery of whom an attacker has other pictures.
_KNOWN: Final = (0.5, 0.25, 0.1)


def pairs(context: AttackContext) -> list[dict[str, Any]]:
    """An insider with n faces whose embedding and template are both known: the rotation that fits them best."""
    few = context.narrowed(context.attacker.effort.curve)
    decoder = adapted(context, KEY)
    known = np.random.default_rng([context.seed, 31]).permutation(context.labelled.rows(CALIBRATE))
    dim = context.clean.shape[1]
    found = []
    for share in _SHARES:
        rows = known[: max(1, round(share * dim))]
        rotation = procrustes(context.target.plain(context.clean[rows], _OWN), context.wire[rows])
        found.append({"pairs": len(rows), **_opened(few, decoder, rotation)})
    return found


def stolen(context: AttackContext) -> dict[str, Any]:
    """A stolen gallery, and no pairs: its shape in space is matched to that of faces at hand."""
    effort = context.attacker.effort
    few = context.narrowed(effort.attacked or len(context.attacked))
    decoder = adapted(context, KEY)
    gallery, rest = _split(context, effort.stolen)
    # Others' faces, under the same profile: the attacker's own and, alike in kind, those of people not in the gallery.
    public = np.concatenate(
        [context.target.plain(context.attacker.unit, _OWN), context.target.plain(context.clean[rest], _OWN)]
    )
    strangers = context.opened[context.strangers()]
    found: dict[str, Any] = {
        "templates": len(gallery),
        "public": len(public),
        # The mean cosine of open templates of two people: what a guess that knows nothing of the key can reach.
        "strangers": float(np.sum(context.of_cases(context.opened) * strangers, axis=1).mean()),
        "methods": [{"method": "none", **_opened(few, decoder, np.eye(context.clean.shape[1]))}],
    }
    for name, rotation in _alignments(public, context.wire[gallery], effort.alignment_rounds, context.seed):
        found["methods"].append({"method": name, **_opened(few, decoder, rotation)})
    found["same_people"] = _same_people(context)
    return found


def _alignments(public: Rows, stolen_rows: Rows, rounds: int, seed: int) -> list[tuple[str, Floats]]:
    start = by_spectrum(public, stolen_rows)
    transported = by_optimal_transport(public, stolen_rows, start, rounds=rounds, seed=seed)
    fooling = by_adversary(public, stolen_rows, start, steps=_STEPS_A_ROUND * rounds, seed=seed)
    found = []
    for name, rotation in (("", start), (", then optimal transport", transported), (", then adversary", fooling)):
        method = f"spectrum and moments{name}"
        found.append((method, rotation))
        found.append((f"{method}, then mutual neighbors", by_nearest(public, stolen_rows, rotation)))
    return found


def _split(context: AttackContext, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the stolen gallery, those who test first, and the pictures of people who are not in it."""
    labelled = context.labelled
    order = np.concatenate([labelled.rows(TEST), labelled.rows(CALIBRATE), labelled.rows(FIT)])
    gallery = order[: min(most, round(_STOLEN * len(order)))]
    return gallery, np.setdiff1d(order, order[np.isin(labelled.people[order], labelled.people[gallery])])


def _same_people(context: AttackContext) -> list[dict[str, Any]]:
    """The attacker has other pictures of people in the gallery, without names: whose are its templates?

    A template is named where its nearest picture, once the gallery is aligned, is of the same person.
    """
    halves = {one: (rows[::2], rows[1::2]) for one, rows in context.test_people(2).items()}
    everyone = np.array(list(halves))
    alone = [rows[0] for one, rows in context.test_people(1).items() if one not in halves]
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
        for named in _named(context, inside, np.concatenate(outside), known):
            found.append({"has": has, **named})
    return found


def _named(
    context: AttackContext, inside: NDArray[np.int64], outside: NDArray[np.int64], known: NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    public, truth = context.target.plain(context.clean[outside], _OWN), context.opened[inside]
    people = context.labelled.people
    can_be = np.isin(people[inside], known)
    methods = {"attacker with the key": truth}
    for name, start in STARTS.items():
        opened = aligned(context, public, context.wire[inside], start)
        methods[f"{name}, then optimal transport, then mutual neighbors"] = opened
    for method, opened in methods.items():
        nearest = np.argmax(opened @ public.T, axis=1)
        yield {
            "method": method,
            "templates": len(inside),
            "pictures": len(outside),
            "named": float(np.mean((people[outside][nearest] == people[inside])[can_be])),
            "cosine": float(np.sum(opened * truth, axis=1).mean()),
        }


def _opened(few: AttackContext, decoder: Any, rotation: Floats) -> dict[str, Any]:
    """How near a guessed rotation brings templates to what the right one gives, and the faces that come of it."""
    opened = np.asarray(few.wire @ rotation, dtype=np.float32)
    near = np.sum(few.of_cases(opened) * few.of_cases(few.opened), axis=1)
    outcome = few.score(decoder, opened)
    return {
        "cosine": float(near.mean()),
        **{kind: asdict(getattr(outcome, kind)[TARGET]) for kind in ("type_1", "type_2", "stranger")},
        "ssim": outcome.ssim.value,
    }
