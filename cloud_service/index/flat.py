"""A gallery's index in memory: proposes the entries nearest to a probe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_service.entries.queries import Lacking
from cloud_service.index.scan import Found, Part, best_of, joined, parts_of, shared
from cloud_service.index.segment import DEAD, Segment, narrow_reach, width_of
from cloud_service.index.sketch import Sketch

# Rows of the largest segment: 8 MB of 128 values. Rewriting one holds up a writer for a hundredth of a second or
# two, and a search not at all.
_MOST: Final = 65_536
_LEAST: Final = 256
# Rows from which a search is shared by several threads.
_WORTH_SHARING: Final = 32_768
# A segment of which this share was removed is rewritten without it.
_REMOVED: Final = 0.25


@dataclass(frozen=True, slots=True)
class Hits:
    """What an index proposes, one row a probe, best first.

    ``ids`` is (m, w) int64, the record's entry ids; where fewer than w were found for a probe, the rest of its row
    is -1. ``unseen_at_most`` is (m,) float64: no entry that is not proposed has a larger exact inner product with
    the probe, or all that has one is less than was asked for. An approximate index says of the latter what it knows.
    """

    ids: NDArray[np.int64]
    unseen_at_most: NDArray[np.float64]


class VectorIndex(Protocol):
    """One gallery's entries. Safe to search from several threads while one writes."""

    def __len__(self) -> int: ...

    def lacking(self) -> Lacking:
        """Which entries of the record a search that begins now may not propose, as they are being added.

        To be asked before each search.
        """

    def search(self, probes: NDArray[np.float32], width: int, at_least: float) -> Hits:
        """The ``width`` best entries for each of (m, d) float32 unit probes, from ``at_least``.

        An entry that is there throughout the search is proposed, or scores at most ``unseen_at_most``. One that is
        added or removed meanwhile may be proposed or not.
        """


class SegmentedIndex:
    """All entries in memory at one byte a value, compared with every probe.

    It is exact: an entry that is not proposed cannot score more than it says, because what was lost of each by
    keeping it in bytes is known. With sketches of segments that are full it is approximate: those are scanned in place
    of the segments, and what they propose is scored by the segments' codes.

    Storage is FAISS's, in segments. Searching needs no lock: a segment is only ever appended to, and the list of them
    is replaced as a whole (docs/decisions/0011). One thread at a time writes.

    Args:
        dim: d, the length of a vector.

    Attributes:
        last: the largest id that was ever added; the record holds no smaller one that is not here.
    """

    def __init__(self, dim: int) -> None:
        self.last = 0
        self._dim = dim
        self._wide = width_of(dim)
        # Vectors with a value beyond the narrow reach are kept with coarser steps.
        self._shelves = tuple(Shelf(dim, reach) for reach in sorted({narrow_reach(dim), 1.0}))
        self._sketches: dict[Segment, Sketch] = {}

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self._shelves)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the entries take, with what room there is for more."""
        rows = sum(segment.codes.nbytes + segment.ids.nbytes for segment in self.segments())
        return rows + sum(sketch.nbytes for sketch in list(self._sketches.values()))

    @property
    def sketched(self) -> int:
        """How many segments have a sketch; with any, the index is approximate."""
        return len(self._sketches)

    def segments(self) -> Iterator[Segment]:
        """All segments, as they are now."""
        for shelf in self._shelves:
            yield from shelf.segments

    def full(self) -> list[Segment]:
        """The segments that nothing is appended to any more, but for small ones."""
        return [segment for shelf in self._shelves for segment in shelf.full() if segment.held >= _MOST // 4]

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 rows, of length 1 at most, under n new ids; they can be found when this returns."""
        farthest = np.abs(vectors).max(axis=1, initial=0.0)
        beyond = -1.0
        for shelf in self._shelves:
            mine = (farthest > beyond) & ((farthest <= shelf.reach) | (shelf is self._shelves[-1]))
            beyond = shelf.reach
            if mine.any():
                shelf.add(ids[mine], vectors[mine])
        self.last = max(self.last, int(ids.max(initial=0)))

    def adopt(self, segment: Segment) -> None:
        """Takes a full segment as it is."""
        next(shelf for shelf in self._shelves if shelf.reach == segment.reach).adopt(segment)
        self.last = max(self.last, int(segment.ids.max()))

    def lacking(self) -> Lacking:
        """What has a larger id than all that is here: ids come in the order of commits, and so do additions."""
        return Lacking(self.last, np.empty(0, np.int64))

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Removes n ids and overwrites their rows; those it does not hold are passed over."""
        left = len(np.unique(ids))
        for shelf in self._shelves:
            for segment, rows in shelf.remove(ids, left):
                left -= len(rows)
                sketch = self._sketches.get(segment)
                if sketch is not None:
                    sketch.forget(rows)
            shelf.compact()
        there = set(self.segments())
        self._sketches = {segment: sketch for segment, sketch in self._sketches.items() if segment in there}

    def unsketched(self) -> list[Segment]:
        """The full segments without a sketch."""
        return [segment for segment in self.full() if segment not in self._sketches]

    def sketch(self, segment: Segment, sketch: Sketch) -> None:
        """Scans a sketch in place of a segment from now on.

        It may have been made while templates were removed.
        """
        if segment in self.segments():
            sketch.forget(np.flatnonzero(segment.ids == DEAD))
            self._sketches[segment] = sketch

    def unsketch(self) -> None:
        """Drops all sketches: the index is exact again."""
        self._sketches.clear()

    def search(self, probes: NDArray[np.float32], width: int, at_least: float) -> Hits:
        """The ``width`` best entries for each of (m, d) float32 unit probes, from ``at_least``."""
        wide = np.zeros((len(probes), self._wide), np.float32)
        wide[:, : self._dim] = probes
        sketches = self._sketches
        found: list[Found] = []
        for shelf in self._shelves:
            filled = [Part(segment, segment.used, sketches.get(segment)) for segment in shelf.segments]
            parts = parts_of(filled, shared=sum(part.used for part in filled) >= _WORTH_SHARING)
            found += shared(lambda part: best_of(part, wide, width, at_least), parts)
        best = joined(found, len(probes), width)
        return Hits(best.ids, best.unseen_at_most)

    def drop(self) -> None:
        """Frees all that it holds."""
        self._sketches.clear()
        for shelf in self._shelves:
            shelf.segments = ()


class Shelf:
    """Segments of one reach, of which the last has room.

    Args:
        dim: d, the length of a template.
        reach: the largest value that a code can express.
    """

    def __init__(self, dim: int, reach: float) -> None:
        self.reach = reach
        self._dim = dim
        self.segments: tuple[Segment, ...] = ()

    def __len__(self) -> int:
        return sum(segment.held for segment in self.segments)

    def full(self) -> list[Segment]:
        """Those that nothing is appended to: a small last one is replaced by a larger one."""
        last = len(self.segments) - 1
        return [
            segment
            for at, segment in enumerate(self.segments)
            if not segment.room and (at < last or segment.capacity == _MOST)
        ]

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 rows under n ids."""
        while len(ids):
            last = self._with_room(len(ids))
            fits = last.room
            last.append(ids[:fits], vectors[:fits])
            ids, vectors = ids[fits:], vectors[fits:]

    def adopt(self, segment: Segment) -> None:
        """Takes a segment as it is, in front of what has room."""
        full = [one for one in self.segments if not one.room]
        self.segments = (*full, segment, *(one for one in self.segments if one.room))

    def remove(self, ids: NDArray[np.int64], most: int) -> Iterator[tuple[Segment, NDArray[np.int64]]]:
        """Removes ids, ``most`` at most; yields the segments and rows in which they were."""
        for segment in reversed(self.segments):
            if most <= 0:
                return
            rows = segment.remove(ids)
            if len(rows):
                most -= len(rows)
                yield segment, rows

    def compact(self) -> None:
        """Rewrites segments of which much was removed, and joins small neighbors."""
        kept: list[Segment] = []
        for segment in self.segments:
            before = kept[-1] if kept else None
            if not segment.held:
                continue
            if before is not None and before.held + segment.held <= _MOST // 2:
                kept[-1] = self._rewritten([before, segment])
            elif segment.removed > _REMOVED * segment.used:
                kept.append(self._rewritten([segment]))
            else:
                kept.append(segment)
        self.segments = tuple(kept)

    def _with_room(self, wanted: int) -> Segment:
        """The last segment, which has room: a new one, or one twice as large in its place."""
        segments = self.segments
        last = segments[-1] if segments else None
        if last is not None and last.room:
            return last
        if last is None or last.capacity == _MOST:
            new = Segment(self._dim, min(_MOST, max(_LEAST, wanted)), self.reach)
            self.segments = (*segments, new)
            return new
        new = self._copied([last], min(_MOST, max(2 * last.capacity, last.held + wanted)))
        self.segments = (*segments[:-1], new)
        return new

    def _rewritten(self, segments: list[Segment]) -> Segment:
        return self._copied(segments, min(_MOST, max(_LEAST, sum(segment.held for segment in segments))))

    def _copied(self, segments: list[Segment], capacity: int) -> Segment:
        new = Segment(self._dim, capacity, self.reach)
        for segment in segments:
            new.append_codes(*segment.alive(), segment.lost)
        return new
