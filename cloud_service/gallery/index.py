"""The vector index: proposes the templates nearest to a probe. Derived from the record, and rebuilt from it at will."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_service.gallery.nearest import Nearest
from cloud_service.gallery.segment import DEAD, Segment

# Rows of the largest segment: 32 MB of 128 values. Merging two of them holds up a writer for some hundredths of a
# second, and a search not at all.
_MOST: Final = 65_536
_LEAST: Final = 256
# Scores that are reckoned at once: 64 probes' of so many rows stay in the processor's cache.
_BLOCK: Final = 4_096
_BLOCK_OF_ONE: Final = 65_536
# Rows from which a search is shared by several threads.
_WORTH_SHARING: Final = 32_768
# A segment of which this share was removed is written anew without them.
_REMOVED: Final = 0.25


@dataclass(frozen=True, slots=True)
class Hits:
    """What an index proposes, one row a probe, best first.

    ``ids`` is (m, w) int64, the record's template ids; where fewer than w were found for a probe, the rest of its row
    is -1. ``unseen_at_most`` is (m,) float64: no template that is not proposed has a larger exact inner product with
    the probe, or all that has one is less than was asked for.
    """

    ids: NDArray[np.int64]
    unseen_at_most: NDArray[np.float64]


class VectorIndex(Protocol):
    """The templates of one gallery, searchable. Safe to use from several threads; one of them writes."""

    def __len__(self) -> int: ...

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 unit rows under n new ids; they can be found when this returns."""

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Removes n ids and overwrites their rows; those it does not hold are passed over."""

    def search(self, probes: NDArray[np.float32], width: int, at_least: float) -> Hits:
        """The ``width`` best templates for each row of (m, d) float32 unit probes, of those that score ``at_least``.

        Those that were there when the search began and still are when it ends are proposed, or ``unseen_at_most`` tells
        of them. One that is added or removed meanwhile may be proposed or not.
        """

    def drop(self) -> None:
        """Lets go of all that it holds, wherever that is; it is not used any more."""


class ExactIndex:
    """All vectors in memory, compared with every probe: exact.

    Storage is FAISS's, in segments; the products are taken in place, block by block, for all probes of a batch at once.
    FAISS's own search takes several times as long for the same (docs/decisions/0011). Searching needs no lock: a
    segment is only ever appended to, and the list of them is replaced as a whole.

    Args:
        dim: d, the length of a template.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._segments: tuple[Segment, ...] = ()
        # A float32 sum of d products is off by at most d * 2**-24 * sum|x_i y_i|, and that sum is at most 1
        # (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1; Cauchy-Schwarz). Twice that, to be safe.
        self._score_error = dim * float(np.finfo(np.float32).eps)

    def __len__(self) -> int:
        return sum(segment.held for segment in self._segments)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds (n, d) float32 unit rows under n new ids; they can be found when this returns."""
        while len(ids):
            last = self._with_room(len(ids))
            fits = last.room
            last.append(ids[:fits], vectors[:fits])
            ids, vectors = ids[fits:], vectors[fits:]

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Removes n ids and overwrites their rows; those it does not hold are passed over."""
        left = len(np.unique(ids))
        for segment in reversed(self._segments):
            if not left:
                break
            left -= segment.remove(ids)
        self._compact()

    def search(self, probes: NDArray[np.float32], width: int, at_least: float) -> Hits:
        """The ``width`` best templates for each row of (m, d) float32 unit probes, of those that score ``at_least``."""
        at_least -= self._score_error
        filled = [(segment, segment.used) for segment in self._segments]
        parts = _parts(filled, _threads() if sum(used for _, used in filled) >= _WORTH_SHARING else 1)
        shares = [_threads_of_searches().submit(_best_of, part, probes, width, at_least) for part in parts[1:]]
        found = [_best_of(parts[0], probes, width, at_least), *(share.result() for share in shares)]
        ids, scores = found[0] if len(found) == 1 else _joined(found, width)
        unseen = np.full(len(probes), -1.0)  # all that may reach it was shown, unless it is as many as were asked for
        if ids.shape[1] == width:
            unseen = np.where(ids[:, -1] != DEAD, scores[:, -1].astype(np.float64) + self._score_error, unseen)
        return Hits(ids, unseen)

    def drop(self) -> None:
        """Lets go of all that it holds."""
        self._segments = ()

    def _with_room(self, wanted: int) -> Segment:
        """The last segment, which has room: a new one, or one twice as large in its place."""
        segments = self._segments
        last = segments[-1] if segments else None
        if last is not None and last.room:
            return last
        if last is None or last.capacity == _MOST:
            new = Segment(self._dim, min(_MOST, max(_LEAST, wanted)))
            self._segments = (*segments, new)
            return new
        new = Segment(self._dim, min(_MOST, max(2 * last.capacity, last.held + wanted)))
        new.append(*last.alive())
        self._segments = (*segments[:-1], new)
        return new

    def _compact(self) -> None:
        """Writes segments anew of which much was removed, joined with a neighbour where both fit into one."""
        kept: list[Segment] = []
        for segment in self._segments:
            before = kept[-1] if kept else None
            if not segment.held:
                continue
            if before is not None and before.held + segment.held <= _MOST // 2:
                kept[-1] = _written_anew([before, segment])
            elif segment.removed > _REMOVED * segment.used:
                kept.append(_written_anew([segment]))
            else:
                kept.append(segment)
        if len(kept) != len(self._segments) or any(a is not b for a, b in zip(kept, self._segments, strict=True)):
            self._segments = tuple(kept)


Filled = list[tuple[Segment, int]]
"""Segments, and how many rows of each were there when a search began."""


Ranked = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Ids and scores, (m, w) each, best first; -1 and minus infinity where there are fewer."""


def _best_of(filled: Filled, probes: NDArray[np.float32], width: int, at_least: float) -> Ranked:
    best = Nearest(np.full(len(probes), at_least, np.float32), width)
    block = _BLOCK if len(probes) > 1 else _BLOCK_OF_ONE
    scores = np.empty((len(probes), block), np.float32)
    for segment, used in filled:
        for start in range(0, used, block):
            end = min(start + block, used)
            into = scores[:, : end - start]
            np.matmul(probes, segment.vectors[start:end].T, out=into)
            best.take(into, segment.ids[start:end])
    return best.result()


def _joined(found: list[Ranked], width: int) -> Ranked:
    """The best of what was found in several parts."""
    ids = np.concatenate([part for part, _ in found], axis=1)
    scores = np.concatenate([part for _, part in found], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    wide = int(np.isfinite(scores).sum(axis=1).max(initial=0))
    return ids[:, :wide], scores[:, :wide]


def _parts(filled: Filled, count: int) -> list[Filled]:
    """Segments in so many parts of about as many rows."""
    parts: list[Filled] = [[] for _ in range(count)]
    for one in sorted(filled, key=lambda one: -one[1]):
        min(parts, key=lambda part: sum(used for _, used in part)).append(one)
    return [part for part in parts if part] or [[]]


@cache
def _threads() -> int:
    return len(os.sched_getaffinity(0))


@cache
def _threads_of_searches() -> ThreadPoolExecutor:
    """Threads that help with a search; they sleep in between, where those of a BLAS spin and hold up everybody."""
    return ThreadPoolExecutor(_threads(), thread_name_prefix="search")


def _written_anew(segments: list[Segment]) -> Segment:
    held = sum(segment.held for segment in segments)
    new = Segment(segments[0].vectors.shape[1], min(_MOST, max(_LEAST, held)))
    for segment in segments:
        new.append(*segment.alive())
    return new
