"""Reads the ONNX graph of an embedder into a torch module whose weights are frozen.

``onnx2torch`` does the same for more operators. It is not used because it imports torchvision, stops at opset 16, and
takes 1.4 to 2 times as long forward and backward: it leaves batch normalization apart from convolutions, and torch's
own PReLU computes the gradient of its slopes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from shared.errors import SetupError

_ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}
_SAME_VALUE: Final = ("Identity", "Dropout")  # in inference


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


def read_onnx(data: bytes, name: str) -> fx.GraphModule:
    """Reads a serialized model with one input of four axes and one output.

    Args:
        data: the bytes of the file.
        name: of the file, for errors.

    Returns:
        a module in evaluation mode; none of its parameters has a gradient.

    Raises:
        SetupError: not such a model, or an operator, or a use of one, that is not supported.
    """
    try:
        model = onnx.load_model_from_string(data)
        shapes = onnx.shape_inference.infer_shapes(model).graph
    except Exception as problem:  # protobuf's errors share no base class
        raise SetupError(f"{name} is not an ONNX model; export the embedder again.") from problem
    reader = _Reader(model.graph, name)
    reader.rank = {each.name: len(each.type.tensor_type.shape.dim) for each in (*shapes.input, *shapes.value_info)}
    module = reader.read()
    # Double until here, so that what is folded is rounded once.
    module = module.float().eval().requires_grad_(False)
    # With channels last, forward and backward take half the time or less, above all in depthwise convolutions.
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            each.weight.data = each.weight.data.contiguous(memory_format=torch.channels_last)
    return module


class _Call(NamedTuple):
    """A function to call on a node's values."""

    function: Callable[..., Any]
    options: dict[str, Any]


def _with(function: Callable[..., Any], **options: Any) -> _Call:
    return _Call(function, options)


class _Node:
    """A node under conversion: its constants and attributes."""

    def __init__(self, reader: _Reader, node: onnx.NodeProto) -> None:
        self.reader, self.kind, self.inputs = reader, node.op_type, list(node.input)
        self.attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def refuse(self, why: str) -> SetupError:
        """The error for an unsupported use of a supported operator."""
        return SetupError(
            f"{self.reader.name} uses the operator {self.kind} {why}, which is not supported.",
            reason="unknown-operator",
            operator=self.kind,
        )

    def numbers(self, at: int, default: Any = None) -> NDArray[Any]:
        """A constant input; ``default`` where it is left out.

        Raises:
            SetupError: it is computed, or left out without a default.
        """
        if at < len(self.inputs) and self.inputs[at]:
            if self.inputs[at] not in self.reader.constants:
                raise self.refuse(f"with its input {at} computed")
            return self.reader.constants[self.inputs[at]]
        if default is None:
            raise self.refuse(f"without its input {at}")
        return np.asarray(default)

    def tensor(self, at: int, default: Any = None) -> Tensor:
        """The same as float64."""
        return _double(self.numbers(at, default))

    def integers(self, at: int, attribute: str) -> list[int]:
        """A list given as a constant input, or by older operator sets as an attribute."""
        return [int(each) for each in self.numbers(at, self.get(attribute, [])).reshape(-1)]


class _Reader:
    """Converts node by node; ``values`` holds what is computed so far."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self.name = name
        self.onnx = graph
        self.constants: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.values: dict[str, fx.Node] = {}
        self.rank: dict[str, int] = {}
        self.graph, self.root = fx.Graph(), nn.Module()

    def read(self) -> fx.GraphModule:
        """All of it; see ``read_onnx``."""
        inputs = [value for value in self.onnx.input if value.name not in self.constants]
        if len(inputs) != 1 or len(self.onnx.output) != 1 or self.rank.get(inputs[0].name) != 4:
            raise SetupError(f"{self.name} does not have one input of four axes and one output; name an embedder.")
        self.values[inputs[0].name] = self.graph.placeholder("x")
        for node in self.onnx.node:
            self._take(node)
        output = self.values.get(self.onnx.output[0].name)
        if output is None:
            raise SetupError(f"{self.name} gives a constant; name an embedder.")
        self.graph.output(output)
        self._fold()
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def _take(self, node: onnx.NodeProto) -> None:
        found, output = _Node(self, node), node.output[0]
        if node.op_type == "Constant":
            self.constants[output] = _constant(found.attributes)
        elif node.op_type in _SAME_VALUE:
            source = self.constants if node.input[0] in self.constants else self.values
            source[output] = source[node.input[0]]  # type: ignore[assignment]
        elif node.op_type in _ARITHMETIC:
            self.values[output] = self._arithmetic(found)
        elif node.op_type in _CONVERTERS and node.domain in ("", "ai.onnx"):
            made = _CONVERTERS[node.op_type](found)
            values = [self._value(found, each) for each in (node.input if node.op_type == "Concat" else node.input[:1])]
            for step in made if isinstance(made, list) else [made]:
                values = [self._step(step, values)]
            self.values[output] = values[0]
        else:
            known = ", ".join(sorted({*_CONVERTERS, *_ARITHMETIC, *_SAME_VALUE, "Constant"}))
            raise SetupError(
                f"{self.name} has the operator {node.op_type}, which is not supported; supported are {known}.",
                reason="unknown-operator",
                operator=node.op_type,
            )

    def _value(self, node: _Node, name: str) -> fx.Node:
        if name in self.values:
            return self.values[name]
        raise node.refuse("on constants" if name in self.constants else f"on {name}, which no node before it gives")

    def _step(self, step: nn.Module | _Call, values: Sequence[fx.Node]) -> fx.Node:
        if isinstance(step, _Call):
            return self.graph.call_function(step.function, tuple(values), step.options)
        name = f"step_{len(list(self.root.children()))}"
        self.root.add_module(name, step)
        return self.graph.call_module(name, tuple(values))

    def _arithmetic(self, node: _Node) -> fx.Node:
        """Add, Sub, Mul or Div, of two values or of a value and a constant."""
        constant = [name in self.constants for name in node.inputs]
        if all(constant):
            raise node.refuse("on constants")
        if not any(constant):
            values = tuple(self._value(node, name) for name in node.inputs)
            return self.graph.call_function(_ARITHMETIC[node.kind], values)
        at = constant.index(True)
        c = node.tensor(at)
        one, zero = torch.ones(1).double(), torch.zeros(1).double()
        if node.kind == "Div" and at == 0:
            raise node.refuse("of a constant by a value")
        affine = {
            "Add": (one, c),
            "Sub": (one, -c) if at == 1 else (-one, c),
            "Mul": (c, zero),
            "Div": (1 / c, zero),
        }[node.kind]
        return self._step(Affine(*affine), [self._value(node, node.inputs[1 - at])])

    def _fold(self) -> None:
        """Folds each scale and shift into the layer before it, if nothing else reads that layer's output."""
        modules = dict(self.root.named_children())
        for node in list(self.graph.nodes):
            affine = modules.get(str(node.target)) if node.op == "call_module" else None
            if not isinstance(affine, Affine):
                continue
            before = node.args[0]
            layer = modules.get(str(before.target)) if before.op == "call_module" and len(before.users) == 1 else None
            if layer is not None and _folded(layer, affine):
                node.replace_all_uses_with(before)
                self.graph.erase_node(node)
                delattr(self.root, str(node.target))


def _folded(layer: nn.Module, affine: Affine) -> bool:
    """Folds a scale and shift into a layer in place; whether that is possible."""
    scale, shift = affine.scale, affine.shift
    if isinstance(layer, Affine):
        layer.scale, layer.shift = layer.scale * scale, layer.shift * scale + shift
        return True
    if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.bias is None:
        return False
    channels = (1, len(layer.weight), 1, 1) if isinstance(layer, nn.Conv2d) else (1, len(layer.weight))
    try:
        scale, shift = (each.broadcast_to(channels).flatten() for each in (scale, shift))
    except RuntimeError:  # it runs along another axis
        return False
    layer.weight.data *= scale.view(-1, *(1,) * (layer.weight.dim() - 1))
    layer.bias.data = layer.bias.data * scale + shift
    return True


def _double(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _constant(attributes: dict[str, Any]) -> NDArray[Any]:
    """The value of a Constant node."""
    for name, value in attributes.items():
        if name == "value":
            return np.asarray(numpy_helper.to_array(value))
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    raise SetupError("The model has a constant that is neither numbers nor a tensor.", reason="unknown-operator")


def _conv(node: _Node) -> list[nn.Module]:
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


def _gemm(node: _Node) -> nn.Module:
    if node.get("transA", 0):
        raise node.refuse("with its first input transposed")
    weight = node.tensor(1) if node.get("transB", 0) else node.tensor(1).T
    bias = node.tensor(2, np.zeros(1)) * node.get("beta", 1.0)
    return _linear(weight * node.get("alpha", 1.0), bias.broadcast_to((1, len(weight))).flatten())


def _matmul(node: _Node) -> nn.Module:
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


def _batch_norm(node: _Node) -> nn.Module:
    if node.inputs[0] not in node.reader.rank:
        raise node.refuse("on a value of unknown shape")
    gamma, beta, mean, variance = (node.tensor(at) for at in range(1, 5))
    scale = gamma / torch.sqrt(variance + node.get("epsilon", 1e-5))
    along = (-1, *(1,) * (node.reader.rank[node.inputs[0]] - 2))
    return Affine(scale.view(along), (beta - mean * scale).view(along))


def _prelu(node: _Node) -> nn.Module:
    slope, rank = node.tensor(1), node.reader.rank.get(node.inputs[0], 0)
    # Slopes are broadcast as ONNX does, from the last axis: only those along axis 1 are supported.
    if slope.numel() > 1 and (slope.dim() < rank - 1 or slope.shape[1 - rank] != slope.numel()):
        raise node.refuse("with such slopes")
    return Slope(slope.flatten())


def _clip(node: _Node) -> _Call:
    low, high = float(node.numbers(1, node.get("min", -np.inf))), float(node.numbers(2, node.get("max", np.inf)))
    return _with(torch.clamp, min=low, max=high)


def _pool(node: _Node) -> nn.Module:
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


def _reduce(node: _Node) -> _Call:
    axes = node.integers(1, "axes")
    if not axes or 0 in axes:
        raise node.refuse("over the batch")
    reduce = torch.mean if node.kind == "ReduceMean" else torch.linalg.vector_norm
    return _with(reduce, dim=tuple(axes), keepdim=bool(node.get("keepdims", 1)))


def _flatten(node: _Node) -> _Call:
    if node.get("axis", 1) != 1:
        raise node.refuse("over the batch")
    return _with(torch.flatten, start_dim=1)


def _reshape(node: _Node) -> _Call:
    shape = node.integers(1, "shape")
    if shape[0] not in (0, -1) or node.get("allowzero", 0):
        raise node.refuse("with a fixed batch")
    return _with(_reshaped, shape=shape)


def _reshaped(x: Tensor, shape: list[int]) -> Tensor:
    """In ONNX a length of 0 stays as it is."""
    return x.reshape([x.shape[at] if length == 0 else length for at, length in enumerate(shape)])


def _squeeze(node: _Node) -> _Call:
    axes = node.integers(1, "axes")
    if not axes or 0 in axes:
        raise node.refuse("over the batch")
    return _with(torch.squeeze, dim=tuple(axes))


def _concat(node: _Node) -> _Call:
    if node.attributes["axis"] == 0:
        raise node.refuse("over the batch")
    return _with(_concatenated, dim=node.attributes["axis"])


def _concatenated(*values: Tensor, dim: int) -> Tensor:
    return torch.cat(values, dim=dim)


def _pad(node: _Node) -> _Call:
    pads = node.integers(1, "pads")
    value = float(node.numbers(2, node.get("value", 0.0)).reshape(()))
    if node.get("mode", b"constant") != b"constant" or len(node.inputs) > 3:
        raise node.refuse("in another mode than constant")
    # ONNX: all beginnings, then all ends, first axis first; torch: beginning and end together, last axis first.
    rank = len(pads) // 2
    return _with(functional.pad, pad=[pads[at + end] for at in reversed(range(rank)) for end in (0, rank)], value=value)


def _unit_rows(node: _Node) -> _Call:
    if node.get("p", 2) != 2 or node.get("axis", -1) not in (1, -1):
        raise node.refuse("with another norm than that of rows")
    return _with(functional.normalize, dim=1, eps=1e-12)


_CONVERTERS: Final[dict[str, Callable[[_Node], Any]]] = {
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
    "GlobalAveragePool": lambda _: _with(torch.mean, dim=(2, 3), keepdim=True),
    "ReduceMean": _reduce,
    "ReduceL2": _reduce,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Pad": _pad,
    "LpNormalization": _unit_rows,
}
