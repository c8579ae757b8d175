"""Training of the perturbation: where to move an embedding, and how far, so that no decoder finds the face again.

One step looks at many embeddings, which are cheap, and at a few rebuilt faces, which are not:

* *score preservation*: cosines between protected embeddings against those between erased ones (for a plug-in: against
  unprotected ones), weighted where thresholds lie, and a hinge on decisions that would flip at tau;
* *identity*: cosine of the protected embedding to the clean one; and of the embedding of the rebuilt face, through a
  differentiable copy of the embedder, to the true one, pushed to a stranger's;
* *pixels*: SSIM and mean absolute difference between the rebuilt face and the picture, pushed to where another
  person's face stands.

Attackers are then retrained on what the network emits, and the network again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.data.pixels import embedded, resized, ssim, to_float
from lab.defence.network import PatronusNetwork
from lab.defence.training import Checkpoint, minimize

# Shares of 1 - tau, the room that scores have. Thresholds are chosen between tau and so far above it, by how rare false
# matches are to be: cosines there count most, and those this close to it; and decisions at tau are kept so clear.
_STRICT: Final = 0.25
_NEAR: Final = 0.2
_MARGIN: Final = 0.03


@dataclass(frozen=True, slots=True)
class PerturbationOptions:
    """How the network is trained.

    Attributes:
        steps: of AdamW, against attackers.
        warm_up: steps before, which look at embeddings alone and cost next to nothing.
        rate: the largest step.
        sides: which sides of a comparison the profile protects.
        anchors: embeddings a step.
        rebuilt: of these, how many are rebuilt to pixels by one of the attackers.
        score: weight of score preservation.
        flip: weight of decisions that would flip.
        away: weight of the cosine between protected and clean embedding.
        depth: weight of the share of phi(x) that is used: else a network that finds it hard to keep scores spares what
            it should protect.
        identity: weight of the identity that attackers regain.
        pixels: weight of the likeness of pixels.
        stranger: cosine to the true person under which regained identity is no longer pushed: about a stranger's.
        floor: SSIM under which likeness is no longer pushed: that of another person's face.
        own: how far the cosine between two perturbations of one embedding under two seeds differs from 1 at least, as a
            share of 1 - tau. More of it hides more from attackers without the key, and costs accuracy.
        diversity: weight of that.
        scale: cosines between protected embeddings are to be those between erased ones times this: where erase raised
            them, as much as brings false matches back to where they were.
        partial: share of steps in which nothing is perturbed by more than a random part of phi_max.
        seed: of weights and draws.
    """

    steps: int = 700
    warm_up: int = 1500
    rate: float = 1e-3
    sides: Literal["both", "probe"] = "both"
    anchors: int = 384
    rebuilt: int = 16
    score: float = 150.0
    flip: float = 500.0
    away: float = 1.0
    depth: float = 0.3
    identity: float = 3.0
    pixels: float = 0.5
    stranger: float = 0.05
    floor: float = 0.3
    own: float = 0.02
    diversity: float = 6.0
    scale: float = 1.0
    partial: float = 0.2
    seed: int = 0


@dataclass(slots=True)
class Material:
    """What the training sees.

    Attributes:
        unit: (n, d) float32, unit rows: clean embeddings of pictures that may be rebuilt.
        pictures: (n, 3, s, s) uint8, the pictures of these rows.
        pairs: (m, 2, d) float32, unit rows: clean embeddings of two pictures of one person each.
        within: (d, d) float32, a root of the scatter within people, for made-up second pictures.
    """

    unit: Tensor
    pictures: Tensor
    pairs: Tensor
    within: Tensor


def train_perturbation(
    network: PatronusNetwork,
    tau: float,
    material: Material,
    attackers: Sequence[nn.Module],
    options: PerturbationOptions,
    kept: Checkpoint,
    embedder: nn.Module,
) -> list[dict[str, float]]:
    """Trains the network in place against attackers as they stand.

    Args:
        network: its buffers set.
        tau: cosine threshold of the matcher.
        material: people that nothing is measured on.
        attackers: none leaves out the terms that need them.
        options: how.
        kept: folder for the state, and a name of data and attackers.
        embedder: a differentiable embedder, to follow identity down to rebuilt faces.
    """
    network.train()

    def stage(name: str, steps: int, rate: float, against: Sequence[nn.Module]) -> list[dict[str, float]]:
        return minimize(
            f"perturbation, {name}",
            network,
            _loss(network, tau, material, against, options, embedder),
            steps,
            rate,
            decay=1e-4,
            seed=options.seed,
            checkpoint=Checkpoint(kept.path / f"perturbation-{name}.pt", f"{options} {kept.fingerprint}"),
        )

    history = stage("warm-up", options.warm_up, 2 * options.rate, ()) if options.warm_up else []
    history += stage("against attackers", options.steps, options.rate, attackers)
    network.eval()
    return history


_Loss = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]]


def _loss(
    network: PatronusNetwork,
    tau: float,
    material: Material,
    attackers: Sequence[nn.Module],
    options: PerturbationOptions,
    embedder: nn.Module,
) -> _Loss:
    dim = network.size.dim
    no_seal = torch.eye(dim)

    def protect(rows: Tensor, random: torch.Generator, limit: float = torch.pi) -> tuple[Tensor, Tensor, Tensor]:
        seed = torch.randn(len(rows), network.size.seed_dim, generator=random)
        output = network(rows, seed, torch.full((len(rows),), limit), no_seal)
        return output.plain, output.erased, output.angle

    def loss(number: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        draws = torch.Generator().manual_seed(int(random.integers(2**63)))
        rows = torch.from_numpy(random.choice(len(material.unit), options.anchors, replace=False))
        clean = material.unit[rows]
        # Second pictures: real ones where people are known, and made up from the scatter within people.
        noise = torch.randn(len(clean), dim, generator=draws) @ material.within
        made_up = functional.normalize(clean + noise, dim=1)
        chosen = torch.from_numpy(random.choice(len(material.pairs), options.anchors // 2))
        pairs = material.pairs[chosen]
        first = torch.cat([clean, pairs[:, 0]])
        second = torch.cat([made_up, pairs[:, 1]])
        # Now and then by less than phi_max: calibration or a caller may allow no more, and scores are to hold there.
        partial = random.random() < options.partial
        limit = float(network.phi_max) * random.random() if partial else torch.pi
        protected, before, angle = protect(first, draws, limit)
        if options.sides == "both":
            other, other_before, _ = protect(second, draws, limit)
        else:
            other = other_before = second
            before = first
        score, flips = _preserved(before @ other_before.T * options.scale, protected @ other.T, tau)
        away = (protected * first).sum(dim=1).mean()
        again, _, _ = protect(clean, draws, limit)
        alike = _agreement(before[: len(clean)], protected[: len(clean)], again)
        total = options.score * score + options.flip * flips + (0 if partial else options.away) * away
        total = total - options.depth * (angle / min(limit, float(network.phi_max))).mean()
        total = total + options.diversity * functional.relu(alike - (1 - options.own * (1 - tau))) / (1 - tau)
        figures = {
            "score": score.item(),
            "flips": flips.item(),
            "angle": torch.rad2deg(angle.mean()).item(),
            "away": away.item(),
            "alike": alike.item(),
        }
        if attackers and not partial:
            attacker = attackers[number % len(attackers)]
            truth = to_float(material.pictures[rows[: options.rebuilt]])
            made = resized(attacker(protected[: options.rebuilt]), truth.shape[-1])
            likeness = ssim(made, truth)
            pixels = functional.relu(likeness - options.floor).mean() - 0.5 * (made - truth).abs().mean()
            seen = (embedded(embedder, made) * clean[: options.rebuilt]).sum(dim=1)
            identity = functional.softplus((seen - options.stranger) / 0.05).mean() * 0.05
            total = total + options.pixels * pixels + options.identity * identity
            figures |= {"ssim": likeness.mean().item(), "seen": seen.mean().item()}
        return total, figures

    return loss


def _agreement(before: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine between the directions in which two seeds perturb the same embedding."""
    one, two = (after - (after * before).sum(dim=1, keepdim=True) * before for after in (first, second))
    return functional.cosine_similarity(one, two, dim=1, eps=1e-6).mean()


def _preserved(before: Tensor, after: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """How far cosines moved, where thresholds lie most of all; and by how much decisions at tau flip, or nearly.

    Both in units of 1 - tau: some embedders give strangers a cosine of 0.8, and decide between 0.92 and 0.93.
    """
    room = 1 - tau
    outside = before - before.clamp(tau, tau + _STRICT * room)
    weight = 0.05 + torch.exp(-((outside / (_NEAR * room)) ** 2))
    same = torch.eye(len(before), dtype=torch.bool)
    # Every diagonal entry is a genuine pair; they are as many as a thousandth of the others, and count as much.
    moved = weight * ((after - before) / room) ** 2
    score = moved[same].mean() + moved[~same].mean() * 10
    accepted = before >= tau
    margin = _MARGIN * room
    wrong = torch.where(
        accepted,
        functional.relu(tau + margin - after),
        functional.relu(after - torch.maximum(before, torch.tensor(tau - margin))),
    )
    close = weight > 0.06
    flips = (wrong[same & accepted].sum() / len(before) + wrong[~same & close].mean()) / room
    return score, flips
