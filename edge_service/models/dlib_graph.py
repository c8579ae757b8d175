"""dlib's residual network as an ONNX graph, node by node.

The network (`anet_type` in dlib's example of face recognition): a stem, residual blocks, the mean of all pixels, and a
matrix product. Where dlib halves the size it pads nothing, so the two sides of a block's sum may differ by a pixel, and
they differ in channels; the smaller is filled up with zeroes, at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_service.models.dlib_file import (
    AddTagged,
    Affine,
    Convolution,
    DlibNetwork,
    Layer,
    Linear,
    Mark,
    NotDlib,
    Pool,
    Relu,
)
from edge_service.models.manifest import ConvertedFile
from edge_service.models.onnx_parts import Arrays, make_model

if TYPE_CHECKING:
    import onnx

_OPSET = 21
# dlib divides by this after subtracting the mean (`input_rgb_image_sized`); its inverse is exact in float32.
_SCALE = 256

Kind = TypeVar("Kind", bound=Layer)


def build(network: DlibNetwork, contract: ConvertedFile) -> onnx.ModelProto:
    """The network as a model whose input is plain pixels; any number of faces may be given at once.

    Args:
        network: as dlib's file has it.
        contract: the names and shapes that the result must have.

    Raises:
        NotDlib: the layers come in another order, or do not fit to each other.
    """
    from onnx import helper  # noqa: PLC0415  # set-up only: services run without it

    layers = _Layers(network.layers)
    graph = _Graph()
    mean = np.array(network.mean, np.float64).astype(np.float32).reshape(1, 3, 1, 1)
    shifted = graph.add("Sub", contract.input.name, graph.weight("mean", mean))
    scaled = graph.add("Mul", shifted, graph.weight("scale", np.array(1 / _SCALE, np.float32)))
    at = graph.convolution(_Map(scaled, 3, network.side), layers.convolution())
    at = graph.pool(graph.relu(at, layers.next(Relu)), layers.next(Pool))
    while layers.begins(Mark):
        at = _block(graph, at, layers)
    if layers.next(Pool).window != 0:
        raise NotDlib("the mean of all pixels is expected")
    weights = layers.next(Linear).weights
    layers.expect_end()
    if len(weights) != at.channels:
        raise NotDlib("the last layer takes another number of channels")
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", at.name), axis=1)
    graph.add("MatMul", flat, graph.weight("projection", weights), output=contract.outputs[0].name)
    return make_model(contract, graph.nodes, graph.weights, [helper.make_opsetid("", _OPSET)])


@dataclass(frozen=True, slots=True)
class _Map:
    """An output within the graph: its name, its channels, and its height and width in pixels."""

    name: str
    channels: int
    side: int


def _block(graph: _Graph, start: _Map, layers: _Layers) -> _Map:
    """Two convolutions, added to what went into them; halved first where the convolutions halve."""
    layers.next(Mark)
    main = graph.relu(graph.convolution(start, layers.convolution()), layers.next(Relu))
    main = graph.convolution(main, layers.convolution())
    other = start
    if layers.begins(Mark):
        layers.next(Mark)  # tags the convolutions' output
        layers.next(Mark)  # goes back to the start
        other = graph.pool(start, layers.next(Pool))
    layers.next(AddTagged)
    channels, side = max(main.channels, other.channels), max(main.side, other.side)
    total = graph.add("Add", graph.filled(main, channels, side), graph.filled(other, channels, side))
    return graph.relu(_Map(total, channels, side), layers.next(Relu))


class _Layers:
    """The layers that are still to be built."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._left = list(layers)

    def begins(self, kind: type[Layer]) -> bool:
        """Whether the next layer is of this kind."""
        return bool(self._left) and isinstance(self._left[0], kind)

    def next(self, kind: type[Kind]) -> Kind:
        """The next layer, which must be of this kind."""
        found = self._left.pop(0) if self._left else None
        if not isinstance(found, kind):
            raise NotDlib(f"a layer of the kind {kind.__name__} is expected")
        return found

    def convolution(self) -> Convolution:
        """The next convolution and the affine layer after it as one convolution; each weight is rounded once."""
        found, affine = self.next(Convolution), self.next(Affine)
        if len(affine.gamma) != len(found.filters):
            raise NotDlib("an affine layer has another number of channels")
        gamma = affine.gamma.astype(np.float64)
        filters = (found.filters * gamma[:, None, None, None]).astype(np.float32)
        biases = (found.biases * gamma + affine.beta).astype(np.float32)
        return Convolution(filters, biases, found.stride, found.padding)

    def expect_end(self) -> None:
        """Refuses what comes after the last layer."""
        if self._left:
            raise NotDlib("no further layer is expected")


class _Graph:
    """The nodes so far, and their weights; outputs are named by their number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Arrays = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; gives the name of its output, which may be chosen as `output`."""
        from onnx import helper  # noqa: PLC0415

        name = attributes.pop("output", f"{operator.lower()}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return str(name)

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Adds a constant."""
        self.weights[name] = values
        return name

    def convolution(self, at: _Map, layer: Convolution) -> _Map:
        """A convolution with its bias."""
        count, channels, side, _ = layer.filters.shape
        if channels != at.channels:
            raise NotDlib("a convolution takes another number of channels")
        filters = self.weight(f"filters_{len(self.nodes)}", layer.filters)
        biases = self.weight(f"biases_{len(self.nodes)}", layer.biases)
        name = self.add("Conv", at.name, filters, biases, **_window(side, layer.stride, layer.padding))
        return _Map(name, count, _size(at.side, side, layer.stride, layer.padding))

    def pool(self, at: _Map, layer: Pool) -> _Map:
        """The maximum or the mean of a window."""
        operator = "MaxPool" if layer.maximum else "AveragePool"
        name = self.add(operator, at.name, **_window(layer.window, layer.stride, layer.padding))
        return _Map(name, at.channels, _size(at.side, layer.window, layer.stride, layer.padding))

    def relu(self, at: _Map, _: Relu) -> _Map:
        """Sets what is negative to zero."""
        return _Map(self.add("Relu", at.name), at.channels, at.side)

    def filled(self, at: _Map, channels: int, side: int) -> str:
        """The map with zeroes after its last channel, row and column, up to this size."""
        more = (0, channels - at.channels, side - at.side, side - at.side)
        if not any(more):
            return at.name
        ends = np.array([0, 0, 0, 0, *more], np.int64)
        return self.add("Pad", at.name, self.weight(f"ends_{len(self.nodes)}", ends))


def _window(side: int, stride: int, padding: int) -> dict[str, list[int]]:
    return {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [padding] * 4}


def _size(side: int, window: int, stride: int, padding: int) -> int:
    """How often a window fits, rounded down as dlib and ONNX do."""
    if window < 1 or stride < 1 or side + 2 * padding < window:
        raise NotDlib("a window does not fit")
    return (side + 2 * padding - window) // stride + 1
