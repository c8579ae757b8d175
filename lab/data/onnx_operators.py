"""The ONNX operators that a torch embedder supports, each as a torch module or function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from shared.errors import SetupError


class Slope(nn.Module):
    """PReLU with constant slopes: x where positive, slope * x elsewhere, along axis 1.

    ``nn.PReLU`` also computes the gradient of its slopes, frozen or not, which makes its backward pass 3.5 times as
    long.

    Args:
        slope: (c,) or (1,).
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
    """Not twice differentiable: training uses gradients of embeddings, never gradients of those gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return functional.prelu(x, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        # ReLU's gradient, then lerp: kept + slope * (gradient - kept). Both are vectorized, unlike a where over a mask.
        kept = torch.ops.aten.threshold_backward(gradient, x, 0)
        return kept.lerp_(gradient, slope.view(-1, *(1,) * (x.dim() - 2))), None


class Affine(nn.Module):
    """scale * x + shift, broadcast as ONNX does."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return torch.addcmul(self.shift, x, self.scale)


class OnnxNode:
    """A node under conversion: its constants and attributes."""

    def __init__(self, node: onnx.NodeProto, file: str, constants: dict[str, NDArray[Any]], rank: int | None) -> None:
        self.kind, self.inputs = node.op_type, list(node.input)
        self._file, self._constants, self.rank = file, constants, rank
        self.attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def refuse(self, why: str) -> SetupError:
        """The error for an unsupported use of a supported operator."""
        return SetupError(
            f"{self._file} uses the operator {self.kind} {why}, which is not supported.",
            reason="unknown-operator",
            operator=self.kind,
        )

    def numbers(self, at: int, default: Any = None) -> NDArray[Any]:
        """A constant input; ``default`` where it is left out.

        Raises:
            SetupError: it is computed, or left out without a default.
        """
        if at < len(self.inputs) and self.inputs[at]:
            if self.inputs[at] not in self._constants:
                raise self.refuse(f"with its input {at} computed")
            return self._constants[self.inputs[at]]
        if default is None:
            raise self.refuse(f"without its input {at}")
        return np.asarray(default)

    def tensor(self, at: int, default: Any = None) -> Tensor:
        """The same as float64."""
        return double(self.numbers(at, default))

    def integers(self, at: int, attribute: str) -> list[int]:
        """A list given as a constant input, or by older operator sets as an attribute."""
        return [int(each) for each in self.numbers(at, self.get(attribute, [])).reshape(-1)]


def double(values: NDArray[Any]) -> Tensor:
    """The values as float64, in which layers are folded."""
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _conv(node: OnnxNode) -> list[nn.Module]:
    weight = node.tensor(1)
    if weight.dim() != 4 or node.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise node.refuse("with automatic padding, or not in two dimensions")
    top, left, bottom, right = node.get("pads", [0, 0, 0, 0])
    even = (top, left) == (bottom, right)
    out, inner, height, width = weight.shape
    groups = node.get("group", 1)
    conv = nn.Conv2d(
        inner * groups,
        out,
        (height, width),
        stride=tuple(node.get("strides", [1, 1])),
        padding=(top, left) if even else 0,
        dilation=tuple(node.get("dilations", [1, 1])),
        groups=groups,
    )
    _fill(conv, weight, node.tensor(2, np.zeros(out)))
    return [conv] if even else [nn.ZeroPad2d((left, right, top, bottom)), conv]


def _gemm(node: OnnxNode) -> nn.Module:
    if node.get("transA", 0):
        raise node.refuse("with its first input transposed")
    weight = node.tensor(1) if node.get("transB", 0) else node.tensor(1).T
    bias = node.tensor(2, np.zeros(1)) * node.get("beta", 1.0)
    return _linear(weight * node.get("alpha", 1.0), bias.broadcast_to((1, len(weight))).flatten())


def _matmul(node: OnnxNode) -> nn.Module:
    weight = node.tensor(1)
    if weight.dim() != 2:
        raise node.refuse("on more than two axes")
    return _linear(weight.T, torch.zeros(weight.shape[1]).double())


def _linear(weight: Tensor, bias: Tensor) -> nn.Module:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    _fill(linear, weight, bias)
    return linear


def _fill(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())


def _batch_norm(node: OnnxNode) -> nn.Module:
    if node.rank is None:
        raise node.refuse("on a value of unknown shape")
    gamma, beta, mean, variance = (node.tensor(at) for at in range(1, 5))
    scale = gamma / torch.sqrt(variance + node.get("epsilon", 1e-5))
    along = (-1, *(1,) * (node.rank - 2))
    return Affine(scale.view(along), (beta - mean * scale).view(along))


def _prelu(node: OnnxNode) -> nn.Module:
    slope, rank = node.tensor(1), node.rank or 0
    # Slopes are broadcast as ONNX does, from the last axis: only those along axis 1 are supported.
    if slope.numel() > 1 and (slope.dim() < rank - 1 or slope.shape[1 - rank] != slope.numel()):
        raise node.refuse("with such slopes")
    return Slope(slope.flatten())


def _clip(node: OnnxNode) -> partial[Any]:
    low, high = float(node.numbers(1, node.get("min", -np.inf))), float(node.numbers(2, node.get("max", np.inf)))
    return partial(torch.clamp, min=low, max=high)


def _pool(node: OnnxNode) -> nn.Module:
    kernel = node.attributes["kernel_shape"]
    top, left, bottom, right = node.get("pads", [0, 0, 0, 0])
    plain = node.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and set(node.get("dilations", [1])) == {1}
    if len(kernel) != 2 or (top, left) != (bottom, right) or not plain:
        raise node.refuse("with uneven or automatic padding, or dilated")
    size, stride, ceil = tuple(kernel), tuple(node.get("strides", [1, 1])), bool(node.get("ceil_mode", 0))
    if node.kind == "MaxPool":
        return nn.MaxPool2d(size, stride, (top, left), ceil_mode=ceil)
    return nn.AvgPool2d(
        size, stride, (top, left), ceil_mode=ceil, count_include_pad=bool(node.get("count_include_pad", 0))
    )


def _reduce(node: OnnxNode) -> partial[Any]:
    reduce = torch.mean if node.kind == "ReduceMean" else torch.linalg.vector_norm
    return partial(reduce, dim=_axes(node), keepdim=bool(node.get("keepdims", 1)))


def _axes(node: OnnxNode) -> tuple[int, ...]:
    axes = node.integers(1, "axes")
    if not axes or 0 in axes:
        raise node.refuse("over the batch")
    return tuple(axes)


def _flatten(node: OnnxNode) -> partial[Any]:
    if node.get("axis", 1) != 1:
        raise node.refuse("over the batch")
    return partial(torch.flatten, start_dim=1)


def _reshape(node: OnnxNode) -> partial[Any]:
    shape = node.integers(1, "shape")
    if shape[0] not in (0, -1) or node.get("allowzero", 0):
        raise node.refuse("with a fixed batch")
    return partial(_reshaped, shape=shape)


def _reshaped(x: Tensor, shape: list[int]) -> Tensor:
    """In ONNX a length of 0 stays as it is."""
    return x.reshape([x.shape[at] if length == 0 else length for at, length in enumerate(shape)])


def _squeeze(node: OnnxNode) -> partial[Any]:
    return partial(torch.squeeze, dim=_axes(node))


def _concat(node: OnnxNode) -> partial[Any]:
    if node.attributes["axis"] == 0:
        raise node.refuse("over the batch")
    return partial(_concatenated, dim=node.attributes["axis"])


def _concatenated(*values: Tensor, dim: int) -> Tensor:
    return torch.cat(values, dim=dim)


def _pad(node: OnnxNode) -> partial[Any]:
    pads = node.integers(1, "pads")
    value = float(node.numbers(2, node.get("value", 0.0)).reshape(()))
    if node.get("mode", b"constant") != b"constant" or len(node.inputs) > 3:
        raise node.refuse("in another mode than constant")
    # ONNX: all beginnings, then all ends, first axis first; torch: beginning and end together, last axis first.
    rank = len(pads) // 2
    return partial(
        functional.pad, pad=[pads[at + end] for at in reversed(range(rank)) for end in (0, rank)], value=value
    )


def _unit_rows(node: OnnxNode) -> partial[Any]:
    if node.get("p", 2) != 2 or node.get("axis", -1) not in (1, -1):
        raise node.refuse("with another norm than that of rows")
    return partial(functional.normalize, dim=1, eps=1e-12)


CONVERTERS: Final[dict[str, Callable[[OnnxNode], Any]]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "Relu": lambda _: nn.ReLU(),
    "LeakyRelu": lambda node: Slope(torch.tensor([node.get("alpha", 0.01)]).double()),
    "Sigmoid": lambda _: nn.Sigmoid(),
    "HardSwish": lambda _: nn.Hardswish(),
    "Tanh": lambda _: nn.Tanh(),
    "Clip": _clip,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": lambda _: partial(torch.mean, dim=(2, 3), keepdim=True),
    "ReduceMean": _reduce,
    "ReduceL2": _reduce,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Pad": _pad,
    "LpNormalization": _unit_rows,
}
