"""Rewrites a converted model as an equal graph that ONNX Runtime runs faster.

ONNX Runtime keeps convolutions and what follows them in a blocked layout of channels, and leaves it for a PReLU, which
it computes slowly besides. With y a channel before its PReLU and a its slope,

    prelu(y) = a y + relu((1 - a) y)        where a <= 1
    -prelu(y) = -y + relu((1 - a) y)        where a > 1

So each PReLU is the sum of two scaled copies of its input, one of them behind a Relu, and the layer behind takes those
channels with another sign. A scale is a depthwise convolution of one pixel, which stays in the layout; where the PReLU
follows a depthwise convolution, the scales go into two copies of that one. Batch normalization goes into the
convolution before it. Weights are computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from shared.errors import SetupError

Weights = NDArray[np.float64]


def faster(reference: bytes) -> bytes:
    """The equal graph; equal arguments give equal bytes.

    Args:
        reference: a serialized model, as ``to_runnable`` returns it.

    Raises:
        SetupError: a PReLU follows something else than a convolution, or a layer behind it cannot change signs.
    """
    model = onnx.load_model_from_string(reference)
    result = _Rewriting(model).result()
    onnx.checker.check_model(result, full_check=True)
    return bytes(result.SerializeToString(deterministic=True))


class _Rewriting:
    """A graph that is being written anew, node by node, in the order of the old one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, NDArray[Any]] = {}
        # The channels whose sign is another in the new graph.
        self._signs: dict[str, Weights] = {}
        self._merged: set[str] = set()

    def result(self) -> onnx.ModelProto:
        """The new model."""
        graph = self._model.graph
        for node in graph.node:
            if node.output[0] not in self._merged:
                self._write(node)
        if self._signs:
            raise SetupError("The model's layer behind a PReLU cannot change signs, so it has no faster form.")
        weights = [numpy_helper.from_array(array, name) for name, array in self._weights.items()]
        made = helper.make_graph(self._nodes, graph.name, graph.input, graph.output, weights)
        return helper.make_model(made, ir_version=self._model.ir_version, opset_imports=self._model.opset_import)

    def _write(self, node: NodeProto) -> None:
        if node.op_type == "Conv":
            self._convolution(node)
        elif node.op_type == "BatchNormalization":
            self._normalization(node)
        elif node.op_type == "PRelu":
            raise SetupError("The model has a PReLU that follows no convolution, so it has no faster form.")
        else:
            self._copy(node)

    def _copy(self, node: NodeProto) -> None:
        copied = NodeProto()
        copied.CopyFrom(node)
        self._nodes.append(copied)
        for name in node.input:
            if name in self._arrays:
                self._weights[name] = self._arrays[name]

    def _convolution(self, node: NodeProto) -> None:
        """A convolution with what follows it: a batch normalization and a PReLU, where they are there."""
        filters = self._array(node.input[1])
        biases = self._array(node.input[2]) if len(node.input) > 2 else np.zeros(len(filters))
        signs = self._signs.pop(node.input[0], None)
        depthwise = filters.shape[1] == 1 and len(filters) > 1
        if signs is not None:
            filters = filters * (signs[:, None, None, None] if depthwise else signs[None, :, None, None])
        last, following = node, self._only_reader(node)
        if following is not None and following.op_type == "BatchNormalization":
            scale, shift = self._affine(following)
            filters, biases = filters * scale[:, None, None, None], biases * scale + shift
            last, following = self._merge(following), self._only_reader(following)
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        source, name = node.input[0], node.output[0]
        if following is None or following.op_type != "PRelu":
            self._conv(source, filters, biases, last.output[0], attributes)
            return
        slopes = self._array(following.input[1]).reshape(-1)
        last = self._merge(following)
        above = slopes > 1
        through, bent = np.where(above, -1, slopes), 1 - slopes
        if depthwise:
            parts = [(filters * one[:, None, None, None], biases * one) for one in (through, bent)]
        else:
            source = self._conv(source, filters, biases, f"{name}_conv", attributes)
            attributes = {"group": len(slopes), "kernel_shape": [1, 1]}
            parts = [(one.reshape(-1, 1, 1, 1), np.zeros(len(one))) for one in (through, bent)]
        straight = self._conv(source, *parts[0], f"{name}_through", attributes)
        relu = self._add("Relu", [self._conv(source, *parts[1], f"{name}_bent", attributes)], f"{name}_relu")
        self._add("Add", [straight, relu], last.output[0])
        if above.any():
            self._signs[last.output[0]] = np.where(above, -1.0, 1.0)

    def _normalization(self, node: NodeProto) -> None:
        """A batch normalization that follows something else than a convolution: copied, with the signs in it."""
        signs = self._signs.pop(node.input[0], None)
        self._copy(node)
        if signs is not None:
            for name in (node.input[1], node.input[3]):  # the scale, and the mean that is subtracted before
                self._weights[name] = (self._arrays[name] * signs).astype(np.float32)

    def _affine(self, node: NodeProto) -> tuple[Weights, Weights]:
        gamma, beta, mean, variance = (self._array(name) for name in node.input[1:5])
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        return scale, beta - mean * scale

    def _conv(self, source: str, filters: Weights, biases: Weights, name: str, attributes: dict[str, Any]) -> str:
        inputs = [source, f"{name}_filters"]
        self._weights[inputs[1]] = filters.astype(np.float32)
        if biases.any():
            inputs.append(f"{name}_biases")
            self._weights[inputs[2]] = biases.astype(np.float32)
        return self._add("Conv", inputs, name, **attributes)

    def _add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _merge(self, node: NodeProto) -> NodeProto:
        self._merged.add(node.output[0])
        return node

    def _only_reader(self, node: NodeProto) -> NodeProto | None:
        readers = self._readers.get(node.output[0], [])
        outputs = {value.name for value in self._model.graph.output}
        return readers[0] if len(readers) == 1 and node.output[0] not in outputs else None

    def _array(self, name: str) -> Weights:
        return self._arrays[name].astype(np.float64)
