"""Standard normal numbers derived from a secret key, for seals and seeds."""

from __future__ import annotations

import hmac
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

_PAIR_BYTES: Final = 16
_BLOCK_BYTES: Final = 64  # of SHA-512


def gaussians(stream_key: bytes, count: int) -> NDArray[np.float64]:
    """Independent standard normal numbers from a ChaCha20 stream.

    Args:
        stream_key: 32 bytes; the same key gives the same numbers.
        count: how many.

    Returns:
        (count,) float64.
    """
    pairs = -(-count // 2)
    stream = Cipher(ChaCha20(stream_key, bytes(16)), mode=None).encryptor().update(bytes(_PAIR_BYTES * pairs))
    return _box_muller(stream, 1)[0, :count]


def seeds(rows: NDArray[np.float32], stream_key: bytes, length: int) -> NDArray[np.float32]:
    """A seed for each embedding: repeatable with the key, secret without it.

    Each row's bytes (little-endian float32) go through HMAC-SHA512 in counter mode (NIST SP 800-108) under the key.

    Args:
        rows: (n, d) float32.
        stream_key: 32 secret bytes.
        length: of a seed.

    Returns:
        (n, length) float32, standard normal.
    """
    needed = _PAIR_BYTES * -(-length // 2)
    counters = [number.to_bytes(4, "big") for number in range(-(-needed // _BLOCK_BYTES))]
    streams = []
    for row in np.ascontiguousarray(rows, dtype="<f4"):
        content = row.tobytes()
        blocks = (hmac.digest(stream_key, counter + content, "sha512") for counter in counters)
        streams.append(b"".join(blocks)[:needed])
    return _box_muller(b"".join(streams), len(rows))[:, :length].astype(np.float32)


def _box_muller(stream: bytes, rows: int) -> NDArray[np.float64]:
    """Random bytes as standard normal numbers: (rows, as many as the bytes give) float64."""
    # 53 random bits each, in (0, 1]: the logarithm below never sees a zero.
    whole = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
    uniform = ((whole.astype(np.float64) + 1) * 2.0**-53).reshape(rows, -1)
    pairs = uniform.shape[1] // 2
    radius = np.sqrt(-2 * np.log(uniform[:, :pairs]))
    angle = 2 * np.pi * uniform[:, pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
