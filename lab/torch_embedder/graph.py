"""Reads an ONNX graph of an embedder into steps of native torch modules, folding on the way whatever is linear.

Folded are: batch normalisation and products and sums with constants, into the convolution or matrix before them or,
where there is none, into the one behind (over a flattening too). A zero-padded convolution takes no shift from before
it, for the padding would shift with it; so an embedder that normalises its input keeps one subtraction, of 3 channels.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lab.torch_embedder.modules import Flatten
from lab.torch_embedder.operators import READERS, Node
from lab.torch_embedder.parts import Array, Conv, Fixed, Graph, Matrix, Operation, Shift, Step, fold_behind
from shared.errors import SetupError

_EITHER_SIDE: Final = ("Add", "Sub", "Mul", "Div")  # of which a constant may stand
_SAME_VALUE: Final = ("Identity", "Dropout")  # in inference


def read_graph(data: bytes, name: str) -> Graph:
    """Reads a serialised model with one 4-d input and one output.

    Args:
        data: the bytes of the file.
        name: of the file, for errors.

    Raises:
        SetupError: not such a model, or an operator, or a use of one, that is not supported.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as problem:  # protobuf's errors share no base class
        raise SetupError(f"{name} is not an ONNX model; export the embedder again.") from problem
    return Reader(model.graph, name).read()


class Reader:
    """Walks the nodes in order; ``steps`` grows, and shrinks where a node is folded into one before it."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self.name = name
        self.graph = graph
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.alias: dict[str, str] = {}
        self.steps: list[Step] = []
        self.rank: dict[str, int] = {}
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(value.name for value in graph.output)

    def read(self) -> Graph:
        """All of it; see ``read_graph``."""
        inputs = [value for value in self.graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(self.graph.output) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
            raise SetupError(f"{self.name} has not one input of four axes and one output; a twin needs an embedder.")
        self.rank[inputs[0].name] = 4
        for node in self.graph.node:
            self.take(node)
        output = self.resolve(self.graph.output[0].name)
        if output not in self.rank:
            raise SetupError(f"{self.name} gives a constant; a twin needs an embedder.")
        height, width = (dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim[2:])
        return Graph(self.steps, inputs[0].name, output, (height, width))

    def take(self, node: onnx.NodeProto) -> None:
        """One node: a constant, another name for a value, or a step."""
        kind, inputs = node.op_type, [self.resolve(name) for name in node.input]
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if kind == "Constant":
            self.constants[node.output[0]] = _constant(attributes)
        elif kind in _SAME_VALUE:
            self.same(inputs[0], node.output[0])
        elif kind in READERS and node.domain in ("", "ai.onnx"):
            found = Node(kind, inputs, node.output[0], attributes)
            if inputs[0] not in self.rank and kind not in _EITHER_SIDE:
                raise self.refuse(found, "on constants")
            READERS[kind](self, found)
        else:
            known = ", ".join(sorted({*READERS, *_SAME_VALUE, "Constant"}))
            raise SetupError(
                f"{self.name} has the operator {kind}, which a twin does not know; it knows {known}.",
                reason="unknown-operator",
                operator=kind,
            )

    def resolve(self, name: str) -> str:
        """The name that counts for a value."""
        return self.alias.get(name, name)

    def same(self, value: str, other: str) -> None:
        """``other`` is the same value; whoever reads it reads ``value``."""
        self.alias[other] = value
        self.uses[value] += self.uses[other] - 1
        if value in self.constants:
            self.constants[other] = self.constants[value]

    def refuse(self, node: Node, why: str) -> SetupError:
        """The error for a use of a known operator that is not supported."""
        return SetupError(
            f"{self.name} uses the operator {node.kind} {why}, which a twin does not know.",
            reason="unknown-operator",
            operator=node.kind,
        )

    def constant(self, node: Node, at: int, default: Array | None = None) -> Array:
        """An input that must be a constant.

        Raises:
            SetupError: it is computed, or missing with no default.
        """
        if at < len(node.inputs) and node.inputs[at]:
            if node.inputs[at] not in self.constants:
                raise self.refuse(node, f"with its input {at} computed")
            return self.constants[node.inputs[at]]
        if default is None:
            raise self.refuse(node, f"without its input {at}")
        return default

    def only_reader(self, value: str) -> Step | None:
        """The step that makes this value, if what reads it now is its only reader."""
        if self.uses[value] != 1:
            return None
        return next((step for step in reversed(self.steps) if step.output == value), None)

    def add(self, op: Operation, inputs: list[str], output: str, rank: int) -> None:
        """A step, folded with the one before it where that can be."""
        for name in inputs:
            if name not in self.rank:
                raise SetupError(f"{self.name} reads {name} before it is made, or computes on constants alone.")
        before = self.only_reader(inputs[0]) if len(inputs) == 1 else None
        if before is not None and isinstance(op, Shift) and fold_behind(before.op, op):
            self.same(before.output, output)
            return
        if before is not None and isinstance(op, Conv | Matrix):
            self.fold_before(before, op)
            inputs = [self.resolve(inputs[0])]
        self.steps.append(Step(op, inputs, output, rank))
        self.rank[output] = rank

    def fold_before(self, before: Step, op: Conv | Matrix) -> None:
        """Takes as much as can be of a shift before a convolution or matrix into it."""
        flat = before if isinstance(before.op, Fixed) and isinstance(before.op.made, Flatten) else None
        source = self.only_reader(flat.inputs[0]) if flat is not None else before
        if source is None or not isinstance(source.op, Shift) or (flat is not None and isinstance(op, Conv)):
            return
        if isinstance(op, Matrix):
            each = op.weight.shape[1] // source.op.scale.size
            op.bias += op.weight @ np.broadcast_to(np.repeat(source.op.shift, each), op.weight.shape[1:])
            op.weight *= np.broadcast_to(np.repeat(source.op.scale, each), op.weight.shape[1:])
            source.op = Shift(np.ones(1), np.zeros(1))
        elif op.groups == 1 or source.op.scale.size == 1:
            scale, shift = (v.reshape(1, -1, 1, 1) for v in (source.op.scale, source.op.shift))
            if not any(op.padding):
                op.bias += np.sum(op.weight * shift, axis=(1, 2, 3))
                op.weight *= scale
                source.op = Shift(np.ones(1), np.zeros(1))
            elif np.all(scale):
                op.weight *= scale
                source.op = Shift(np.ones(1), source.op.shift / source.op.scale)
        if isinstance(source.op, Shift) and not source.op.shift.any() and (source.op.scale == 1).all():
            self.steps.remove(source)
            if flat is None:
                self.alias[source.output] = source.inputs[0]
            else:
                flat.inputs = list(source.inputs)


def _constant(attributes: dict[str, Any]) -> Array:
    """The value of a Constant node."""
    for name, value in attributes.items():
        if name == "value":
            return np.asarray(numpy_helper.to_array(value))
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    raise SetupError("The model has a constant that is neither numbers nor a tensor.", reason="unknown-operator")
