"""The operations of an embedder that torch has no module for, or has one that is slow where weights are frozen."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_TINY: Final = 1e-12


class Slope(nn.Module):
    """PReLU whose slopes are constants: x where positive, slope * x elsewhere, along axis 1.

    ``nn.PReLU`` also computes the gradient of its slopes, frozen or not, which makes its way back 3.5 times as long.

    Args:
        slope: (c,) or (1,) float32.
    """

    slope: Tensor

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, ...) to the same."""
        found: Tensor = _SlopeFunction.apply(x, self.slope)  # type: ignore[no-untyped-call]
        return found


class _SlopeFunction(torch.autograd.Function):
    """Twice differentiable it is not: embeddings are trained against, never their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return functional.prelu(x, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        # ReLU's way back, then lerp: kept + slope * (gradient - kept). Both are vectorised, unlike a where over a mask.
        kept = torch.ops.aten.threshold_backward(gradient, x, 0)
        return kept.lerp_(gradient, slope.view(-1, *(1,) * (x.dim() - 2))), None


class Affine(nn.Module):
    """scale * x + shift along axis 1; each (c,) or (1,) float32."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self._scaled = not bool((scale == 1).all())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, ...) to the same."""
        like = (-1, *(1,) * (x.dim() - 2))
        shift = self.shift.view(like)
        return torch.addcmul(shift, x, self.scale.view(like)) if self._scaled else x + shift


class Binary(nn.Module):
    """Add, Sub, Mul or Div of two values, broadcast."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The result."""
        match self._kind:
            case "Add":
                return first + second
            case "Sub":
                return first - second
            case "Mul":
                return first * second
            case _:
                return first / second


class Clip(nn.Module):
    """Within bounds, either of which may be infinite."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self._bounds = (low, high)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x.clamp(*self._bounds)


class Mean(nn.Module):
    """The mean over some axes."""

    def __init__(self, axes: tuple[int, ...], *, keep: bool) -> None:
        super().__init__()
        self._axes, self._keep = axes, keep

    def forward(self, x: Tensor) -> Tensor:
        """Without the axes, or with length 1 in them."""
        return x.mean(self._axes, keepdim=self._keep)


class Norm(nn.Module):
    """The L2 length over some axes."""

    def __init__(self, axes: tuple[int, ...], *, keep: bool) -> None:
        super().__init__()
        self._axes, self._keep = axes, keep

    def forward(self, x: Tensor) -> Tensor:
        """Without the axes, or with length 1 in them."""
        length: Tensor = torch.linalg.vector_norm(x, dim=self._axes, keepdim=self._keep)
        return length


class UnitRows(nn.Module):
    """Each row over its length."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) to the same."""
        return functional.normalize(x, dim=1, eps=_TINY)


class Flatten(nn.Module):
    """All axes but the first as one."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, d)."""
        return x.flatten(1)


class Reshape(nn.Module):
    """Another shape, with ONNX's 0 for a length that stays and -1 for one that follows."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """The same values."""
        return x.reshape([x.shape[at] if length == 0 else length for at, length in enumerate(self._shape)])


class Concat(nn.Module):
    """Values behind each other along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self._axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        """All of them."""
        return torch.cat(values, dim=self._axis)


class Pad(nn.Module):
    """A constant around the values; lengths in torch's order, the last axis first."""

    def __init__(self, lengths: tuple[int, ...], value: float) -> None:
        super().__init__()
        self._lengths, self._value = lengths, value

    def forward(self, x: Tensor) -> Tensor:
        """The larger tensor."""
        return functional.pad(x, self._lengths, value=self._value)
