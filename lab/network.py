"""The Patronus network in torch: erase, limit, turn, seal. ``lab.export`` writes the same arithmetic as ONNX.

With x the raw embedding (any length), z the seed, R the seal:

* erase: e = normalise(E x), E the erase matrix, which removes some directions and shrinks others;
* limit: phi(e) = clip(slope * (arccos max_j <e, c_j> - arccos tau), 0, phi_max), c_j a fixed cohort, and never more
  than the caller's own limit;
* turn: t = cos(a) e + sin(a) u with a = depth(e, z) * phi(e), and u the unit tangent at e that the generator names, the
  sum of a linear map of e (turned alike, faces stay as far apart as they were) and of a residual network of e and z;
* seal: T = R t.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

TINY = 1e-12


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What fixes the size of the generator.

    Attributes:
        dim: d, length of an embedding.
        seed_dim: length of the seed.
        width: of the hidden layers.
        blocks: residual blocks.
        erases: whether there is an erase step.
        cohort: rows of the cohort.
    """

    dim: int
    seed_dim: int = 16
    width: int = 256
    blocks: int = 2
    erases: bool = True
    cohort: int = 32


@dataclass(slots=True)
class Turned:
    """What the network gives.

    Attributes:
        template: (n, d) float32, unit rows, sealed.
        angle: (n,) float32 radians, by which the erased embedding was turned.
        plain: (n, d) float32, unit rows: the template before the seal.
        erased: (n, d) float32, unit rows: the embedding after erase and before the turn.
        limit: (n,) float32 radians: phi(x), of which the angle uses a part.
    """

    template: Tensor
    angle: Tensor
    plain: Tensor = field(repr=False)
    erased: Tensor = field(repr=False)
    limit: Tensor = field(repr=False)


class Block(nn.Module):
    """x + W2 silu(W1 layernorm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) to (n, width)."""
        out: Tensor = x + self.second(nn.functional.silu(self.first(self.norm(x))))
        return out


class PatronusNetwork(nn.Module):
    """Erase, limit, turn and seal, as one differentiable function.

    Buffers (set by fitting, frozen in training): ``eraser`` (d, d), ``cohort`` (m, d) unit rows in the erased space,
    ``shape`` (d, d) which spreads directions as real faces are spread, ``tau`` cosine, ``slope``, ``phi_max`` radians.
    """

    eraser: Tensor
    cohort: Tensor
    shape: Tensor
    tau: Tensor
    slope: Tensor
    phi_max: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.size = shape
        d = shape.dim
        self.register_buffer("eraser", torch.eye(d))
        self.register_buffer("cohort", torch.nn.functional.normalize(torch.ones(shape.cohort, d), dim=1))
        self.register_buffer("shape", torch.eye(d))
        self.register_buffer("tau", torch.tensor(0.0))
        self.register_buffer("slope", torch.tensor(1.0))
        self.register_buffer("phi_max", torch.tensor(0.25))
        self.enter = nn.Linear(d + shape.seed_dim, shape.width)
        self.middle = nn.ModuleList(Block(shape.width) for _ in range(shape.blocks))
        self.leave = nn.Linear(shape.width, d)
        self.coherent = nn.Linear(d, d, bias=False)
        nn.init.zeros_(self.coherent.weight)
        self.depth = nn.Linear(shape.width, 1)
        nn.init.zeros_(self.depth.weight)
        nn.init.constant_(self.depth.bias, 3.0)  # at first nearly all of phi(x) is used

    def erase(self, x: Tensor) -> Tensor:
        """(n, d) of any length to (n, d) unit rows without the erased directions."""
        unit = nn.functional.normalize(x, dim=1, eps=TINY)
        if self.size.erases:
            unit = nn.functional.normalize(unit @ self.eraser.T, dim=1, eps=TINY)
        return unit

    def limits(self, erased: Tensor, caller: Tensor) -> Tensor:
        """phi(x) in radians, (n,): the smallest of what the cohort, the profile and the caller allow."""
        nearest = (erased @ self.cohort.T).amax(dim=1).clamp(-1, 1)
        margin = torch.arccos(nearest) - torch.arccos(self.tau)
        return torch.minimum(torch.minimum((self.slope * margin).clamp(min=0), self.phi_max), caller.clamp(min=0))

    def forward(self, x: Tensor, seed: Tensor, phi_limit: Tensor, seal: Tensor) -> Turned:
        """Protects.

        Args:
            x: (n, d) float32, raw embeddings of any length but zero.
            seed: (n, s) float32, standard normal.
            phi_limit: (n,) float32 radians, the caller's own limit.
            seal: (d, d) float32, orthogonal; the identity for none.
        """
        erased = self.erase(x)
        limit = self.limits(erased, phi_limit)
        # Scaled so that each entry is about one, as the seed's are.
        hidden = self.enter(torch.cat([erased * self.size.dim**0.5, seed], dim=1))
        for block in self.middle:
            hidden = block(hidden)
        raw = (self.coherent(erased * self.size.dim**0.5) + self.leave(hidden)) @ self.shape
        raw = raw - (raw * erased).sum(dim=1, keepdim=True) * erased
        turn = nn.functional.normalize(raw, dim=1, eps=TINY)
        angle = limit * torch.sigmoid(self.depth(hidden)).squeeze(1)
        plain = torch.cos(angle)[:, None] * erased + torch.sin(angle)[:, None] * turn
        plain = nn.functional.normalize(plain, dim=1, eps=TINY)
        return Turned(plain @ seal.T, angle, plain, erased, limit)
