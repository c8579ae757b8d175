"""The operations of a twin while its graph is read: still numbers, float64, so that others can be folded into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lab.torch_embedder.modules import Affine

Array = NDArray[Any]


@dataclass(slots=True)
class Conv:
    """A convolution under way; float64 while it is folded into."""

    weight: Array  # (out, in / groups, kh, kw)
    bias: Array  # (out,)
    stride: list[int]
    padding: list[int]  # top, left, bottom, right
    dilation: list[int]
    groups: int

    def module(self) -> nn.Module:
        """As a native module, behind a zero padding where that is not the same on both sides."""
        top, left, bottom, right = self.padding
        even = (top, left) == (bottom, right)
        out, inner, *kernel = self.weight.shape
        conv = nn.Conv2d(
            inner * self.groups,
            out,
            (kernel[0], kernel[1]),
            stride=(self.stride[0], self.stride[1]),
            padding=(top, left) if even else 0,
            dilation=(self.dilation[0], self.dilation[1]),
            groups=self.groups,
        )
        _fill(conv, self.weight, self.bias)
        return conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)


@dataclass(slots=True)
class Matrix:
    """A fully connected layer under way."""

    weight: Array  # (out, in)
    bias: Array  # (out,)

    def module(self) -> nn.Module:
        """As a native module."""
        linear = nn.Linear(self.weight.shape[1], self.weight.shape[0])
        _fill(linear, self.weight, self.bias)
        return linear


@dataclass(slots=True)
class Shift:
    """scale * x + shift, along axis 1; each (c,) or (1,)."""

    scale: Array
    shift: Array

    def module(self) -> nn.Module:
        """As a module of ours."""
        return Affine(tensor(self.scale), tensor(self.shift))


@dataclass(slots=True)
class Fixed:
    """A module that nothing folds into."""

    made: nn.Module

    def module(self) -> nn.Module:
        """The module."""
        return self.made


Operation = Conv | Matrix | Shift | Fixed


@dataclass(slots=True)
class Step:
    """One operation: what it reads and the name of what it gives."""

    op: Operation
    inputs: list[str]
    output: str
    rank: int  # of the output


@dataclass(slots=True)
class Graph:
    """What was read.

    Attributes:
        steps: in order.
        input: the name of the input.
        output: the name of the output.
        side: height and width of the input, None where the file leaves them open.
    """

    steps: list[Step]
    input: str
    output: str
    side: tuple[int | None, int | None]


def fold_behind(op: Operation, shift: Shift) -> bool:
    """Takes a shift behind an operation into it; whether that could be done."""
    if isinstance(op, Fixed):
        return False
    if isinstance(op, Shift):
        op.scale, op.shift = op.scale * shift.scale, op.shift * shift.scale + shift.shift
    else:
        op.weight = op.weight * shift.scale.reshape(-1, *(1,) * (op.weight.ndim - 1))
        op.bias = np.broadcast_to(op.bias * shift.scale + shift.shift, op.bias.shape).copy()
    return True


def _fill(module: nn.Conv2d | nn.Linear, weight: Array, bias: Array) -> None:
    module.weight = nn.Parameter(tensor(weight), requires_grad=False)
    module.bias = nn.Parameter(tensor(bias), requires_grad=False)


def tensor(values: Array) -> torch.Tensor:
    """The values as float32."""
    return torch.from_numpy(np.array(values, dtype=np.float32))
