"""One gallery's entries in Milvus, as an index that the matcher searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.entries.queries import Lacking
from cloud_service.index.flat import Hits
from cloud_service.index.milvus.client import MOST_HITS, CollectionLost, Milvus

# Hits that one answer carries: 12 bytes each, of the 64 MB that a message may have.
_HITS_A_CALL: Final = 1 << 20
_ALL_IDS: Final = (-1, 2**63 - 1)
_NONE: Final = -1


@dataclass(frozen=True, slots=True)
class MilvusIndex:
    """A collection, with exact search (FLAT) or an approximate one (HNSW).

    With FLAT, ``unseen_at_most`` is the last score shown and what its arithmetic may be off by, so that the matcher's
    widening is exact. With HNSW it is the same figure, and holds but for entries that the graph did not lead to: a
    search may miss one, with a probability of one minus its recall, and never shows a wrong one.

    Attributes:
        milvus: the connection.
        name: of the collection.
        dim: d, the length of a vector.
        approximate: whether it is HNSW.
        lost: called when the collection is not there any more.
        lacks: reads which entries it does not have yet.
        most: the most that is asked for in one search of one probe.
    """

    milvus: Milvus
    name: str
    dim: int
    approximate: bool
    lost: Callable[[], None]
    lacks: Callable[[], Lacking]
    most: int = MOST_HITS

    def __len__(self) -> int:
        return self.milvus.count(self.name)

    def lacking(self) -> Lacking:
        """Which entries of the record a search that begins now may not propose."""
        return self.lacks()

    def search(self, probes: NDArray[np.float32], width: int, at_least: float) -> Hits:
        """The ``width`` best entries for each of (m, d) float32 unit probes, from ``at_least``.

        Milvus returns at most 16,384 hits. Where more are wanted, all that reach the floor are read by ranges of ids.

        Raises:
            IndexUnavailable: Milvus does not answer, or the collection is being made again.
        """
        # Milvus may round both vectors to bfloat16 first (its setting knowhereScoreConsistency): each factor is then
        # off by at most 2**-8 of itself, so a product of unit vectors by 2**-7 and a little more. The float32 sum adds
        # dim * eps, as in SegmentedIndex.
        score_error = 2**-7 + 2**-16 + self.dim * float(np.finfo(np.float32).eps)
        floor = at_least - score_error
        limit = min(width, self.most)
        unseen = np.full(len(probes), -1.0)
        rows: list[NDArray[np.int64]] = []
        for start in range(0, len(probes), max(1, _HITS_A_CALL // limit)):
            part = probes[start : start + max(1, _HITS_A_CALL // limit)]
            for probe, (ids, scores) in zip(part, self._nearest(part, limit, _ALL_IDS), strict=True):
                if len(ids) < limit or scores[-1] < floor:
                    rows.append(ids[scores >= floor])
                elif width <= limit:
                    unseen[len(rows)] = float(scores[-1]) + score_error
                    rows.append(ids)
                else:
                    rows.append(self._all(probe, floor, _ALL_IDS, ids))
        table = np.full((len(probes), max(map(len, rows), default=0)), _NONE, np.int64)
        for at, ids in enumerate(rows):
            table[at, : len(ids)] = ids
        return Hits(table, unseen)

    def _all(
        self, probe: NDArray[np.float32], floor: float, between: tuple[int, int], shown: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """All ids in a range that reach the floor; those shown are some of them, and halve it."""
        middle = int(np.sort(shown)[len(shown) // 2 - 1])
        found = []
        for half in ((between[0], middle), (middle, between[1])):
            ((ids, scores),) = self._nearest(probe[None], self.most, half)
            if len(ids) < self.most or scores[-1] < floor:
                found.append(ids[scores >= floor])
            else:
                found.append(self._all(probe, floor, half, ids))
        return np.concatenate(found)

    def _nearest(
        self, probes: NDArray[np.float32], limit: int, between: tuple[int, int]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        try:
            only = None if between == _ALL_IDS else between
            return self.milvus.search(self.name, probes, limit, only, self.approximate)
        except CollectionLost:
            self.lost()
            raise
