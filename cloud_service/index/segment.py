"""A piece of an index: templates at one byte a value, in FAISS's storage.

A template's value x within [-reach, reach] is kept as the nearest of 256 steps: code = round(x / step) + 127, with
step = reach / 127.5; the code 127 is zero. What that loses is measured for every row when it is added: the inner
product with a unit probe is off by no more than the length of the difference (Cauchy-Schwarz), so that what a scan of
the codes may have missed is known.
"""

from __future__ import annotations

from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

# In the place of a removed template's id.
DEAD: Final = -1

# The code of the value 0.
ZERO: Final = 127

# FAISS's kernels take so many values at a time, and are several times slower with what is left over.
_LANES: Final = 16
_STEPS: Final = 127.5

Codes = NDArray[np.uint8]


def in_this_thread_only() -> None:
    """Has FAISS work in the calling thread only; the setting is each thread's own.

    A search is shared by threads that sleep when there is none. FAISS's own spin.
    """
    faiss.omp_set_num_threads(1)


def narrow_reach(dim: int) -> float:
    """Six standard deviations of a random unit vector's values: few have a larger one."""
    return min(1.0, 6.0 / float(np.sqrt(dim)))


def width_of(dim: int) -> int:
    """The length of a row of codes: the template's, rounded up to the kernels' step."""
    return -(-dim // _LANES) * _LANES


class Segment:
    """Room for ``capacity`` templates of ``dim`` values in a ``faiss.IndexScalarQuantizer``.

    One thread writes. Others may read meanwhile, without a lock: rows before ``used`` change in one way only, which is
    that a removed one becomes zeros with the id ``DEAD``.

    Args:
        dim: d, the length of a template.
        capacity: rows.
        reach: the largest value that a code can express, at most 1.
    """

    def __init__(self, dim: int, capacity: int, reach: float) -> None:
        wide = width_of(dim)
        store = faiss.IndexScalarQuantizer(wide, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(np.array([-reach, 2 * reach], np.float32), store.sq.trained)
        store.is_trained = True
        store.codes.resize(capacity * wide)
        store.ntotal = capacity
        self._store: Any = store
        # FAISS's own memory, which does not move any more; `_store` must outlive the view, and does with this object.
        flat: Codes = faiss.rev_swig_ptr(store.codes.data(), capacity * wide)
        self.codes = flat.reshape(capacity, wide)
        self.codes[:] = ZERO
        self.ids = np.full(capacity, DEAD, dtype=np.int64)
        self.dim = dim
        self.reach = reach
        self.used = 0
        self.removed = 0
        # The longest difference between a template that was added and its row of codes.
        self.lost = 0.0

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return len(self.ids)

    @property
    def room(self) -> int:
        """Rows that are still free."""
        return self.capacity - self.used

    @property
    def held(self) -> int:
        """Templates that are there."""
        return self.used - self.removed

    @property
    def scale(self) -> float:
        """Steps in 1: an inner product of codes is so many times that of the values."""
        return _STEPS / self.reach

    @property
    def error(self) -> float:
        """The largest difference between a scan's score and the exact inner product."""
        # A float32 sum of n products is off by at most n * 2**-24 * sum|x_i y_i| (Higham, Accuracy and Stability of
        # Numerical Algorithms, section 3.1), here of codes up to 255 with a unit probe, whose |y_i| come to sqrt(n).
        wide = self.codes.shape[1]
        rounding = wide * float(np.finfo(np.float32).eps) * 255 * float(np.sqrt(wide)) / self.scale
        return self.lost + rounding

    def append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 unit rows under (n,) ids; n at most ``room``."""
        steps = np.rint(vectors * np.float32(self.scale)) + ZERO
        codes = np.full((len(ids), self.codes.shape[1]), ZERO, np.uint8)
        codes[:, : self.dim] = np.clip(steps, 0, 255)
        kept = (codes[:, : self.dim].astype(np.float32) - ZERO) / np.float32(self.scale)
        self.append_codes(ids, codes, float(np.linalg.norm(vectors - kept, axis=1).max(initial=0.0)))

    def append_codes(self, ids: NDArray[np.int64], codes: Codes, lost: float) -> None:
        """Adds rows that another segment of the same reach held, with what that had lost at most."""
        end = self.used + len(ids)
        self.lost = max(self.lost, lost)
        self.codes[self.used : end] = codes
        self.ids[self.used : end] = ids
        self.used = end

    def remove(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Overwrites the rows of these ids with zeros; which rows they were, (n,) int64."""
        rows = np.flatnonzero(np.isin(self.ids[: self.used], ids))
        self.ids[rows] = DEAD
        self.codes[rows] = ZERO
        self.removed += len(rows)
        return rows

    def alive(self) -> tuple[NDArray[np.int64], Codes]:
        """Copies of the ids and codes that are there, oldest first: (n,) and (n, wide)."""
        rows = np.flatnonzero(self.ids[: self.used] != DEAD)
        whole = slice(len(rows)) if len(rows) == self.used else rows  # a slice is copied many times as fast
        return self.ids[whole].copy(), self.codes[whole].copy()

    def scan(self, probes: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(m, width) scores, best first, and rows for (m, wide) float32 probes.

        FAISS's own scan: the quickest there is for one probe, and for some.
        """
        in_this_thread_only()
        scores, rows = self._store.search(probes, min(width, self.capacity))
        return scores, rows
