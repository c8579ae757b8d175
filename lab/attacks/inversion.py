"""Training of an attacker: a decoder learns to rebuild faces from templates of people it may see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from lab.attacks.decoders import build, side_of
from lab.data.pixels import embedded, resized, ssim, to_float
from lab.defence.training import Checkpoint, device, minimise

_EVALUATED = 64


@dataclass(frozen=True, slots=True)
class InversionOptions:
    """How a decoder is trained.

    Attributes:
        epochs: passes over the pictures in the first stage, which looks at pixels alone: noise has no identity.
        batch: pictures a step there.
        rate: largest step of AdamW there, reached after a twentieth of the stage; then it falls as a cosine.
        ssim: weight of 1 - SSIM beside the mean absolute difference of pixels.
        identity_steps: steps of the second stage, which looks at identity too.
        identity_batch: pictures a step there; the embedder costs five times what a decoder does.
        identity_rate: largest step of AdamW there.
        identity: weight of 1 - cosine between the rebuilt face's embedding and the true one.
        seed: of weights and draws.
    """

    epochs: float = 2
    batch: int = 64
    rate: float = 2e-3
    ssim: float = 0.25
    identity_steps: int = 700
    identity_batch: int = 16
    identity_rate: float = 1e-3
    identity: float = 0.7
    seed: int = 0


@dataclass(slots=True)
class Trained:
    """An attacker ready to use.

    Attributes:
        decoder: in evaluation mode.
        family: of the decoder.
        history: figures of the training.
    """

    decoder: nn.Module
    family: str
    history: list[dict[str, float]]


def train_decoder(
    family: str,
    templates: Callable[[NDArray[np.int64]], Tensor] | NDArray[np.float32],
    pixels: NDArray[np.uint8],
    embeddings: NDArray[np.float32],
    embedder: nn.Module | None,
    options: InversionOptions,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    start: nn.Module | None = None,
    console: Console | None = None,
) -> Trained:
    """Trains a decoder.

    Args:
        family: of ``lab.attacks.decoders.DECODERS``.
        templates: what the attacker saw of each picture: (n, d) float32, or a function from rows to (m, d).
        pixels: (n, 112, 112, 3) uint8 RGB.
        embeddings: (n, d) float32, unit rows: the true, clean embeddings, for the identity term.
        embedder: differentiable embedder, or None for no identity term.
        options: how.
        checkpoint: folder for the state; None keeps none.
        fingerprint: names the data and templates, so that a checkpoint of other ones is refused.
        start: a decoder to go on from.
    """
    torch.manual_seed(options.seed)
    where = device()
    decoder = build(family, embeddings.shape[1]).to(where) if start is None else start.to(where)
    decoder.train()
    if embedder is not None:
        embedder.to(where)
    side = side_of(family)
    pictures = shrunk(pixels, side)
    true = torch.from_numpy(embeddings)
    give = (lambda rows: torch.from_numpy(templates[rows])) if isinstance(templates, np.ndarray) else templates

    def stage(name: str, steps: int, batch: int, rate: float, identity: nn.Module | None) -> list[dict[str, float]]:
        order = _Order(len(pixels), batch, options.seed)

        def loss_of(number: int, _: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
            rows = order.rows(number)
            truth = to_float(pictures[rows]).to(where)
            made = decoder(give(rows).to(where))
            pixel = (made - truth).abs().mean()
            structure = ssim(made, truth).mean()
            loss = pixel + options.ssim * (1 - structure)
            figures = {"l1": pixel.item(), "ssim": structure.item()}
            if identity is not None:
                cosine = (embedded(identity, made) * true[rows].to(where)).sum(dim=1).mean()
                loss = loss + options.identity * (1 - cosine)
                figures["cosine"] = cosine.item()
            return loss, figures

        return minimise(
            f"{family}, {name}",
            decoder,
            loss_of,
            steps,
            rate,
            decay=1e-3,
            beta=0.99,
            rise=0.05,
            seed=options.seed,
            checkpoint=Checkpoint(
                checkpoint and checkpoint / f"{family}-{name}.pt",
                f"{family} {options} {fingerprint} {len(pixels)} {name}",
            ),
            console=console,
        )

    history = []
    if options.epochs:
        steps = max(1, round(options.epochs * len(pixels) / options.batch))
        history += stage("pixels", steps, options.batch, options.rate, None)
    if embedder is not None and options.identity_steps:
        history += stage("identity", options.identity_steps, options.identity_batch, options.identity_rate, embedder)
    if embedder is not None:
        embedder.cpu()
    # What follows takes templates on the CPU.
    return Trained(decoder.cpu().eval().requires_grad_(False), family, history)


def shrunk(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """(n, 112, 112, 3) uint8 to (n, 3, side, side) uint8, area-averaged, a few at a time."""
    out = torch.empty((len(pixels), 3, side, side), dtype=torch.uint8)
    for at in range(0, len(pixels), 256):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[at : at + 256].transpose(0, 3, 1, 2)))
        out[at : at + 256] = resized(chunk.float(), side).round_().to(torch.uint8)
    return out


@torch.no_grad()
def rebuilt(decoder: nn.Module, templates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Faces from templates: (n, 3, side, side) float32 in 0..1."""
    decoder.eval()
    where = next(decoder.parameters()).device
    chunks = range(0, len(templates), _EVALUATED)
    return np.concatenate(
        [decoder(torch.from_numpy(templates[at : at + _EVALUATED]).to(where)).cpu().numpy() for at in chunks]
    )


class _Order:
    """Which rows each step sees: every epoch a permutation of its own, known from (seed, epoch) alone."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, min(batch, count), seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def rows(self, step: int) -> NDArray[np.int64]:
        epoch, at = divmod(step, max(1, self._count // self._batch))
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        return self._permutation[at * self._batch : (at + 1) * self._batch]
