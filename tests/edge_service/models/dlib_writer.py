"""A tiny network in dlib's own format, written as dlib writes it, and what it computes, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray
SIDE = 31
CHANNELS = 4
MEAN = (120.5, 110.25, 100.0)


def integer(value: int) -> bytes:
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def real(value: float) -> bytes:
    mantissa, exponent = math.frexp(value)
    return integer(int(mantissa * 2**24)) + integer(exponent - 24)


def name(text: str) -> bytes:
    return integer(len(text)) + text.encode()


def tensor(values: Array) -> bytes:
    return integer(2) + b"".join(map(integer, [values.size, 1, 1, 1])) + values.astype("<f4").tobytes()


def part(*shape: int) -> bytes:
    return integer(1) + b"".join(map(integer, shape))


RATES = real(1) * 4
EMPTY = integer(2) + integer(0) * 4
LEFT_BY_TRAINING = b"110" + 3 * EMPTY


@dataclass
class Written:
    """The file, as the version numbers of its layers from the loss inwards and their descriptions from the input on."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    descriptions: list[bytes] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def layer(self, description: bytes) -> None:
        first = not self.versions
        self.versions.append(3 if first else 2)
        self.descriptions.append(description + LEFT_BY_TRAINING + (integer(1) if first else b""))

    def mark(self) -> None:
        self.versions.append(1)

    def convolution(self, values: Array, count: int, side: int, stride: int, padding: int) -> Array:
        filters = self.random.normal(0, 0.3, (count, values.shape[0], side, side)).astype(np.float32)
        biases = self.random.normal(0, 0.3, count).astype(np.float32)
        numbers = map(integer, [count, side, side, stride, stride, padding, padding])
        shapes = part(*filters.shape) + part(1, count, 1, 1)
        whole = tensor(np.concatenate([filters.ravel(), biases]))
        self.layer(name("con_4") + whole + b"".join(numbers) + shapes + RATES)
        padded = np.pad(values, ((0, 0), (padding, padding), (padding, padding)))
        seen = windows(padded, side, stride)
        made = np.einsum("chwij,ocij->ohw", seen, filters) + biases[:, None, None]
        gamma, beta = self.random.normal(1, 0.3, (2, count)).astype(np.float32)
        both = tensor(np.concatenate([gamma, beta]))
        self.layer(name("affine_") + both + part(1, count, 1, 1) * 2 + integer(0))
        return made * gamma[:, None, None] + beta[:, None, None]

    def relu(self, values: Array) -> Array:
        self.layer(name("relu_"))
        return np.maximum(values, 0)

    def pool(self, values: Array, kind: str, window: int, stride: int) -> Array:
        self.layer(name(f"{kind}_pool_2") + b"".join(map(integer, [window, window, stride, stride, 0, 0])))
        if window == 0:
            return values.mean((1, 2))
        seen = windows(values, window, stride)
        return seen.max((3, 4)) if kind == "max" else seen.mean((3, 4))

    def block(self, values: Array, count: int, stride: int) -> Array:
        self.mark()
        made = self.relu(self.convolution(values, count, 3, stride, 1 if stride == 1 else 0))
        made = self.convolution(made, count, 3, 1, 1)
        if stride > 1:
            self.mark()
            self.mark()
            values = self.pool(values, "avg", 2, 2)
        self.layer(name("add_prev_"))
        shape = np.maximum(made.shape, values.shape)
        return self.relu(filled(made, shape) + filled(values, shape))

    def linear(self, values: Array, count: int) -> Array:
        weights = self.random.normal(0, 0.3, (len(values), count)).astype(np.float32)
        shapes = part(len(values), count, 1, 1) + part(0, 0, 0, 0)
        sizes = integer(count) + integer(len(values))
        self.layer(name("fc_2") + sizes + tensor(weights) + shapes + integer(1) + RATES)
        return values @ weights

    def file(self) -> bytes:
        loss = integer(1) + name("loss_metric_2") + real(0.04) + real(0.6)
        pixels = name("input_rgb_image_sized") + b"".join(map(real, MEAN)) + integer(SIDE) * 2
        versions = b"".join(map(integer, reversed(self.versions)))
        return loss + versions + pixels + b"".join(self.descriptions)


def windows(values: Array, side: int, stride: int) -> Array:
    return np.lib.stride_tricks.sliding_window_view(values, (side, side), axis=(1, 2))[:, ::stride, ::stride]


def filled(values: Array, shape: Array) -> Array:
    return np.pad(values, [(0, int(wanted - found)) for wanted, found in zip(shape, values.shape, strict=True)])


def tiny_network(picture: Array) -> tuple[bytes, Array]:
    """The file, and the embedding of a picture: (SIDE, SIDE, 3) uint8 to (5,) float.

    In its second block six pixels become two by the convolutions and three by the mean, as happens in dlib's own.
    """
    written = Written()
    values = (picture.transpose(2, 0, 1) - np.array(MEAN)[:, None, None]) / 256
    values = written.relu(written.convolution(values, CHANNELS, 7, 2, 0))
    values = written.pool(values, "max", 3, 2)
    values = written.block(values, CHANNELS, 1)
    values = written.block(values, CHANNELS + 2, 2)
    values = written.block(values, CHANNELS + 2, 2)
    embedding = written.linear(written.pool(values, "avg", 0, 1), 5)
    return written.file(), embedding
