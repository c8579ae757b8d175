"""The best of many scores, block by block: exact, and nearly free beside the products that give the scores."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.segment import DEAD

# Found scores are ranked when so many more than wanted have come together: often enough for the bar to rise.
_PENDING: Final = 4


class Nearest:
    """Keeps the ``width`` best of each of m probes, of scores that are no less than a floor.

    A score that cannot be among them is passed over by one comparison: the bar of each probe is its floor, and once
    ``width`` are known, the least of these.

    Args:
        floors: (m,) float32, the least score that matters to each probe.
        width: how many to keep of each.
    """

    def __init__(self, floors: NDArray[np.float32], width: int) -> None:
        self._bars = floors.astype(np.float32).reshape(-1, 1).copy()
        self._width = width
        self._rows = np.empty(0, np.int64)
        self._ids = np.empty(0, np.int64)
        self._scores = np.empty(0, np.float32)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self._waiting = 0

    def take(self, scores: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Takes (m, b) scores of b templates with their (b,) ids."""
        found = np.flatnonzero(scores >= self._bars)
        if not len(found):
            return
        rows, columns = np.divmod(found, scores.shape[1])
        kept = ids[columns]
        there = kept != DEAD  # a row that was removed, perhaps while we look
        self._pending.append((rows[there], kept[there], scores[rows[there], columns[there]]))
        self._waiting += len(found)
        if self._waiting > _PENDING * self._width * len(self._bars):
            self._rank()

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and scores, (m, w) each, best first; where a probe has fewer than w, ``DEAD`` and minus infinity."""
        self._rank()
        places = self._places()
        wide = int(places.max()) + 1 if len(places) else 0
        ids = np.full((len(self._bars), wide), DEAD, dtype=np.int64)
        scores = np.full((len(self._bars), wide), -np.inf, dtype=np.float32)
        ids[self._rows, places] = self._ids
        scores[self._rows, places] = self._scores
        return ids, scores

    def _rank(self) -> None:
        if not self._pending:
            return
        rows, ids, scores = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        self._rows = np.concatenate([self._rows, rows])
        self._ids = np.concatenate([self._ids, ids])
        self._scores = np.concatenate([self._scores, scores])
        self._pending, self._waiting = [], 0
        order = np.lexsort((-self._scores, self._rows))
        self._rows, self._ids, self._scores = self._rows[order], self._ids[order], self._scores[order]
        places = self._places()
        kept = places < self._width
        self._rows, self._ids, self._scores = self._rows[kept], self._ids[kept], self._scores[kept]
        full = places[kept] == self._width - 1
        self._bars[self._rows[full], 0] = self._scores[full]

    def _places(self) -> NDArray[np.int64]:
        """The place of each within its probe's, from 0; they stand probe by probe."""
        first = np.searchsorted(self._rows, self._rows)
        return np.arange(len(self._rows)) - first
