"""Seals embeddings by a secret rotation of the whole embedding space.

A template is T = R x with R orthogonal, so every cosine within a gallery stays the same. Without R a template is
a point on a randomly rotated sphere. R is Haar-distributed (uniform over all orthogonal matrices), derived from the
epoch's key, and never stored. Known weakness: about d known pairs (x, T) under one key recover R by Procrustes.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from edge_service.protection.gaussians import gaussians
from edge_service.protection.keys import EpochKey

_CACHED_MATRICES: Final = 256  # of 64 KiB each at 128 dimensions
_alone: Final = threading.Lock()


@cache
def _libraries() -> ThreadpoolController | None:
    """NumPy's own libraries; found once, which takes a millisecond. None where that fails, as without /proc."""
    try:
        return ThreadpoolController()
    except OSError:
        return None


def _one_thread() -> AbstractContextManager[object]:
    found = _libraries()
    return nullcontext() if found is None else found.limit(limits=1, user_api="blas")


def haar_orthogonal(stream_key: bytes, dim: int) -> NDArray[np.float64]:
    """An orthogonal matrix, Haar-distributed over keys.

    QR of a Gaussian matrix with the signs of R's diagonal moved into Q (Mezzadri, Notices of the AMS 54, 2007): without
    that step the distribution depends on the QR routine and is not Haar.

    Args:
        stream_key: 32 bytes; the same key gives the same matrix.
        dim: rows and columns.

    Returns:
        (dim, dim) float64 with R R^T = 1 to rounding.
    """
    drawn = gaussians(stream_key, dim * dim).reshape(dim, dim)
    # Threads of OpenBLAS wait for each other at each column. Where others keep two cores busy, two take 17 s for
    # 2,048 values and one takes 2 s; on idle cores both take 1 s.
    # One caller at a time: each restores the number of threads that it found.
    with _alone, _one_thread():
        q, r = np.linalg.qr(drawn)
    return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0))


@lru_cache(maxsize=_CACHED_MATRICES)
def seal_matrix(key: EpochKey, dim: int) -> NDArray[np.float32]:
    """The seal of one epoch of one gallery: (dim, dim) float32, read-only."""
    matrix = _seal(key, dim).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def rotation(old: EpochKey, new: EpochKey, dim: int) -> NDArray[np.float64]:
    """The rotation from one key's templates to another's: R_new R_old^T.

    Without either key it is as random as each of the two. With one of the keys it reveals the other seal.

    Args:
        old: the key of the templates.
        new: the key that replaces it.
        dim: of templates.

    Returns:
        (dim, dim) float64, orthogonal to rounding.
    """
    return _seal(new, dim) @ _seal(old, dim).T


def _seal(key: EpochKey, dim: int) -> NDArray[np.float64]:
    return haar_orthogonal(key.stream_key(f"seal {dim}"), dim)


def seal(rows: NDArray[np.float32], key: EpochKey) -> NDArray[np.float32]:
    """Rotates embeddings by the secret rotation of this epoch.

    One matrix product in numpy: 5 microseconds for one face at 128 dimensions.

    Args:
        rows: (n, d) float32, unit rows.
        key: of the gallery and epoch.

    Returns:
        (n, d) float32, unit rows.
    """
    return rows @ seal_matrix(key, rows.shape[1]).T
