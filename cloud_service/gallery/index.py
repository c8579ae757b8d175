"""The vector index: proposes the templates nearest to a probe. Derived from the record, and rebuilt from it at will."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from cloud_service.gallery.rw_lock import ReadersWriterLock


@dataclass(frozen=True, slots=True)
class Hits:
    """What an index proposes, one row a probe, best first.

    ``ids`` is (m, w) int64, the record's template ids; ``scores`` is (m, w) float32, their inner products with the
    probe. ``w`` is smaller than asked for when the index holds no more.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class VectorIndex(Protocol):
    """The templates of one gallery, searchable. Safe to use from several threads."""

    @property
    def score_error(self) -> float:
        """The most that a score of ``search`` differs from the exact inner product of two unit vectors."""

    def __len__(self) -> int: ...

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 unit rows under n new ids; they can be found when this returns."""

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Removes n ids; those it does not hold are passed over."""

    def search(self, probes: NDArray[np.float32], width: int) -> Hits:
        """The ``width`` best templates for each row of (m, d) float32 unit probes."""


class FaissIndex:
    """All vectors in memory, compared one by one: exact, and fast enough to about a million.

    FAISS may search from several threads, but not while it adds or removes; hence the lock.

    Args:
        dim: d, the length of a template.
        search_threads: threads of one search.
    """

    def __init__(self, dim: int, search_threads: int = 1) -> None:
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
        self._lock = ReadersWriterLock()
        self._search_threads = search_threads
        # A float32 sum of d products is off by at most d * 2**-24 * sum|x_i y_i|, and that sum is at most 1
        # (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1; Cauchy-Schwarz). Twice that, to be safe.
        self._score_error = dim * float(np.finfo(np.float32).eps)

    @property
    def score_error(self) -> float:
        """The most that a score of ``search`` differs from the exact inner product of two unit vectors."""
        return self._score_error

    def __len__(self) -> int:
        with self._lock.reading():
            return int(self._index.ntotal)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 unit rows under n new ids; they can be found when this returns."""
        with self._lock.writing():
            self._index.add_with_ids(vectors, ids)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Removes n ids; those it does not hold are passed over."""
        with self._lock.writing():
            self._index.remove_ids(ids)

    def search(self, probes: NDArray[np.float32], width: int) -> Hits:
        """The ``width`` best templates for each row of (m, d) float32 unit probes."""
        _limit_threads(self._search_threads)
        with self._lock.reading():
            asked = min(width, int(self._index.ntotal))
            if asked == 0:
                rows = len(probes)
                return Hits(np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32))
            scores, ids = self._index.search(probes, asked)
        return Hits(ids, scores)


_of_this_thread = threading.local()


def _limit_threads(threads: int) -> None:
    """Sets OpenMP's number of threads; it is kept per calling thread, so that each worker has to say it once."""
    if getattr(_of_this_thread, "threads", None) != threads:
        faiss.omp_set_num_threads(threads)
        _of_this_thread.threads = threads
