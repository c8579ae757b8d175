"""The Patronus network in torch: erase, limit, perturb, seal. ``onnx_export`` writes the same arithmetic as ONNX.

With x the raw embedding (any length), z the seed, R the seal:

* erase: e = normalise(E x), E the erase matrix, which removes some directions and shrinks others;
* limit: phi(e) = clip(slope * (arccos max_j <e, c_j> - arccos s), 0, phi_max), c_j a fixed cohort, s the cosine from
  which the margin counts, and never more than the caller's own limit;
* perturb: t = cos(a) e + sin(a) u with a = depth(e, z) * phi(e), and u the unit tangent at e that the generator names,
  the sum of a linear map J e and of a residual network of e and z. Where both sides of a comparison are protected, J is
  orthogonal and skew: J e is a unit tangent at every e, so that cos(a) e + sin(a) J e is a rotation for each a, and
  faces that are rotated alike stay exactly as far apart as they were. What accuracy costs is the residual network's;
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
        rotates: whether J is orthogonal and skew; else any linear map.
        cohort: rows of the cohort.
    """

    dim: int
    seed_dim: int = 16
    width: int = 256
    blocks: int = 2
    erases: bool = True
    rotates: bool = True
    cohort: int = 32


@dataclass(slots=True)
class NetworkOutput:
    """What the network gives.

    Attributes:
        template: (n, d) float32, unit rows, sealed.
        angle: (n,) float32 radians, by which the erased embedding was perturbed.
        plain: (n, d) float32, unit rows: the template before the seal.
        erased: (n, d) float32, unit rows: the embedding after erase and before perturb.
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
    """Erase, limit, perturb and seal, as one differentiable function.

    Buffers (set by fitting, frozen in training): ``eraser`` (d, d), ``cohort`` (m, d) unit rows in the erased space,
    ``shape`` (d, d) which spreads directions as real faces are spread, ``margin_from`` cosine, ``slope``, ``phi_max``
    radians.
    """

    eraser: Tensor
    cohort: Tensor
    shape: Tensor
    margin_from: Tensor
    slope: Tensor
    phi_max: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.size = shape
        d = shape.dim
        self.register_buffer("eraser", torch.eye(d))
        self.register_buffer("cohort", torch.nn.functional.normalize(torch.ones(shape.cohort, d), dim=1))
        self.register_buffer("shape", torch.eye(d))
        self.register_buffer("margin_from", torch.tensor(0.0))
        self.register_buffer("slope", torch.tensor(1.0))
        self.register_buffer("phi_max", torch.tensor(0.25))
        self.enter = nn.Linear(d + shape.seed_dim, shape.width)
        with torch.no_grad():  # at first the seed weighs as much as the embedding
            self.enter.weight[:, d:] *= (d / shape.seed_dim) ** 0.5
        self.middle = nn.ModuleList(Block(shape.width) for _ in range(shape.blocks))
        self.leave = nn.Linear(shape.width, d)
        # Of a rotation, the generator of Q in J = Q J0 Q^T: as random as it is large.
        self.coherent = nn.Parameter(torch.randn(d, d) if shape.rotates else torch.zeros(d, d))
        self.depth = nn.Linear(shape.width, 1)
        nn.init.zeros_(self.depth.weight)
        nn.init.constant_(self.depth.bias, 3.0)  # at first nearly all of phi(x) is used

    def erase(self, x: Tensor) -> Tensor:
        """(n, d) of any length to (n, d) unit rows without the erased directions."""
        unit = nn.functional.normalize(x, dim=1, eps=TINY)
        if self.size.erases:
            unit = nn.functional.normalize(unit @ self.eraser.T, dim=1, eps=TINY)
        return unit

    def linear(self) -> Tensor:
        """J, (d, d): the map of e that all faces share."""
        if not self.size.rotates:
            return self.coherent
        d = self.size.dim
        quarter = torch.zeros(
            d, d, dtype=self.coherent.dtype
        )  # a quarter turn in each of d / 2 planes; the last of an odd number stays
        even = torch.arange(0, d - 1, 2)
        quarter[even, even + 1], quarter[even + 1, even] = -1.0, 1.0
        basis: Tensor = torch.linalg.matrix_exp(self.coherent - self.coherent.T)
        return basis @ quarter @ basis.T

    def limits(self, erased: Tensor, caller: Tensor) -> Tensor:
        """phi(x) in radians, (n,): the smallest of what the cohort, the profile and the caller allow."""
        nearest = (erased @ self.cohort.T).amax(dim=1).clamp(-1, 1)
        margin = torch.arccos(nearest) - torch.arccos(self.margin_from)
        return torch.minimum(torch.minimum((self.slope * margin).clamp(min=0), self.phi_max), caller.clamp(min=0))

    def forward(self, x: Tensor, seed: Tensor, phi_limit: Tensor, seal: Tensor) -> NetworkOutput:
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
        alike = erased * self.size.dim**0.5 @ self.linear().T
        own = self.leave(hidden) @ self.shape
        raw = alike + own if self.size.rotates else alike @ self.shape + own
        raw = raw - (raw * erased).sum(dim=1, keepdim=True) * erased
        direction = nn.functional.normalize(raw, dim=1, eps=TINY)
        angle = limit * torch.sigmoid(self.depth(hidden)).squeeze(1)
        plain = torch.cos(angle)[:, None] * erased + torch.sin(angle)[:, None] * direction
        plain = nn.functional.normalize(plain, dim=1, eps=TINY)
        return NetworkOutput(plain @ seal.T, angle, plain, erased, limit)
