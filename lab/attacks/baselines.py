"""Other people's protections of an embedding, written from the papers' descriptions, to be attacked on the same axes.

Each maps unit rows (n, d) to unit rows and has one strength. None needs a secret but the scaled noise, whose factor
cosine does not see. All descend on a decoder of the defender's own, which no attacker in the report uses as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.data.verification import Rows
from lab.defence.protection import gaussian
from lab.defence.training import device

_CHUNK: Final = 64


def gaussian_noise(unit: Rows, degrees: float, *, seed: int = 0) -> Rows:
    """Each row perturbed by one angle in a direction drawn at random."""
    return gaussian(unit, np.full(len(unit), np.deg2rad(degrees)), seed=seed)


def scaled_noise(unit: Rows, factor: float, *, seed: int = 0) -> Rows:
    """Scale and perturb, as vector encryption that keeps distances does (Fuchsbauer et al., SCN 2022; IronCore Alloy).

    Noise is uniform in a ball whose radius is the factor over four, in units of the vector. The secret scale is left
    out, for cosine does not see it; so is the key's shuffling of coordinates, which is a rotation.

    Args:
        unit: (n, d).
        factor: approximation factor.
        seed: of the noise.
    """
    random = np.random.default_rng([seed, 11])
    drawn = random.standard_normal(unit.shape)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    radius = factor / 4 * random.random((len(unit), 1)) ** (1 / unit.shape[1])
    moved = unit + radius * drawn
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)


# Of a shadow decoder's picture, its picture of the clean feature, and its average picture, to what is made small.
Cost = Callable[[Tensor, Tensor, Tensor], Tensor]


def advface(picture: Tensor, clean: Tensor, _: Tensor) -> Tensor:
    """AdvFace (Wang et al., CVPR 2023): noise on the feature that drives a shadow decoder's picture away from what
    it makes of the clean feature, by projected gradient ascent on the mean squared error.

    The paper bounds each coordinate instead of the angle, but a matcher of angles knows no axes.
    """
    return -((picture - clean) ** 2).mean(dim=(1, 2, 3))


def crafter(picture: Tensor, _: Tensor, average: Tensor) -> Tensor:
    """Crafter (Wang et al., NDSS 2024): the feature is steered until what an inversion makes of it is the average face.

    The paper measures the distance to the average's distribution by an earth mover's distance of a discriminator; here
    it is the mean squared error to the average of the decoder's own pictures.
    """
    return ((picture - average) ** 2).mean(dim=(1, 2, 3))


def steered(unit: Rows, degrees: float, *, decoder: nn.Module, cost: Cost, steps: int = 10, seed: int = 0) -> Rows:
    """Perturbs each row by gradient descent on a cost.

    Args:
        unit: (n, d).
        degrees: the largest angle.
        decoder: the shadow model.
        cost: ``advface`` or ``crafter``.
        steps: of descent.
        seed: of the start.
    """
    where = device()
    decoder.to(where).eval()
    whole = torch.from_numpy(np.ascontiguousarray(unit))
    most = float(np.deg2rad(degrees))
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        few = whole[:: max(1, len(whole) // _CHUNK)][:_CHUNK].to(where)
        average = decoder(few).mean(dim=0, keepdim=True)
    found = []
    for at in range(0, len(whole), _CHUNK):
        rows = whole[at : at + _CHUNK].to(where)
        with torch.no_grad():
            clean = decoder(rows)
        perturbed = _within(rows + 0.02 * torch.randn(rows.shape, generator=draws).to(where), rows, most)
        for _ in range(steps):
            perturbed = perturbed.detach().requires_grad_(True)
            loss = cost(decoder(perturbed), clean, average).sum()
            (slope,) = torch.autograd.grad(loss, perturbed)
            step = functional.normalize(slope, dim=1, eps=1e-12) * (2.0 * most / steps)
            perturbed = _within((perturbed - step).detach(), rows, most)
        found.append(perturbed.cpu())
    decoder.cpu()
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


def _within(rows: Tensor, centre: Tensor, most: float) -> Tensor:
    """Unit rows, each no further than an angle from its centre."""
    rows = functional.normalize(rows, dim=1, eps=1e-12)
    cosine = (rows * centre).sum(dim=1, keepdim=True).clamp(-1, 1)
    tangent = functional.normalize(rows - cosine * centre, dim=1, eps=1e-12)
    angle = torch.arccos(cosine).clamp(max=most)
    return functional.normalize(torch.cos(angle) * centre + torch.sin(angle) * tangent, dim=1, eps=1e-12)
