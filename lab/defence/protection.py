"""Protection of many embeddings with a network in torch, seeds drawn as a fixed key would give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lab.data.verification import Rows
from lab.defence.network import PatronusNetwork

_CHUNK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Protected:
    """Protected embeddings, unsealed.

    Attributes:
        templates: (n, d) float32, unit rows.
        angles: (n,) float32 radians.
        limits: (n,) float32 radians, phi(x).
    """

    templates: Rows
    angles: NDArray[np.float32]
    limits: NDArray[np.float32]


@torch.no_grad()
def protect(network: PatronusNetwork, unit: Rows, phi: float = np.pi, *, seed: int = 0) -> Protected:
    """Protects embeddings.

    Args:
        network: in evaluation mode.
        unit: (n, d) float32.
        phi: radians, the caller's limit.
        seed: of the draws; one seed stands for one key.
    """
    draws = torch.Generator().manual_seed(seed)
    found: list[tuple[Rows, ...]] = []
    for at in range(0, len(unit), _CHUNK):
        rows = torch.from_numpy(np.ascontiguousarray(unit[at : at + _CHUNK]))
        z = torch.randn(len(rows), network.size.seed_dim, generator=draws)
        output = network(rows, z, torch.full((len(rows),), phi), torch.eye(network.size.dim))
        found.append((output.plain.numpy(), output.angle.numpy(), output.limit.numpy()))
    templates, angles, limits = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Protected(templates, angles, limits)


@torch.no_grad()
def rotated_back(network: PatronusNetwork, templates: Rows) -> Rows:
    """Undoes the rotation that anyone can read in a profile, for unsealed templates.

    Args:
        network: one that rotates.
        templates: (n, d) float32, unit rows.

    Returns:
        (n, d) float32, unit rows: erased embeddings, but for what the keyed seed and each face's own part disturbed.
    """
    angle = network.phi_max
    rotation = torch.cos(angle) * torch.eye(network.size.dim) + torch.sin(angle) * network.linear()
    # R^T t, R being orthogonal; in rows, t R.
    return np.asarray((torch.from_numpy(np.ascontiguousarray(templates)) @ rotation).numpy())


def gaussian(unit: Rows, angles: NDArray[np.floating[Any]], *, seed: int = 0) -> Rows:
    """Perturbs each embedding by its angle in a random direction: the baseline that any protection must beat."""
    drawn = np.random.default_rng(seed).standard_normal(unit.shape)
    rows = unit.astype(np.float64)
    drawn -= np.sum(drawn * rows, axis=1, keepdims=True) * rows
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    perturbed = np.cos(angles)[:, None] * rows + np.sin(angles)[:, None] * drawn
    return np.asarray(perturbed / np.linalg.norm(perturbed, axis=1, keepdims=True), dtype=np.float32)
