"""Reads dlib's own file format for networks (``dlib::serialize``), as far as its face embedder needs it.

Integers are a byte, whose low four bits are the number of bytes that follow (little endian) and whose top bit is the
sign; reals are an integer mantissa and an integer power of two; tensors are four lengths and plain float32. A network
is written from its loss inwards, one version number a layer, and then from its input outwards, one description a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LONGEST_INTEGER: Final = 8
_LONGEST_NAME: Final = 64
# The version numbers by which dlib marks what follows.
_MARK, _LAYER, _FIRST_LAYER = 1, 2, 3
# Layers come in tens; a damaged file must not have this many version numbers read.
_MOST_LAYERS: Final = 1000


class NotDlib(ValueError):
    """The bytes are not a network of the layers known here."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A tag on the output of the layer before, or a way back to one; which of the two is not in the file."""


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """A convolution: filters (out, in, h, w), biases (out,), both float32; stride and padding in pixels."""

    filters: Floats
    biases: Floats
    stride: int
    padding: int


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """A batch normalisation with its statistics folded in: gamma and beta (channels,) float32."""

    gamma: Floats
    beta: Floats


@dataclass(frozen=True, slots=True)
class Relu:
    """Sets what is negative to zero."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The maximum or the mean of a window, in pixels; a window of 0 is everything."""

    maximum: bool
    window: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class AddTagged:
    """Adds the tagged output; where one of the two is smaller, in channels or pixels, it is filled up with zeroes."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A matrix product without bias: weights (in, out) float32."""

    weights: Floats


Layer = Mark | Convolution | Affine | Relu | Pool | AddTagged | Linear


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
    """The network in a file.

    Args:
        data: the whole file.

    Raises:
        NotDlib: it is something else, is cut off, or has a layer that is not known here.
    """
    stream = _Stream(data)
    stream.expect(_MARK, stream.integer())
    stream.expect_name("loss_metric_2")
    stream.real(), stream.real()  # margin and threshold of the training
    versions: list[int] = []
    while not versions or versions[-1] != _FIRST_LAYER:
        versions.append(stream.integer())
        if versions[-1] not in (_MARK, _LAYER, _FIRST_LAYER) or len(versions) > _MOST_LAYERS:
            raise NotDlib("a layer's version is not known")
    stream.expect_name("input_rgb_image_sized")
    mean = (stream.real(), stream.real(), stream.real())
    height, width = stream.integer(), stream.integer()
    stream.expect(height, width)
    layers = [_layer(stream, version) for version in reversed(versions)]
    stream.expect_end()
    return DlibNetwork(mean, height, tuple(layers))


class _Stream:
    """The file, read from its start."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count < 0 or self._at + count > len(self._data):
            raise NotDlib("the file is cut off")
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self) -> int:
        """An integer."""
        control = self.take(1)[0]
        length = control & 0x0F
        if not 0 < length <= _LONGEST_INTEGER or control & 0x70:
            raise NotDlib("an integer is expected")
        value = int.from_bytes(self.take(length), "little")
        return -value if control & 0x80 else value

    def real(self) -> float:
        """A finite number."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 1100:  # how dlib writes infinities and what is not a number
            raise NotDlib("a finite number is expected")
        return math.ldexp(mantissa, exponent)

    def name(self) -> str:
        """A layer's name."""
        length = self.integer()
        if not 0 < length <= _LONGEST_NAME:
            raise NotDlib("a layer's name is expected")
        return self.take(length).decode("latin-1")

    def expect_name(self, name: str) -> None:
        """Reads a name that must be this one."""
        self.expect(name, self.name())

    def expect(self, expected: object, found: object) -> None:
        """Refuses a file that holds something else."""
        if found != expected:
            raise NotDlib(f"{expected} is expected")

    def flag(self) -> None:
        """Skips a truth value."""
        if self.take(1) not in (b"0", b"1"):
            raise NotDlib("a truth value is expected")

    def tensor(self) -> Floats:
        """A tensor, flat: (n,) float32."""
        self.expect(2, self.integer())
        count = math.prod(self.lengths())
        return np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)

    def lengths(self) -> tuple[int, int, int, int]:
        """Samples, channels, rows and columns."""
        found = (self.integer(), self.integer(), self.integer(), self.integer())
        if min(found) < 0:
            raise NotDlib("a length is expected")
        return found

    def part(self) -> tuple[int, int, int, int]:
        """The shape of a part of a tensor."""
        self.expect(1, self.integer())
        return self.lengths()

    def expect_end(self) -> None:
        """Refuses a file that goes on."""
        self.expect(len(self._data), self._at)


def _layer(stream: _Stream, version: int) -> Layer:
    if version == _MARK:
        return Mark()
    layer = _described(stream)
    for _ in range(3):  # whether it was set up, and two of training's switches
        stream.flag()
    for _ in range(3):  # training's gradients and the last output, empty in a published file
        stream.tensor()
    if version == _FIRST_LAYER:
        stream.integer()  # pictures made of one by the input
    return layer


def _described(stream: _Stream) -> Layer:
    name = stream.name()
    if name not in _DESCRIPTIONS:
        raise NotDlib(f"the layer {name!a} is not known")
    return _DESCRIPTIONS[name](stream)


def _convolution(stream: _Stream) -> Convolution:
    values = stream.tensor()
    filters, *window = (stream.integer() for _ in range(3))
    stride, padding = _square(stream), _square(stream)
    shape, bias_shape = stream.part(), stream.part()
    for _ in range(4):  # training's rates
        stream.real()
    stream.expect((filters, *window), (shape[0], *shape[2:]))
    stream.expect(len(values), math.prod(shape) + math.prod(bias_shape))
    stream.expect(filters, math.prod(bias_shape))
    return Convolution(values[:-filters].reshape(shape), values[-filters:], stride, padding)


def _affine(stream: _Stream) -> Affine:
    values = stream.tensor()
    channels = math.prod(stream.part())
    stream.expect(channels, math.prod(stream.part()))
    stream.expect(0, stream.integer())  # a value a channel, not a value a pixel
    stream.expect(2 * channels, len(values))
    return Affine(values[:channels], values[channels:])


def _pool(stream: _Stream, *, maximum: bool) -> Pool:
    return Pool(maximum, _square(stream), _square(stream), _square(stream))


def _linear(stream: _Stream) -> Linear:
    outputs, inputs = stream.integer(), stream.integer()
    values = stream.tensor()
    stream.expect((inputs, outputs, 1, 1), stream.part())
    stream.part()
    stream.expect(1, stream.integer())  # no bias
    for _ in range(4):  # training's rates
        stream.real()
    stream.expect(inputs * outputs, len(values))
    return Linear(values.reshape(inputs, outputs))


def _square(stream: _Stream) -> int:
    """A length that is the same down and across."""
    down, across = stream.integer(), stream.integer()
    if down < 0:
        raise NotDlib("a length is expected")
    stream.expect(down, across)
    return down


_DESCRIPTIONS: Final[dict[str, Callable[[_Stream], Layer]]] = {
    "con_4": _convolution,
    "affine_": _affine,
    "relu_": lambda _: Relu(),
    "max_pool_2": lambda stream: _pool(stream, maximum=True),
    "avg_pool_2": lambda stream: _pool(stream, maximum=False),
    "add_prev_": lambda _: AddTagged(),
    "fc_2": _linear,
}
