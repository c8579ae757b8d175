"""Indexes in the memory of this process, with snapshots of what is full of them, and what becomes of one that fails."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.flat import SegmentedIndex, VectorIndex
from cloud_service.index.segment import Segment
from cloud_service.index.sketch import Sketch
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.record import Record
from cloud_service.record.rows import PinnedGallery
from cloud_service.settings import IndexSettings
from shared.errors import PatronusError
from shared.logs import get_logger, place_of
from shared.metrics import Metrics
from shared.wire.cloud import IndexStats, SnapshotInfo

_log = get_logger(__name__)
# The keeper rests so many times as long as a file took it: searches need what it takes of the cores.
_REST: Final = 3.0


@dataclass
class _Prepared:
    """The index of a gallery's next turn: how far it was built, and what has to be removed from it."""

    turn: int
    index: SegmentedIndex
    built_to: int = 0
    removed: list[NDArray[np.int64]] = field(default_factory=list)


class LocalIndexes:
    """Indexes in the memory of this process, which alone uses the record.

    A thread of its own writes snapshots and makes sketches, so that neither a writer nor a search waits for that.

    Args:
        record: the truth.
        snapshots: where full segments are kept as files.
        settings: when an index becomes approximate, and how often snapshots are written.
        metrics: where steps are timed.
    """

    in_order = True

    def __init__(self, record: Record, snapshots: Snapshots, settings: IndexSettings, metrics: Metrics) -> None:
        self._record = record
        self._snapshots = snapshots
        self._settings = settings
        self._metrics = metrics
        self._changing = threading.Lock()
        # By gallery and turn: an index that is asked for in the turn before is not there any more.
        self._indexes: dict[tuple[int, int], SegmentedIndex] = {}
        self._prepared: dict[int, _Prepared] = {}
        # The last template that a gallery's index was built with: what is added later has a larger id.
        self._built_to: dict[int, int] = {}
        self._to_mend: set[int] = set()
        # The segments that stand in files, with how many of their templates were removed then.
        self._saved: WeakKeyDictionary[Segment, int] = WeakKeyDictionary()
        self._saving = threading.Lock()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="index keeper", daemon=True)

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched, none waiting to be rebuilt."""
        return not self._to_mend

    def load(self) -> None:
        """Reads every gallery's index from its snapshot and the record."""
        self._sweep()
        with self._changing:
            for gallery in self._record.galleries():
                self._rebuild(gallery)
        self._keeper.start()
        held = sum(map(len, self._indexes.values()))
        from_files = sum(segment.held for segment in self._saved)
        _log.info("indexes_loaded", galleries=len(self._indexes), templates=held, from_files=from_files)

    def of(self, gallery: PinnedGallery) -> VectorIndex:
        """A gallery's index, rebuilt first if it was lost.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile.
        """
        return self._of(gallery)

    def made(self, gallery: PinnedGallery) -> None:
        """A gallery is new, and empty."""
        with self._changing:
            self._built_to[gallery.id] = 0
            self._indexes[gallery.id, gallery.turn] = SegmentedIndex(gallery.dim)

    def added(self, gallery: PinnedGallery, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Templates were added; they can be found when this returns."""
        with self._changing, self._metrics.step("index"):
            index = self._indexes.get((gallery.id, gallery.turn))
            new = ids > self._built_to[gallery.id] if index is not None else np.zeros(len(ids), bool)
            try:
                if index is None:
                    self._rebuild(gallery)
                elif new.any():
                    index.add(ids[new], vectors[new])
            except Exception:
                # Committed, yet perhaps not searchable: not acknowledged. The sender's next try finds it stored.
                self._mend(gallery)
                raise

    def added_before(self, gallery: PinnedGallery, uids: Sequence[str]) -> None:
        """Nothing: what was added before can be found, or its index was made anew when it was asked for."""

    def removed(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates were removed; their bytes are gone from memory and from the snapshots when this returns."""
        with self._changing, self._metrics.step("index"):
            prepared = self._prepared.get(gallery.id)
            if prepared is not None:
                prepared.removed.append(ids)
            index = self._indexes.get((gallery.id, gallery.turn))
            try:
                if index is not None:
                    index.remove(ids)
            except Exception as error:
                # Erased all the same: no hit is returned without the record. The rebuild frees the vectors' memory.
                _log.error("index_removal_failed", **place_of(error))
                self._mend(gallery)
        self._sweep()

    def dropped(self, gallery: PinnedGallery) -> None:
        """A gallery was removed."""
        with self._changing:
            index = self._indexes.pop((gallery.id, gallery.turn), None)
            self._prepared.pop(gallery.id, None)
            self._built_to.pop(gallery.id, None)
            self._to_mend.discard(gallery.id)
            if index is not None:
                index.drop()
        self._sweep()

    def stats(self, gallery: PinnedGallery) -> IndexStats:
        """How a gallery is searched.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        index = self._of(gallery)
        return IndexStats(
            backend="faiss",
            kind="approximate" if index.sketched else "exact",
            pinned=gallery.index_kind,
            templates=len(index),
            memory_bytes=index.nbytes,
            snapshot_templates=self._snapshots.kept(gallery).templates,
        )

    def pinned(self, gallery: PinnedGallery) -> None:
        """An operator chose the kind of a gallery's index; it is of that kind when this returns."""
        self._sketch(gallery, self._of(gallery))

    def snapshot(self, gallery: PinnedGallery) -> SnapshotInfo:
        """Writes the full segments of a gallery's index to files that are not yet.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        self._save(gallery, self._of(gallery))
        kept = self._snapshots.kept(gallery)
        return SnapshotInfo(files=kept.files, templates=kept.templates)

    def doubtful(self, gallery: PinnedGallery) -> None:
        """Whether the last change of a gallery was committed cannot be told."""
        with self._changing:
            self._indexes.pop((gallery.id, gallery.turn), None)  # its next use builds it from the record

    def prepare(self, after: PinnedGallery) -> None:
        """Makes an index of what is staged for a gallery's next turn; searches and changes go on meanwhile."""
        with self._changing:  # from here on, `removed` tells of what goes
            prepared = self._prepared.get(after.id)
            if prepared is None or prepared.turn != after.turn:
                prepared = self._prepared[after.id] = _Prepared(after.turn, SegmentedIndex(after.dim))
        self._fill(prepared, after)

    def turn(self, after: PinnedGallery, flip: Callable[[], object]) -> None:
        """Runs the transaction that begins a gallery's next turn, and gives out the index that was prepared for it."""
        with self._changing:  # who asks for the new turn's index waits until it is whole
            flip()
            self._indexes.pop((after.id, after.turn - 1), None)  # not emptied: somebody may be searching it
            prepared = self._prepared.pop(after.id, None)
            try:
                self._begin(after, prepared)
            except Exception as error:  # the record has turned: whatever is wrong here, the index is made anew
                _log.error("index_turn_failed", **place_of(error))
                self._mend(after)
        self._sweep()

    def unprepare(self, after: PinnedGallery) -> None:
        """Lets go of what was prepared for a turn that will not come."""
        with self._changing:
            self._prepared.pop(after.id, None)

    def close(self) -> None:
        """Lets go of all, after the snapshots are written as far as there is time."""
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        until = time.monotonic() + self._settings.close_timeout_s
        try:
            for gallery in self._record.galleries():
                index = self._indexes.get((gallery.id, gallery.turn))
                if index is not None:
                    self._save(gallery, index, until)
        except Exception as error:  # an end must not fail for want of files that only save time
            _log.warning("snapshots_not_written", **place_of(error))  # the next start reads the record
        self._indexes.clear()
        self._prepared.clear()

    def _begin(self, after: PinnedGallery, prepared: _Prepared | None) -> None:
        if prepared is None or prepared.turn != after.turn:
            self._rebuild(after)
            return
        self._fill(prepared, after)  # what was enrolled since
        if prepared.removed:
            prepared.index.remove(np.concatenate(prepared.removed))
        self._built_to[after.id] = prepared.built_to
        self._indexes[after.id, after.turn] = prepared.index
        self._to_mend.discard(after.id)

    def _fill(self, prepared: _Prepared, after: PinnedGallery) -> None:
        for ids, vectors in self._record.vectors.batches(after, prepared.built_to):
            prepared.index.add(ids, vectors)
            prepared.built_to = int(ids[-1])

    def _of(self, gallery: PinnedGallery) -> SegmentedIndex:
        index = self._indexes.get((gallery.id, gallery.turn))
        if index is not None:
            return index
        with self._changing:
            index = self._indexes.get((gallery.id, gallery.turn))
            if index is None:
                self._record.require(gallery)
                index = self._rebuild(gallery)
            return index

    def _mend(self, gallery: PinnedGallery) -> None:
        """Drops an index that cannot be trusted and rebuilds it; where that fails too, its next use tries again."""
        self._indexes.pop((gallery.id, gallery.turn), None)
        self._to_mend.add(gallery.id)
        try:
            self._rebuild(gallery)
        except Exception as error:  # the caller has an error of its own to tell
            _log.error("index_rebuild_failed", **place_of(error))

    def _rebuild(self, gallery: PinnedGallery) -> SegmentedIndex:
        index, last = SegmentedIndex(gallery.dim), 0
        segments = self._snapshots.load(gallery)
        known = np.concatenate([np.empty(0, np.int64), *(segment.ids for segment in segments)])
        for segment in segments:
            index.adopt(segment)
            self._saved[segment] = 0
        for ids, vectors in self._record.vectors.batches_without(gallery, known):
            index.add(ids, vectors)
            last = max(last, int(ids.max()))
        self._built_to[gallery.id] = max(last, int(known.max(initial=0)))
        self._indexes[gallery.id, gallery.turn] = index
        self._to_mend.discard(gallery.id)
        return index

    def _sweep(self) -> None:
        try:
            self._snapshots.sweep()
        except (OSError, PatronusError) as error:
            _log.error("snapshot_not_erased", **place_of(error))  # the keeper tries again

    def _keep(self) -> None:
        """What is done from time to time, beside the requests."""
        while not self._over.wait(self._settings.snapshot_interval_s):
            try:
                for gallery in self._record.galleries():
                    index = self._indexes.get((gallery.id, gallery.turn))
                    if index is not None and not self._over.is_set():
                        self._sketch(gallery, index)
                        self._save(gallery, index, rest=_REST)
                self._snapshots.sweep()
            except Exception as error:  # a thread that ended would keep nothing any more: the next round may do
                _log.error("index_not_kept", **place_of(error))

    def _save(self, gallery: PinnedGallery, index: SegmentedIndex, until: float = math.inf, rest: float = 0.0) -> None:
        for segment in index.full():
            began = time.monotonic()
            with self._saving:
                if self._saved.get(segment) == segment.removed or began > until:
                    continue
                removed = segment.removed
                with self._metrics.step("snapshot"):
                    left_out = self._record.damaged_templates.of(gallery.id)
                    if self._snapshots.save(gallery, segment, index.segments(), left_out):
                        self._saved[segment] = removed
            if rest and self._over.wait(rest * (time.monotonic() - began)):
                return

    def _sketch(self, gallery: PinnedGallery, index: SegmentedIndex) -> None:
        """Makes the sketches that are missing, or lets go of all."""
        kind = gallery.index_kind or ("approximate" if len(index) > self._settings.exact_up_to else "exact")
        if kind == "exact":
            with self._changing:
                index.unsketch()
            return
        for segment in index.unsketched():
            with self._metrics.step("sketch"):
                sketch = Sketch(segment)
            with self._changing:
                index.sketch(segment, sketch)
