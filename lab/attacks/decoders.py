"""Attackers that rebuild a face from a template: four families of decoders.

Each takes templates (n, d) float32 and gives pictures (n, 3, side, side) float32 RGB in 0..1, of the whole aligned
crop. Three work at 64 pixels, one at 112. None sees anything but the template.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

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


def side_of(family: str) -> int:
    """The side of a family's pictures, in pixels."""
    return DECODERS[family][0]
