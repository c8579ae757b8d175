"""Scans of segments for the best templates, with a bound on what they do not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.segment import DEAD, ZERO, Segment
from cloud_service.index.sketch import Sketch
from shared.security.process_limits import usable_cpus

# Up to so many probes FAISS's scan of bytes is quicker than turning them into float32 for a matrix product.
_FEW: Final = 6
# Rows that are converted to float32 at once: with the scores of 64 probes they stay in the processor's cache.
_BLOCK: Final = 2_048
# Proposals of sketches for each template wanted, over all segments, and how far under the true score they may lie.
_PROPOSED: Final = 8
_SKETCH_ERROR: Final = 0.25
# A segment is asked for so many times its share of these, and for so many for each template wanted at least: each that
# it is asked for costs, and what belongs together was not all enrolled together.
_OVER_SHARE: Final = 2
_LEAST_PROPOSED: Final = 2

# Found scores are ranked when so many more than wanted have come together: often enough for the bar to rise.
_PENDING: Final = 4
# Under every score that two unit vectors can have.
_NOTHING: Final = -2.0


@dataclass(frozen=True, slots=True)
class Part:
    """A segment as a search found it: with ``used`` rows, and perhaps a sketch of them."""

    segment: Segment
    used: int
    sketch: Sketch | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a scan found of m probes.

    ``ids`` is (m, w) int64, ``DEAD`` where there is none; ``at_most`` is (m, w) float64, what the exact score of each
    can be at most, best first; ``unseen_at_most`` is (m,) float64, the same of all that is not shown.
    """

    ids: NDArray[np.int64]
    at_most: NDArray[np.float64]
    unseen_at_most: NDArray[np.float64]


def best_of(parts: Sequence[Part], probes: NDArray[np.float32], width: int, at_least: float) -> Found:
    """The ``width`` best of segments of one reach, of those whose score can be ``at_least``.

    Args:
        parts: what is searched.
        probes: (m, wide) float32 unit rows, as long as a row of codes.
        width: how many of each probe.
        at_least: the least exact score that matters.
    """
    sketched = [part for part in parts if part.sketch is not None]
    plain = [part for part in parts if part.sketch is None]
    found = []
    if sketched:
        found.append(_by_sketches(sketched, probes, width, at_least))
    if plain and len(probes) <= _FEW:
        found += [_by_scan(part, probes, width, at_least) for part in plain]
    elif plain:
        found.append(_by_products(plain, probes, width, at_least))
    return joined(found, len(probes), width)


def joined(found: Sequence[Found], probes: int, width: int) -> Found:
    """The best of what was found in several parts, for so many probes."""
    ids = np.concatenate([np.empty((probes, 0), np.int64), *(part.ids for part in found)], axis=1)
    at_most = np.concatenate([np.empty((probes, 0)), *(part.at_most for part in found)], axis=1)
    order = np.argsort(-at_most, axis=1, kind="stable")
    ids, at_most = np.take_along_axis(ids, order, axis=1), np.take_along_axis(at_most, order, axis=1)
    unseen = np.max([np.full(probes, _NOTHING), *(part.unseen_at_most for part in found)], axis=0)
    if at_most.shape[1] > width:
        unseen = np.maximum(unseen, at_most[:, width])
    wide = min(width, int((ids != DEAD).sum(axis=1).max(initial=0)))
    return Found(ids[:, :wide], at_most[:, :wide], unseen)


def parts_of(filled: Sequence[Part], *, shared: bool) -> list[list[Part]]:
    """Segments in parts of about equal rows, one for each thread; in one if not shared."""
    parts: list[list[Part]] = [[] for _ in range(_threads() if shared else 1)]
    for one in sorted(filled, key=lambda one: -one.used):
        min(parts, key=lambda part: sum(each.used for each in part)).append(one)
    return [part for part in parts if part]


def shared(work: Callable[[list[Part]], Found], parts: Sequence[list[Part]]) -> list[Found]:
    """Does the work on each part, the first in this thread and the others beside it."""
    others = [_threads_of_searches().submit(work, part) for part in parts[1:]]
    return [work(part) for part in parts[:1]] + [other.result() for other in others]


def _by_scan(part: Part, probes: NDArray[np.float32], width: int, at_least: float) -> Found:
    """FAISS's scan of the codes."""
    segment = part.segment
    scores, rows = segment.scan(probes, width)
    at_most = scores.astype(np.float64) + segment.error
    ids = segment.ids[rows]
    unseen = np.full(len(probes), _NOTHING)
    if rows.shape[1] < segment.capacity:
        unseen = np.where(at_most[:, -1] >= at_least, at_most[:, -1], unseen)
    ids = np.where(at_most >= at_least, ids, DEAD)
    return Found(ids, np.where(ids == DEAD, -np.inf, at_most), unseen)


def _by_products(parts: Sequence[Part], probes: NDArray[np.float32], width: int, at_least: float) -> Found:
    """Matrix products, block by block, with codes that are converted to float32 on the way."""
    scale = parts[0].segment.scale
    error = max(part.segment.error for part in parts)
    # A code stands for (code - ZERO) / scale. The bars are moved instead of the codes.
    offset = ZERO * probes.sum(axis=1, dtype=np.float64)
    best = Nearest(((at_least - error) * scale + offset).astype(np.float32), width)
    values = np.empty((_BLOCK, probes.shape[1]), np.float32)
    scores = np.empty((len(probes), _BLOCK), np.float32)
    for part in parts:
        for start in range(0, part.used, _BLOCK):
            end = min(start + _BLOCK, part.used)
            block, into = values[: end - start], scores[:, : end - start]
            np.copyto(block, part.segment.codes[start:end])
            np.matmul(probes, block.T, out=into)
            best.take(into, part.segment.ids[start:end])
    ids, raw = best.result()
    at_most = np.where(ids == DEAD, -np.inf, (raw - offset[:, np.newaxis]) / scale + error)
    unseen = np.full(len(probes), _NOTHING)
    if ids.shape[1] == width:
        unseen = np.where(ids[:, -1] == DEAD, unseen, at_most[:, -1])
    return Found(ids, at_most, unseen)


def _by_sketches(parts: Sequence[Part], probes: NDArray[np.float32], width: int, at_least: float) -> Found:
    """Sketches propose, codes score. What is not proposed is not spoken of."""
    count = _PROPOSED * width
    each = max(_LEAST_PROPOSED * width, _OVER_SHARE * count // len(parts))
    proposed = [part.sketch.propose(probes, min(count, each)) for part in parts if part.sketch is not None]
    rough = np.concatenate([scores for scores, _ in proposed], axis=1)
    rough[rough < at_least - _SKETCH_ERROR] = -np.inf
    rows = np.concatenate([rows for _, rows in proposed], axis=1)
    whose = np.concatenate([np.full(rows.shape[1], at) for at, (_, rows) in enumerate(proposed)])
    if rough.shape[1] > count:
        kept = np.argpartition(-rough, count, axis=1)[:, :count]
        rough, rows, whose = np.take_along_axis(rough, kept, 1), np.take_along_axis(rows, kept, 1), whose[kept]
    else:
        whose = np.broadcast_to(whose, rows.shape)
    ids = np.full(rows.shape, DEAD, np.int64)
    scores = np.full(rows.shape, -np.inf)
    for at, part in enumerate(parts):
        probe, column = np.nonzero((whose == at) & np.isfinite(rough))
        if not len(probe):
            continue
        segment, mine = part.segment, rows[probe, column]
        values = (segment.codes[mine].astype(np.float32) - ZERO) / np.float32(segment.scale)
        exact = np.einsum("ij,ij->i", values, probes[probe]).astype(np.float64) + segment.error
        ids[probe, column] = np.where(exact >= at_least, segment.ids[mine], DEAD)
        scores[probe, column] = exact
    scores[ids == DEAD] = -np.inf
    return joined([Found(ids, scores, np.full(len(probes), _NOTHING))], len(probes), width)


@cache
def _threads() -> int:
    return usable_cpus()


@cache
def _threads_of_searches() -> ThreadPoolExecutor:
    """Threads that share a search; they sleep in between, where a BLAS's spin."""
    return ThreadPoolExecutor(_threads(), thread_name_prefix="search")


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
        """Ids and scores, (m, w), best first, filled up with ``DEAD`` and minus infinity."""
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
