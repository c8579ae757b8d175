"""Indexes in the memory of this process, with snapshots of their full segments."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.flat import SegmentedIndex
from cloud_service.index.segment import Segment
from cloud_service.index.sketch import Sketch
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.queries import EntryChange, PinnedGallery
from cloud_service.record.record import Record
from cloud_service.settings import IndexSettings
from shared.errors import PatronusError, place_of
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.wire.cloud import IndexStats, SnapshotInfo

_log = get_logger(__name__)
# The background thread rests so many times as long as a file took it: searches need what it takes of the cores.
_REST: Final = 3.0
_NO_IDS: Final = np.empty(0, np.int64)


@dataclass
class _Prepared:
    """The index for a gallery's next key, and what to remove from it."""

    key_version: int
    index: SegmentedIndex
    removed: list[NDArray[np.int64]] = field(default_factory=list)


class FaissIndexes:
    """Indexes in the memory of this process, which alone uses the record.

    That of a verify-only gallery stays empty: nobody searches it.

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
        # By gallery and the versions of its key and rule: the index under those before is not found any more.
        self._indexes: dict[tuple[int, int, int], SegmentedIndex] = {}
        self._prepared: dict[int, _Prepared] = {}
        self._to_rebuild: set[int] = set()
        # The segments that stand in files, with how many of their entries were removed then.
        self._saved: WeakKeyDictionary[Segment, int] = WeakKeyDictionary()
        self._saving = threading.Lock()
        self._closing = threading.Event()
        self._background = threading.Thread(target=self._work, name="index snapshots", daemon=True)

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched, none waiting to be rebuilt."""
        return not self._to_rebuild

    def load(self) -> None:
        """Reads every gallery's index from its snapshot and the record."""
        self._sweep()
        with self._changing:
            for gallery in self._record.galleries():
                self._rebuild(gallery)
        self._background.start()
        held = sum(map(len, self._indexes.values()))
        from_files = sum(segment.held for segment in self._saved)
        _log.info("indexes_loaded", galleries=len(self._indexes), entries=held, from_files=from_files)

    def of(self, gallery: PinnedGallery) -> SegmentedIndex:
        """A gallery's index, rebuilt first if it was lost.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile. ScoreChanged: its rule was.
        """
        index = self._indexes.get(_key(gallery))
        if index is not None:
            return index
        with self._changing:
            index = self._indexes.get(_key(gallery))
            if index is None:
                self._record.require(gallery)
                index = self._rebuild(gallery)
            return index

    def made(self, gallery: PinnedGallery) -> None:
        """Makes the empty index of a new gallery."""
        with self._changing:
            self._indexes[_key(gallery)] = SegmentedIndex(gallery.dim)

    def added(self, gallery: PinnedGallery, change: EntryChange) -> None:
        """Adds entries, and removes those that they replace; they can be found when this returns.

        Files that hold what was replaced are overwritten later: before the next erasure is acknowledged, at the latest.
        """
        with self._changing, self._metrics.step("index"):
            try:
                self._apply(gallery, change, rebuild=True)
            except Exception:
                # Committed, yet perhaps not searchable: not acknowledged. The sender's next try finds it stored.
                self._replace(gallery)
                raise

    def added_before(self, gallery: PinnedGallery, uids: Sequence[str]) -> None:
        """Does nothing: stored templates are in the index, or it was rebuilt before."""

    def removed(self, gallery: PinnedGallery, change: EntryChange) -> None:
        """Removes entries, their bytes from memory and files, and adds those that take the place of some."""
        with self._changing, self._metrics.step("index"):
            try:
                self._apply(gallery, change, rebuild=False)
            except Exception as error:
                # Erased all the same: no hit is returned without the record. The rebuild frees the vectors' memory.
                _log.error("index_removal_failed", **place_of(error))
                self._replace(gallery)
        self._sweep()

    def regrouped(self, before: PinnedGallery, after: PinnedGallery) -> None:
        """Makes the index of a gallery anew whose rule was changed; searches of it wait until then."""
        with self._changing, self._metrics.step("index"):
            self._indexes.pop(_key(before), None)  # not emptied: somebody may be searching it
            try:
                self._rebuild(after)
            except Exception:
                self._replace(after)
                raise
        self._sweep()

    def dropped(self, gallery: PinnedGallery) -> None:
        """Drops the index of a gallery that was erased."""
        with self._changing:
            index = self._indexes.pop(_key(gallery), None)
            self._prepared.pop(gallery.id, None)
            self._to_rebuild.discard(gallery.id)
            if index is not None:
                index.drop()
        self._sweep()

    def stats(self, gallery: PinnedGallery) -> IndexStats:
        """How a gallery is searched.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        index = self.of(gallery)
        return IndexStats(
            backend="faiss",
            kind="approximate" if index.sketched else "exact",
            pinned=gallery.index_kind,
            entries=len(index),
            memory_bytes=index.nbytes,
            snapshot_entries=self._snapshots.info(gallery).entries,
        )

    def pinned(self, gallery: PinnedGallery) -> None:
        """Makes a gallery's index one of the kind that an operator chose."""
        self._sketch(gallery, self.of(gallery))

    def snapshot(self, gallery: PinnedGallery) -> SnapshotInfo:
        """Writes the full segments of a gallery's index that no file holds yet.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        self._save(gallery, self.of(gallery))
        return self._snapshots.info(gallery)

    def doubtful(self, gallery: PinnedGallery) -> None:
        """Drops an index whose last change may or may not be committed; its next use rebuilds it."""
        with self._changing:
            self._indexes.pop(_key(gallery), None)

    def prepare(self, after: PinnedGallery) -> None:
        """Makes an index of what is staged for a gallery's next key, while searches go on."""
        with self._changing:  # from here on, `removed` collects erased templates
            prepared = self._prepared.get(after.id)
            if prepared is None or prepared.key_version != after.key_version:
                prepared = self._prepared[after.id] = _Prepared(after.key_version, SegmentedIndex(after.dim))
        self._fill(prepared, after)

    def switch(self, after: PinnedGallery, commit: Callable[[], object]) -> None:
        """Runs the transaction that changes a gallery's key, and puts the prepared index in place."""
        with self._changing:  # requests for the index under the new key wait until it is complete
            commit()
            before = replace(after, key_version=after.key_version - 1)
            self._indexes.pop(_key(before), None)  # not emptied: somebody may be searching it
            prepared = self._prepared.pop(after.id, None)
            try:
                if prepared is None or prepared.key_version != after.key_version:
                    self._rebuild(after)
                else:
                    self._fill(prepared, after)  # what was enrolled since
                    if prepared.removed:
                        prepared.index.remove(np.concatenate(prepared.removed))
                    self._put(after, prepared.index)
            except Exception as error:  # the change is committed: whatever is wrong here, the index is rebuilt
                _log.error("index_switch_failed", **place_of(error))
                self._replace(after)
        self._sweep()

    def unprepare(self, gallery: PinnedGallery) -> None:
        """Drops what was prepared for a gallery's next key."""
        with self._changing:
            self._prepared.pop(gallery.id, None)

    def close(self) -> None:
        """Drops all indexes, after the snapshots are written as far as there is time."""
        self._closing.set()
        if self._background.is_alive():
            self._background.join()
        until = time.monotonic() + self._settings.close_timeout_s
        try:
            for gallery, index in self._present():
                self._save(gallery, index, until)
        except Exception as error:  # files only save time: the next start reads the record
            _log.warning("snapshots_not_written", **place_of(error))
        self._indexes.clear()
        self._prepared.clear()

    def _present(self) -> Iterator[tuple[PinnedGallery, SegmentedIndex]]:
        for gallery in self._record.galleries():
            index = self._indexes.get(_key(gallery))
            if index is not None:
                yield gallery, index

    def _fill(self, prepared: _Prepared, after: PinnedGallery) -> None:
        if after.verify_only:
            return
        for ids, vectors in self._record.entries.batches(after, prepared.index.last):
            prepared.index.add(ids, vectors)

    def _apply(self, gallery: PinnedGallery, change: EntryChange, *, rebuild: bool) -> None:
        """Changes an index as the record was changed: adds first, so that nobody is missing in between."""
        if gallery.verify_only:
            return
        prepared = self._prepared.get(gallery.id)
        if prepared is not None and len(change.removed):
            prepared.removed.append(change.removed)
        index = self._indexes.get(_key(gallery))
        if index is not None:
            new = change.ids > index.last  # the others it was built with
            index.add(change.ids[new], change.vectors[new])
            if len(change.removed):
                index.remove(change.removed)
        elif rebuild:
            self._rebuild(gallery)

    def _replace(self, gallery: PinnedGallery) -> None:
        """Drops an index that cannot be trusted and rebuilds it, now or at its next use."""
        self._indexes.pop(_key(gallery), None)
        self._to_rebuild.add(gallery.id)
        try:
            self._rebuild(gallery)
        except Exception as error:  # the caller has an error of its own to raise
            _log.error("index_rebuild_failed", **place_of(error))

    def _rebuild(self, gallery: PinnedGallery) -> SegmentedIndex:
        index = SegmentedIndex(gallery.dim)
        if gallery.verify_only:
            if self._snapshots.info(gallery).files:
                self._snapshots.forget(gallery)  # of an earlier version, which kept such an index
            self._put(gallery, index)
            return index
        segments = self._snapshots.load(gallery)
        known = np.concatenate([np.empty(0, np.int64), *(segment.ids for segment in segments)])
        for segment in segments:
            index.adopt(segment)
            self._saved[segment] = 0
        for ids, vectors in self._record.entries.batches_without(gallery, known):
            index.add(ids, vectors)
        self._put(gallery, index)
        return index

    def _put(self, gallery: PinnedGallery, index: SegmentedIndex) -> None:
        self._indexes[_key(gallery)] = index
        self._to_rebuild.discard(gallery.id)

    def _sweep(self) -> None:
        try:
            self._snapshots.sweep()
        except (OSError, PatronusError) as error:
            _log.error("snapshot_not_erased", **place_of(error))  # the background thread tries again

    def _work(self) -> None:
        while not self._closing.wait(self._settings.snapshot_interval_s):
            try:
                for gallery, index in self._present():
                    if not self._closing.is_set():
                        self._sketch(gallery, index)
                        self._save(gallery, index, rest=_REST)
                self._snapshots.sweep()
            except Exception as error:  # the thread must not end: the next round may succeed
                _log.error("index_not_kept", **place_of(error))

    def _save(self, gallery: PinnedGallery, index: SegmentedIndex, until: float = math.inf, rest: float = 0.0) -> None:
        for segment in index.full():
            began = time.monotonic()
            with self._saving:
                if self._saved.get(segment) == segment.removed or began > until:
                    continue
                removed = segment.removed
                with self._metrics.step("snapshot"):
                    left_out = self._left_out(gallery)
                    if self._snapshots.save(gallery, segment, index.segments(), left_out):
                        self._saved[segment] = removed
            if rest and self._closing.wait(rest * (time.monotonic() - began)):
                return

    def _left_out(self, gallery: PinnedGallery) -> NDArray[np.int64]:
        """Entries that the record has and the index perhaps not: their template is damaged."""
        return _NO_IDS if gallery.one_entry_a_subject else self._record.damaged_templates.of(gallery.id)

    def _sketch(self, gallery: PinnedGallery, index: SegmentedIndex) -> None:
        """Makes the sketches that are missing, or drops all."""
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


def _key(gallery: PinnedGallery) -> tuple[int, int, int]:
    return gallery.id, gallery.key_version, gallery.score_version
