"""A sketch of a segment at half a byte for two values: quick to scan, only to propose."""

from __future__ import annotations

from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from cloud_service.index.segment import ZERO, Segment, in_this_thread_only

# Two values become one of sixteen points: the most that a kernel with its table in registers takes.
_VALUES: Final = 2
_BITS: Final = 4
# Rows that the points are fitted to, and rounds of that. More changed no recall.
_FITTED: Final = 8_192
_ROUNDS: Final = 8


class Sketch:
    """A full segment in FAISS's ``IndexPQFastScan``: 16 points for each pair of values.

    Scores are off by some hundredths, where those of the segment's codes are off by some thousandths.

    Args:
        segment: what is sketched; rows that are added to it later are not.
    """

    def __init__(self, segment: Segment) -> None:
        wide = segment.codes.shape[1]
        store: Any = faiss.IndexPQFastScan(wide, wide // _VALUES, _BITS, faiss.METRIC_INNER_PRODUCT)
        store.pq.cp.niter = _ROUNDS
        store.pq.cp.min_points_per_centroid = 1  # it warns, on standard output
        values = (segment.codes[: segment.used].astype(np.float32) - ZERO) / np.float32(segment.scale)
        alive = values[segment.ids[: segment.used] >= 0]
        in_this_thread_only()
        store.train(alive[:: max(1, len(alive) // _FITTED)])
        store.add(values)
        self._store = store
        self._packer = store.get_CodePacker()
        flat: NDArray[np.uint8] = faiss.rev_swig_ptr(store.codes.get(), store.codes.size())
        self.blocks = flat.reshape(-1, self._packer.block_size)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.blocks.nbytes

    def propose(self, probes: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(m, width) scores, best first, and rows for (m, wide) float32 probes."""
        in_this_thread_only()
        scores, rows = self._store.search(probes, min(width, self._store.ntotal))
        return scores, rows

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Overwrites what is kept of some rows."""
        nothing = np.zeros(self._packer.code_size, np.uint8)
        for block, place in zip(*np.divmod(rows, self._packer.nvec), strict=True):
            self._packer.pack_1(nothing, int(place), self.blocks[block : block + 1])
