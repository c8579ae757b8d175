"""Reads dlib's file format for networks (``dlib::serialize``), for its face embedder.

An integer is a byte and the bytes that follow, little endian. The byte's low four bits count them; its top bit is the
sign. A real is an integer mantissa and an integer power of two. A tensor is four lengths and plain float32. A network
is written twice: from its loss inwards, one version number a layer, then from its input outwards, one description a
layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Kind of a layer that tags the output before it, or goes back to one; the file does not say which of the two.
MARK: Final = "mark"

_LONGEST_INTEGER: Final = 8
_LONGEST_NAME: Final = 64
# The version numbers by which dlib says what follows.
_MARK, _LAYER, _FIRST_LAYER = 1, 2, 3
# Networks have tens of layers. A damaged file must not have this many version numbers read.
_MOST_LAYERS: Final = 1000


class NotDlib(ValueError):
    """The bytes are not a network of the layers known here."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer.

    Attributes:
        kind: dlib's name: ``con_4`` (convolution), ``affine_`` (batch normalization with its statistics folded in),
            ``relu_``, ``max_pool_2``, ``avg_pool_2``, ``add_prev_`` (adds the tagged output, the smaller of the two
            filled up with zeroes), ``fc_2`` (matrix product without bias), or ``MARK``.
        weights: float32. ``con_4``: filters (out, in, h, w) and biases (out,); ``affine_``: gamma and beta (channels,);
            ``fc_2``: (in, out).
        window: height and width of a pool in pixels; 0 is everything.
        stride: of a convolution or pool, in pixels.
        padding: of a convolution or pool, in pixels.
    """

    kind: str
    weights: tuple[Floats, ...] = ()
    window: int = 0
    stride: int = 0
    padding: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DlibNetwork:
    """A network, from its input on.

    Attributes:
        mean: what is subtracted of red, green and blue, before all is divided by 256.
        side: height and width of the input in pixels.
        layers: in the order in which they run.
    """

    mean: tuple[float, float, float]
    side: int
    layers: tuple[Layer, ...]


def read_network(data: bytes) -> DlibNetwork:
    """Reads the network in a file.

    Args:
        data: the whole file.

    Raises:
        NotDlib: it is something else, is cut off or too long, or has a layer that is not known here.
    """
    stream = _Stream(data)
    stream.expect(_MARK, stream.integer())
    stream.expect("loss_metric_2", stream.name())
    stream.real(), stream.real()  # margin and threshold of the training
    versions: list[int] = []
    while not versions or versions[-1] != _FIRST_LAYER:
        versions.append(stream.integer())
        if versions[-1] not in (_MARK, _LAYER, _FIRST_LAYER) or len(versions) > _MOST_LAYERS:
            raise NotDlib("a layer's version is not known")
    stream.expect("input_rgb_image_sized", stream.name())
    mean = (stream.real(), stream.real(), stream.real())
    height, width = stream.integer(), stream.integer()
    stream.expect(height, width)
    layers = [_layer(stream, version) for version in reversed(versions)]
    stream.expect(len(data), stream.at)
    return DlibNetwork(mean, height, tuple(layers))


class _Stream:
    """Reads the file from its start; ``at`` is how far it is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Reads the next bytes."""
        if count < 0 or self.at + count > len(self._data):
            raise NotDlib("the file is cut off")
        self.at += count
        return self._data[self.at - count : self.at]

    def integer(self) -> int:
        """Reads an integer."""
        control = self.take(1)[0]
        length = control & 0x0F
        if not 0 < length <= _LONGEST_INTEGER or control & 0x70:
            raise NotDlib("an integer is expected")
        value = int.from_bytes(self.take(length), "little")
        return -value if control & 0x80 else value

    def real(self) -> float:
        """Reads a finite number."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 1100:  # dlib writes infinities and NaN this way
            raise NotDlib("a finite number is expected")
        return math.ldexp(mantissa, exponent)

    def name(self) -> str:
        """Reads a layer's name."""
        length = self.integer()
        if not 0 < length <= _LONGEST_NAME:
            raise NotDlib("a layer's name is expected")
        return self.take(length).decode("latin-1")

    def expect(self, expected: object, found: object) -> None:
        """Refuses a file that holds something else."""
        if found != expected:
            raise NotDlib(f"{expected} is expected")

    def expect_flag(self) -> None:
        """Skips a truth value."""
        if self.take(1) not in (b"0", b"1"):
            raise NotDlib("a truth value is expected")

    def tensor(self) -> Floats:
        """Reads a tensor, flat: (n,) float32."""
        self.expect(2, self.integer())
        count = math.prod(self.lengths())
        return np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)

    def lengths(self) -> tuple[int, int, int, int]:
        """Reads samples, channels, rows and columns."""
        found = (self.integer(), self.integer(), self.integer(), self.integer())
        if min(found) < 0:
            raise NotDlib("a length is expected")
        return found

    def part(self) -> tuple[int, int, int, int]:
        """Reads the shape of a part of a tensor."""
        self.expect(1, self.integer())
        return self.lengths()


def _layer(stream: _Stream, version: int) -> Layer:
    if version == _MARK:
        return Layer(MARK)
    name = stream.name()
    match name:
        case "con_4":
            layer = _convolution(stream)
        case "affine_":
            layer = _affine(stream)
        case "fc_2":
            layer = _linear(stream)
        case "max_pool_2" | "avg_pool_2":
            layer = Layer(name, (), _square(stream), _square(stream), _square(stream))
        case "relu_" | "add_prev_":
            layer = Layer(name)
        case _:
            raise NotDlib(f"the layer {name!a} is not known")
    for _ in range(3):  # whether it was set up, and two switches of the training
        stream.expect_flag()
    for _ in range(3):  # gradients of the training and the last output, empty in a published file
        stream.tensor()
    if version == _FIRST_LAYER:
        stream.integer()  # pictures made of one by the input
    return layer


def _convolution(stream: _Stream) -> Layer:
    values = stream.tensor()
    filters, *window = (stream.integer() for _ in range(3))
    stride, padding = _square(stream), _square(stream)
    shape, bias_shape = stream.part(), stream.part()
    for _ in range(4):  # learning rates
        stream.real()
    stream.expect((filters, *window), (shape[0], *shape[2:]))
    stream.expect(len(values), math.prod(shape) + math.prod(bias_shape))
    stream.expect(filters, math.prod(bias_shape))
    return Layer("con_4", (values[:-filters].reshape(shape), values[-filters:]), 0, stride, padding)


def _affine(stream: _Stream) -> Layer:
    values = stream.tensor()
    channels = math.prod(stream.part())
    stream.expect(channels, math.prod(stream.part()))
    stream.expect(0, stream.integer())  # a value a channel, not a value a pixel
    stream.expect(2 * channels, len(values))
    return Layer("affine_", (values[:channels], values[channels:]))


def _linear(stream: _Stream) -> Layer:
    outputs, inputs = stream.integer(), stream.integer()
    values = stream.tensor()
    stream.expect((inputs, outputs, 1, 1), stream.part())
    stream.part()
    stream.expect(1, stream.integer())  # no bias
    for _ in range(4):  # learning rates
        stream.real()
    stream.expect(inputs * outputs, len(values))
    return Layer("fc_2", (values.reshape(inputs, outputs),))


def _square(stream: _Stream) -> int:
    """A length that is the same down and across."""
    down, across = stream.integer(), stream.integer()
    if down < 0:
        raise NotDlib("a length is expected")
    stream.expect(down, across)
    return down
