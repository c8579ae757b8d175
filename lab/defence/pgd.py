"""Projected gradient descent on one decoder, face by face: what a perturbation of an angle can do at best.

Not a protection: it takes seconds a face, ignores what it does to scores, and is tuned to the very decoder it descends.
The network is measured against it (Madry et al., ICLR 2018, on the sphere, with rotations by one angle).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lab.data.pixels import embedded
from lab.data.verification import Rows
from lab.defence.training import descend

_RATE = 0.3


def descended(
    erased: Rows,
    clean: Rows,
    angles: NDArray[np.floating],
    decoder: nn.Module,
    embedder: nn.Module,
    *,
    steps: int = 12,
    seed: int = 0,
) -> Rows:
    """Perturbs each embedding by its angle to where the decoder's face is least the person.

    Args:
        erased: (n, d) float32, unit rows, to be perturbed.
        clean: (n, d) float32, unit rows, the true embeddings.
        angles: (n,) radians.
        decoder: in evaluation mode.
        embedder: differentiable embedder.
        steps: of Adam on the directions.
        seed: of the first directions.

    Returns:
        (n, d) float32, unit rows.
    """
    before, truth = torch.from_numpy(np.array(erased)), torch.from_numpy(np.array(clean))
    angle = torch.from_numpy(np.asarray(angles, dtype=np.float32))[:, None]
    draws = torch.Generator().manual_seed(seed)
    direction = torch.randn(before.shape, generator=draws).requires_grad_(True)
    optimizer = torch.optim.Adam([direction], lr=_RATE)

    def perturbed() -> Tensor:
        tangent = direction - (direction * before).sum(dim=1, keepdim=True) * before
        return torch.cos(angle) * before + torch.sin(angle) * functional.normalize(tangent, dim=1)

    for _ in range(steps):
        seen = (embedded(embedder, decoder(perturbed())) * truth).sum(dim=1)
        descend(optimizer, seen.sum())
    with torch.no_grad():
        return np.asarray(functional.normalize(perturbed(), dim=1).numpy())
