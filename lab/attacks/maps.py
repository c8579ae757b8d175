"""Small networks between vectors: a denoiser from templates to embeddings, and a classifier of attributes.

Both are what an attacker trains in a minute, which makes them the cheapest strong attacks there are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lab.defence.training import device

Rows = NDArray[np.float32]
_WIDTH: Final = 512
_RATE: Final = 2e-3
_DECAY: Final = 1e-4


class Denoiser(nn.Module):
    """Templates (n, d) to embeddings (n, d), unit rows: a linear map, and two layers that mend it."""

    def __init__(self, dim: int, width: int = _WIDTH) -> None:
        super().__init__()
        self.straight = nn.Linear(dim, dim)
        self.bent = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, templates: Tensor) -> Tensor:
        """(n, d) to (n, d) unit rows."""
        scaled = templates * templates.shape[1] ** 0.5
        return functional.normalize(self.straight(scaled) + self.leave(self.bent(scaled)), dim=1, eps=1e-9)


def train_denoiser(templates: Rows, embeddings: Rows, *, epochs: int = 16, batch: int = 256, seed: int = 0) -> Denoiser:
    """Learns from pairs of pictures that are the attacker's own.

    Its start is the least-squares map, so that it is never worse than that one by much.

    Args:
        templates: (n, d) float32, what pictures became.
        embeddings: (n, d) float32, unit rows, of the same pictures.
        epochs: passes over the pairs.
        batch: pairs a step.
        seed: of weights and order.
    """
    torch.manual_seed(seed)
    dim = templates.shape[1]
    network = Denoiser(dim)
    x, y = templates.astype(np.float64) * dim**0.5, embeddings.astype(np.float64)
    ridge = 1e-3 * len(x) * np.eye(dim)
    straight = np.linalg.solve(x.T @ x + ridge, x.T @ y).T
    with torch.no_grad():
        network.straight.weight.copy_(torch.from_numpy(straight))
        network.straight.bias.zero_()
    where = device()
    network.to(where).train()
    seen, wanted = (torch.from_numpy(np.ascontiguousarray(rows)).to(where) for rows in (templates, embeddings))
    steps = max(1, epochs * len(x) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps + 1, pct_start=0.1)
    random = np.random.default_rng(seed)
    for _ in range(steps):
        rows = torch.from_numpy(random.integers(0, len(x), batch)).to(where)
        loss = 1 - (network(seen[rows]) * wanted[rows]).sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.cpu().eval().requires_grad_(False)


@torch.no_grad()
def denoised(denoiser: nn.Module, templates: Rows) -> Rows:
    """(n, d) float32 to (n, d) float32, unit rows."""
    return np.asarray(denoiser(torch.from_numpy(np.ascontiguousarray(templates))).numpy())


def train_classifier(
    rows: Rows, labels: NDArray[np.int64], classes: int, *, epochs: int = 12, batch: int = 256, seed: int = 0
) -> nn.Module:
    """Learns an attribute from vectors.

    Args:
        rows: (n, d) float32.
        labels: (n,) 0 to classes - 1.
        classes: how many.
        epochs: passes.
        batch: rows a step.
        seed: of weights and order.
    """
    torch.manual_seed(seed)
    dim = rows.shape[1]
    network = nn.Sequential(nn.Linear(dim, 128), nn.SiLU(), nn.Dropout(0.3), nn.Linear(128, classes)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    x, y = torch.from_numpy(np.ascontiguousarray(rows)) * dim**0.5, torch.from_numpy(labels)
    random = np.random.default_rng(seed)
    for _ in range(max(100, epochs * len(rows) // batch)):
        chosen = torch.from_numpy(random.integers(0, len(rows), batch))
        loss = functional.cross_entropy(network(x[chosen]), y[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval().requires_grad_(False)


@torch.no_grad()
def scores(classifier: nn.Module, rows: Rows) -> NDArray[np.float64]:
    """(n, classes) float64 probabilities."""
    x = torch.from_numpy(np.ascontiguousarray(rows)) * rows.shape[1] ** 0.5
    return np.asarray(torch.softmax(classifier(x), dim=1).double().numpy())
