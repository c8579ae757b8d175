"""What each ONNX operator becomes in a twin; those of ``READERS`` are all that a twin knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from lab.torch_embedder.modules import Binary, Clip, Concat, Flatten, Mean, Norm, Pad, Reshape, Slope, UnitRows
from lab.torch_embedder.parts import Array, Conv, Fixed, Matrix, Shift, tensor

if TYPE_CHECKING:
    from lab.torch_embedder.graph import Reader

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """A node, its inputs under the names that count."""

    kind: str
    inputs: list[str]
    output: str
    attributes: Attributes


def _read_conv(reader: Reader, node: Node) -> None:
    weight = reader.constant(node, 1).astype(np.float64)
    if weight.ndim != 4 or node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise reader.refuse(node, "with automatic padding, or not in two dimensions")
    conv = Conv(
        weight,
        reader.constant(node, 2, np.zeros(len(weight))).astype(np.float64),
        stride=node.attributes.get("strides", [1, 1]),
        padding=node.attributes.get("pads", [0, 0, 0, 0]),
        dilation=node.attributes.get("dilations", [1, 1]),
        groups=node.attributes.get("group", 1),
    )
    reader.add(conv, node.inputs[:1], node.output, 4)


def _read_norm(reader: Reader, node: Node) -> None:
    gamma, beta, mean, variance = (reader.constant(node, at).astype(np.float64) for at in range(1, 5))
    scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    reader.add(Shift(scale, beta - mean * scale), node.inputs[:1], node.output, reader.rank[node.inputs[0]])


def _read_gemm(reader: Reader, node: Node) -> None:
    weight = reader.constant(node, 1).astype(np.float64)
    if node.attributes.get("transA", 0):
        raise reader.refuse(node, "with its first input transposed")
    weight = weight if node.attributes.get("transB", 0) else weight.T
    bias = reader.constant(node, 2, np.zeros(len(weight))).astype(np.float64)
    matrix = Matrix(
        weight * node.attributes.get("alpha", 1.0),
        np.broadcast_to(bias * node.attributes.get("beta", 1.0), (1, len(weight))).reshape(-1).copy(),
    )
    reader.add(matrix, node.inputs[:1], node.output, 2)


def _read_matmul(reader: Reader, node: Node) -> None:
    weight = reader.constant(node, 1).astype(np.float64)
    if weight.ndim != 2 or reader.rank[node.inputs[0]] != 2:
        raise reader.refuse(node, "on more than two axes")
    reader.add(Matrix(weight.T.copy(), np.zeros(weight.shape[1])), node.inputs[:1], node.output, 2)


def _read_arithmetic(reader: Reader, node: Node) -> None:
    """Add, Sub, Mul and Div, of two values or of a value and a constant."""
    held = [name in reader.constants for name in node.inputs]
    if not any(held):
        rank = max(reader.rank.get(name, 0) for name in node.inputs)
        reader.add(Fixed(Binary(node.kind)), node.inputs, node.output, rank)
        return
    at = held.index(True)
    value = node.inputs[1 - at]
    rank = reader.rank.get(value, 0)
    c = _along_channels(reader.constants[node.inputs[at]].astype(np.float64), rank)
    if c is None or (node.kind == "Div" and at == 0):
        raise reader.refuse(node, "with such a constant")
    one, zero = np.ones(1), np.zeros(1)
    shift = {
        "Add": Shift(one, c),
        "Sub": Shift(one, -c) if at == 1 else Shift(-one, c),
        "Mul": Shift(c, zero),
        "Div": Shift(1 / c, zero),
    }[node.kind]
    reader.add(shift, [value], node.output, rank)


def _along_channels(constant: Array, rank: int) -> Array | None:
    """The constant as (c,) or (1,), if it runs along axis 1 of a value of this rank, or along none."""
    if constant.size == 1:
        return constant.reshape(1)
    axis = 1 - rank + constant.ndim  # of the constant, as broadcasting aligns the last axes
    if rank < 2 or axis < 0 or constant.size != constant.shape[axis]:
        return None
    return constant.reshape(-1)


def _read_prelu(reader: Reader, node: Node) -> None:
    rank = reader.rank[node.inputs[0]]
    slope = _along_channels(reader.constant(node, 1), rank)
    if slope is None:
        raise reader.refuse(node, "with such slopes")
    reader.add(Fixed(Slope(tensor(slope))), node.inputs[:1], node.output, rank)


def _read_clip(reader: Reader, node: Node) -> None:
    low = reader.constant(node, 1, np.array(node.attributes.get("min", -np.inf)))
    high = reader.constant(node, 2, np.array(node.attributes.get("max", np.inf)))
    module = Clip(float(low), float(high))
    reader.add(Fixed(module), node.inputs[:1], node.output, reader.rank[node.inputs[0]])


def _read_pool(reader: Reader, node: Node) -> None:
    kernel, attributes = node.attributes["kernel_shape"], node.attributes
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    plain = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and set(
        attributes.get("dilations", [1])
    ) == {1}
    if len(kernel) != 2 or (top, left) != (bottom, right) or not plain:
        raise reader.refuse(node, "with uneven or automatic padding, or dilated")
    size, stride = (kernel[0], kernel[1]), tuple(attributes.get("strides", [1, 1]))
    ceil = bool(attributes.get("ceil_mode", 0))
    if node.kind == "MaxPool":
        module: nn.Module = nn.MaxPool2d(size, stride, (top, left), ceil_mode=ceil)
    else:
        counted = bool(attributes.get("count_include_pad", 0))
        module = nn.AvgPool2d(size, stride, (top, left), ceil_mode=ceil, count_include_pad=counted)
    reader.add(Fixed(module), node.inputs[:1], node.output, 4)


def _read_mean(reader: Reader, node: Node) -> None:
    """GlobalAveragePool, and ReduceMean and ReduceL2 over constant axes."""
    rank = reader.rank[node.inputs[0]]
    if node.kind == "GlobalAveragePool":
        reader.add(Fixed(Mean((2, 3), keep=True)), node.inputs[:1], node.output, rank)
        return
    given = reader.constant(node, 1, np.array(node.attributes.get("axes", list(range(rank))))).reshape(-1)
    axes = sorted(int(axis) % rank for axis in given)
    keep = bool(node.attributes.get("keepdims", 1))
    if 0 in axes:
        raise reader.refuse(node, "over the batch")
    module = (Mean if node.kind == "ReduceMean" else Norm)(tuple(axes), keep=keep)
    reader.add(Fixed(module), node.inputs[:1], node.output, rank if keep else rank - len(axes))


def _read_flatten(reader: Reader, node: Node) -> None:
    if node.attributes.get("axis", 1) != 1:
        raise reader.refuse(node, "over the batch")
    reader.add(Fixed(Flatten()), node.inputs[:1], node.output, 2)


def _read_reshape(reader: Reader, node: Node) -> None:
    shape = [int(length) for length in reader.constant(node, 1)]
    if shape[0] not in (0, -1) or node.attributes.get("allowzero", 0):
        raise reader.refuse(node, "with a fixed batch")
    flat = len(shape) == 2
    module = Flatten() if flat and shape[0] == 0 and shape[1] == -1 else Reshape(tuple(shape))
    reader.add(Fixed(module), node.inputs[:1], node.output, len(shape))


def _read_squeeze(reader: Reader, node: Node) -> None:
    """Only of the two axes of a picture that has shrunk to a point, which is a flattening."""
    rank = reader.rank[node.inputs[0]]
    axes = reader.constant(node, 1, np.array(node.attributes.get("axes", []))).reshape(-1)
    if rank != 4 or sorted(int(axis) % rank for axis in axes) != [2, 3]:
        raise reader.refuse(node, "on other axes than height and width")
    reader.add(Fixed(Flatten()), node.inputs[:1], node.output, 2)


def _read_concat(reader: Reader, node: Node) -> None:
    rank = reader.rank.get(node.inputs[0], 0)
    axis = node.attributes["axis"] % max(rank, 1)
    if axis == 0 or any(name not in reader.rank for name in node.inputs):
        raise reader.refuse(node, "over the batch, or with constants")
    reader.add(Fixed(Concat(axis)), node.inputs, node.output, rank)


def _read_pad(reader: Reader, node: Node) -> None:
    rank = reader.rank[node.inputs[0]]
    pads = [int(length) for length in reader.constant(node, 1, np.array(node.attributes.get("pads", [])))]
    value = float(reader.constant(node, 2, np.array(node.attributes.get("value", 0.0))).reshape(()))
    if node.attributes.get("mode", b"constant") != b"constant" or len(node.inputs) > 3 or len(pads) != 2 * rank:
        raise reader.refuse(node, "in another mode than constant")
    # ONNX: all beginnings, then all ends, first axis first; torch: beginning and end together, last axis first.
    order = [pads[at + end] for at in reversed(range(rank)) for end in (0, rank)]
    reader.add(Fixed(Pad(tuple(order), value)), node.inputs[:1], node.output, rank)


def _read_unit(reader: Reader, node: Node) -> None:
    rank = reader.rank[node.inputs[0]]
    if node.attributes.get("p", 2) != 2 or node.attributes.get("axis", -1) % rank != 1:
        raise reader.refuse(node, "with another norm than that of rows")
    reader.add(Fixed(UnitRows()), node.inputs[:1], node.output, rank)


def _activation(make: Callable[[Attributes], nn.Module]) -> Callable[[Reader, Node], None]:
    def read(reader: Reader, node: Node) -> None:
        reader.add(Fixed(make(node.attributes)), node.inputs[:1], node.output, reader.rank[node.inputs[0]])

    return read


READERS: Final[dict[str, Callable[[Reader, Node], None]]] = {
    "Conv": _read_conv,
    "BatchNormalization": _read_norm,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
    "Add": _read_arithmetic,
    "Sub": _read_arithmetic,
    "Mul": _read_arithmetic,
    "Div": _read_arithmetic,
    "PRelu": _read_prelu,
    "Relu": _activation(lambda _: nn.ReLU()),
    "LeakyRelu": _activation(lambda found: Slope(torch.tensor([found.get("alpha", 0.01)]))),
    "Sigmoid": _activation(lambda _: nn.Sigmoid()),
    "HardSwish": _activation(lambda _: nn.Hardswish()),
    "Tanh": _activation(lambda _: nn.Tanh()),
    "Clip": _read_clip,
    "MaxPool": _read_pool,
    "AveragePool": _read_pool,
    "GlobalAveragePool": _read_mean,
    "ReduceMean": _read_mean,
    "ReduceL2": _read_mean,
    "Flatten": _read_flatten,
    "Reshape": _read_reshape,
    "Squeeze": _read_squeeze,
    "Concat": _read_concat,
    "Pad": _read_pad,
    "LpNormalization": _read_unit,
}
