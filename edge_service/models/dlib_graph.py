"""Writes dlib's residual network as an ONNX graph, node by node.

The network (`anet_type` in dlib's example of face recognition) is a stem, residual blocks, the mean of all pixels, and
a matrix product. Where dlib halves the size it does not pad. So the two sides of a block's sum differ in channels, and
may differ by a pixel; the smaller one is filled up with zeroes at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_service.models.dlib_file import MARK, DlibNetwork, Layer, NotDlib
from edge_service.models.manifest import ConvertedFile

# The operator set that the graph is written in.
OPSET = 21

# dlib divides by this after subtracting the mean (`input_rgb_image_sized`); its inverse is exact in float32.
_SCALE = 256
_POOLS = {"max_pool_2": "MaxPool", "avg_pool_2": "AveragePool"}

Arrays = dict[str, NDArray[Any]]


def build(network: DlibNetwork, contract: ConvertedFile) -> tuple[list[onnx.NodeProto], Arrays]:
    """Builds nodes and weights of a graph that takes the pixels of any number of faces.

    Args:
        network: as dlib's file has it.
        contract: the names and shapes that the result must have.

    Raises:
        NotDlib: the layers come in another order, or do not fit together.
    """
    layers = _Layers(network.layers)
    graph = _Graph()
    mean = np.array(network.mean, np.float64).astype(np.float32).reshape(1, 3, 1, 1)
    shifted = graph.add("Sub", contract.input.name, graph.weight("mean", mean))
    scaled = graph.add("Mul", shifted, graph.weight("scale", np.array(1 / _SCALE, np.float32)))
    at = graph.convolution(_Map(scaled, 3, network.side), layers)
    at = graph.pool(graph.relu(at, layers), layers.next(*_POOLS))
    while layers.begin_with(MARK):
        at = _block(graph, at, layers)
    if layers.next(*_POOLS).window != 0:
        raise NotDlib("the mean of all pixels is expected")
    (weights,) = layers.next("fc_2").weights
    layers.expect_end()
    if len(weights) != at.channels:
        raise NotDlib("the last layer takes another number of channels")
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", at.name), axis=1)
    graph.add("MatMul", flat, graph.weight("projection", weights), output=contract.outputs[0].name)
    return graph.nodes, graph.weights


@dataclass(frozen=True, slots=True)
class _Map:
    """An output within the graph: its name, its channels, and its height and width in pixels."""

    name: str
    channels: int
    side: int


def _block(graph: _Graph, start: _Map, layers: _Layers) -> _Map:
    """Two convolutions, added to their input, which is halved where they halve."""
    layers.next(MARK)
    main = graph.relu(graph.convolution(start, layers), layers)
    main = graph.convolution(main, layers)
    other = start
    if layers.begin_with(MARK):
        layers.next(MARK)  # tags the convolutions' output
        layers.next(MARK)  # goes back to the start
        other = graph.pool(start, layers.next(*_POOLS))
    layers.next("add_prev_")
    channels, side = max(main.channels, other.channels), max(main.side, other.side)
    total = graph.add("Add", graph.filled(main, channels, side), graph.filled(other, channels, side))
    return graph.relu(_Map(total, channels, side), layers)


class _Layers:
    """The layers that are still to be built."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._left = list(layers)

    def begin_with(self, kind: str) -> bool:
        """Whether the next layer is of this kind."""
        return bool(self._left) and self._left[0].kind == kind

    def next(self, *kinds: str) -> Layer:
        """Takes the next layer, which must be of one of these kinds."""
        if not self._left or self._left[0].kind not in kinds:
            raise NotDlib(f"a layer of the kind {' or '.join(kinds)} is expected")
        return self._left.pop(0)

    def expect_end(self) -> None:
        """Refuses further layers."""
        if self._left:
            raise NotDlib("no further layer is expected")


class _Graph:
    """The nodes so far, and their weights; an output is named after its node's number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Arrays = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output, which the argument `output` may choose."""
        name = attributes.pop("output", f"{operator.lower()}_{len(self.nodes)}")
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return str(name)

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Adds a constant."""
        self.weights[name] = values
        return name

    def convolution(self, at: _Map, layers: _Layers) -> _Map:
        """The next convolution and its affine layer as one; each weight is rounded once."""
        layer = layers.next("con_4")
        (filters, biases), (gamma, beta) = layer.weights, layers.next("affine_").weights
        count, channels, side, _ = filters.shape
        if len(gamma) != count:
            raise NotDlib("an affine layer has another number of channels")
        if channels != at.channels:
            raise NotDlib("a convolution takes another number of channels")
        exact = gamma.astype(np.float64)
        folded = (filters * exact[:, None, None, None]).astype(np.float32)
        shifted = (biases * exact + beta).astype(np.float32)
        number = len(self.nodes)
        weights = self.weight(f"filters_{number}", folded), self.weight(f"biases_{number}", shifted)
        name = self.add("Conv", at.name, *weights, **_window(side, layer))
        return _Map(name, count, _size(at.side, side, layer))

    def pool(self, at: _Map, layer: Layer) -> _Map:
        """The maximum or the mean of a window."""
        name = self.add(_POOLS[layer.kind], at.name, **_window(layer.window, layer))
        return _Map(name, at.channels, _size(at.side, layer.window, layer))

    def relu(self, at: _Map, layers: _Layers) -> _Map:
        """Sets negative values to zero."""
        layers.next("relu_")
        return _Map(self.add("Relu", at.name), at.channels, at.side)

    def filled(self, at: _Map, channels: int, side: int) -> str:
        """Fills a map up with zeroes after its last channel, row and column."""
        more = (0, channels - at.channels, side - at.side, side - at.side)
        if not any(more):
            return at.name
        ends = np.array([0, 0, 0, 0, *more], np.int64)
        return self.add("Pad", at.name, self.weight(f"ends_{len(self.nodes)}", ends))


def _window(side: int, layer: Layer) -> dict[str, list[int]]:
    return {"kernel_shape": [side] * 2, "strides": [layer.stride] * 2, "pads": [layer.padding] * 4}


def _size(side: int, window: int, layer: Layer) -> int:
    """How often a window fits, rounded down as dlib and ONNX do."""
    padded = side + 2 * layer.padding
    if window < 1 or layer.stride < 1 or padded < window:
        raise NotDlib("a window does not fit")
    return (padded - window) // layer.stride + 1
