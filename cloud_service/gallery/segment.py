"""A piece of an index: FAISS's flat storage of a fixed size, filled from the front and read in place."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

DEAD = -1
"""In the place of a removed template's id."""


class Segment:
    """Room for ``capacity`` templates of ``dim`` float32 values in a ``faiss.IndexFlatIP``.

    One thread writes. Others may read meanwhile, without a lock: rows before ``used`` change in one way only, which is
    that a removed one becomes zeros with the id ``DEAD``.

    Args:
        dim: d, the length of a template.
        capacity: rows.
    """

    def __init__(self, dim: int, capacity: int) -> None:
        self._store: Any = faiss.IndexFlatIP(dim)
        self._store.codes.resize(capacity * dim * 4)  # zeros
        self._store.ntotal = capacity
        # FAISS's own memory, which does not move any more; `_store` must outlive the view, and does with this object.
        flat: NDArray[np.float32] = faiss.rev_swig_ptr(self._store.get_xb(), capacity * dim)
        self.vectors = flat.reshape(capacity, dim)
        self.ids = np.full(capacity, DEAD, dtype=np.int64)
        self.used = 0
        self.removed = 0

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

    def append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 rows under (n,) ids; n at most ``room``. They can be read once ``used`` says so."""
        end = self.used + len(ids)
        self.vectors[self.used : end] = vectors
        self.ids[self.used : end] = ids
        self.used = end

    def remove(self, ids: NDArray[np.int64]) -> int:
        """Overwrites the rows of these ids with zeros; how many there were."""
        rows = np.flatnonzero(np.isin(self.ids[: self.used], ids))
        self.ids[rows] = DEAD
        self.vectors[rows] = 0
        self.removed += len(rows)
        return len(rows)

    def alive(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ids and rows that are there, in the order in which they came: copies, (n,) and (n, d)."""
        rows = np.flatnonzero(self.ids[: self.used] != DEAD)
        return self.ids[rows], self.vectors[rows]
