"""Decoders that rebuild a face from a template: four families, and their training.

Each takes templates (n, d) float32 and gives pictures (n, 3, side, side) float32 RGB in 0..1, of the whole aligned
crop. Three work at 64 pixels, one at 112. None sees anything but the template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lab.data.pixels import embedded, resized, ssim, to_float
from lab.defence.training import Checkpoint, device, minimize

_SLOPE: Final = 0.2


class Upsampling(nn.Module):
    """Nearest-neighbor upsampling and convolution, the commonest inversion network; the last step is a pixel shuffle.

    Args:
        dim: length of a template.
        widths: channels at each resolution, each twice the one before.
        start: side of the first feature map.
    """

    def __init__(self, dim: int, widths: tuple[int, ...] = (256, 160, 96, 64), start: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(dim, widths[0] * start**2), nn.Unflatten(1, (widths[0], start, start))]
        layers += _activated(widths[0])
        for before, after in pairwise(widths):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1, bias=False)]
            layers += _activated(after)
        layers += [nn.Conv2d(widths[-1], 12, 3, padding=1), nn.PixelShuffle(2)]
        self.body = nn.Sequential(*layers)

    def forward(self, templates: Tensor) -> Tensor:
        """(n, d) to (n, 3, side, side) in 0..1."""
        return torch.sigmoid(self.body(templates * templates.shape[1] ** 0.5))


class Transposed(nn.Module):
    """Transposed convolutions with NbNet's neighborly blocks (Mai et al., TPAMI 2019): what a block learned before is
    kept and joined by a few new channels.
    """

    def __init__(self, dim: int, widths: tuple[int, ...] = (192, 128, 96, 64)) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(dim, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4)))
        self.enter.extend(_activated(widths[0]))
        self.up, self.more = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise(widths):
            fresh = after // 4
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose2d(before, after - fresh, 4, 2, 1, bias=False), *_activated(after - fresh)
                )
            )
            self.more.append(
                nn.Sequential(nn.Conv2d(after - fresh, fresh, 3, padding=1, bias=False), *_activated(fresh))
            )
        self.leave = nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1)

    def forward(self, templates: Tensor) -> Tensor:
        """(n, d) to (n, 3, 64, 64) in 0..1."""
        at = self.enter(templates * templates.shape[1] ** 0.5)
        for up, more in zip(self.up, self.more, strict=True):
            at = up(at)
            at = torch.cat([at, more(at)], dim=1)
        return torch.sigmoid(self.leave(at))


class Attentive(nn.Module):
    """A learned canvas that the template modulates (scale and shift of every residual block), with self-attention at 8
    by 8: no layer in common with the two families above.
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        widths = (width, width, width * 3 // 4, width * 3 // 8)
        self.canvas = nn.Parameter(torch.randn(1, widths[0], 4, 4) * 0.5)
        self.code = nn.Sequential(nn.Linear(dim, 384), nn.SiLU(), nn.Linear(384, 384), nn.SiLU())
        self.seat = nn.Linear(384, widths[0] * 16)
        self.blocks = nn.ModuleList(_Modulated(before, after) for before, after in pairwise(widths))
        self.attention = nn.MultiheadAttention(widths[1], 4, batch_first=True)
        self.calm = nn.LayerNorm(widths[1])
        self.leave = nn.Sequential(nn.SiLU(), nn.Conv2d(widths[-1], 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, templates: Tensor) -> Tensor:
        """(n, d) to (n, 3, 64, 64) in 0..1."""
        code = self.code(templates * templates.shape[1] ** 0.5)
        at = self.canvas + self.seat(code).reshape(len(code), -1, 4, 4)
        at = at.contiguous(memory_format=torch.channels_last)
        for number, block in enumerate(self.blocks):
            at = block(at, code)
            if number == 0:
                n, c, h, w = at.shape
                tokens = at.flatten(2).transpose(1, 2)
                calm = self.calm(tokens)
                tokens = tokens + self.attention(calm, calm, calm, need_weights=False)[0]
                at = tokens.transpose(1, 2).reshape(n, c, h, w).contiguous(memory_format=torch.channels_last)
        out: Tensor = torch.sigmoid(self.leave(at))
        return out


class _Modulated(nn.Module):
    """A residual block at twice the side whose features the code scales and shifts."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(before, affine=False)
        self.style = nn.Linear(384, 2 * before)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.past = nn.Conv2d(before, after, 1)

    def forward(self, at: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.style(code)[:, :, None, None].chunk(2, dim=1)
        inner = functional.silu(self.norm(at) * (1 + scale) + shift)
        inner = functional.silu(self.first(functional.interpolate(inner, scale_factor=2)))
        return functional.interpolate(self.past(at), scale_factor=2) + self.second(inner)  # type: ignore[no-any-return]


def _activated(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(_SLOPE)]


DECODERS: Final[dict[str, tuple[int, Callable[[int], nn.Module]]]] = {
    "upsampling": (64, Upsampling),
    "transposed": (64, Transposed),
    "attentive": (64, Attentive),
    "upsampling-112": (112, lambda dim: Upsampling(dim, (224, 128, 80, 48), start=7)),
}


def build(family: str, dim: int) -> nn.Module:
    """An untrained decoder in the memory layout that is fastest on a CPU."""
    return DECODERS[family][1](dim).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


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


def train_decoder(
    family: str,
    templates: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    embeddings: NDArray[np.float32],
    embedder: nn.Module,
    options: InversionOptions,
    kept: Checkpoint,
    start: nn.Module | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Trains a decoder.

    Args:
        family: of ``lab.defence.decoders.DECODERS``.
        templates: what the attacker saw of each picture: (n, d) float32.
        pixels: (n, 112, 112, 3) uint8 RGB.
        embeddings: (n, d) float32, unit rows: the true, clean embeddings, for the identity term.
        embedder: differentiable embedder.
        options: how.
        kept: folder for the state, and a name of the data and templates: a checkpoint of other ones is refused.
        start: a decoder to go on from.

    Returns:
        the decoder in evaluation mode, and figures of its training.
    """
    torch.manual_seed(options.seed)
    where = device()
    decoder = build(family, embeddings.shape[1]).to(where) if start is None else start.to(where)
    decoder.train()
    embedder.to(where)
    side = DECODERS[family][0]
    pictures = shrunk(pixels, side)
    true = torch.from_numpy(embeddings)

    def stage(name: str, steps: int, batch: int, rate: float) -> list[dict[str, float]]:
        count = len(pixels)
        batch = min(batch, count)

        def loss_of(number: int, _: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
            # Every epoch has a permutation of its own, known from (seed, epoch) alone.
            epoch, at = divmod(number, count // batch)
            rows = np.random.default_rng([options.seed, epoch]).permutation(count)[at * batch :][:batch]
            truth = to_float(pictures[rows]).to(where)
            made = decoder(torch.from_numpy(templates[rows]).to(where))
            pixel = (made - truth).abs().mean()
            structure = ssim(made, truth).mean()
            loss = pixel + options.ssim * (1 - structure)
            figures = {"l1": pixel.item(), "ssim": structure.item()}
            if name == "identity":
                cosine = (embedded(embedder, made) * true[rows].to(where)).sum(dim=1).mean()
                loss = loss + options.identity * (1 - cosine)
                figures["cosine"] = cosine.item()
            return loss, figures

        return minimize(
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
                kept.path / f"{family}-{name}.pt", f"{family} {options} {kept.fingerprint} {len(pixels)} {name}"
            ),
        )

    history = []
    if options.epochs:
        steps = max(1, round(options.epochs * len(pixels) / options.batch))
        history += stage("pixels", steps, options.batch, options.rate)
    if options.identity_steps:
        history += stage("identity", options.identity_steps, options.identity_batch, options.identity_rate)
    embedder.cpu()
    # What follows takes templates on the CPU.
    return decoder.cpu().eval().requires_grad_(False), history


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
