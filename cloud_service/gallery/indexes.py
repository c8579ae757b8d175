"""The indexes of all galleries, and what becomes of one that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from cloud_service.gallery.index import VectorIndex
from cloud_service.gallery.record import Record
from cloud_service.gallery.rows import PinnedGallery
from shared.logs import get_logger, place_of
from shared.metrics import Metrics

_log = get_logger(__name__)

MakeIndex = Callable[[PinnedGallery], VectorIndex]
"""Makes an empty index for the templates of a gallery."""


class Indexes(Protocol):
    """An index for each gallery of the record. The store tells it of every change, after that is committed."""

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched now."""

    def load(self) -> None:
        """Makes every gallery searchable, at the start."""

    def of(self, gallery: PinnedGallery) -> VectorIndex:
        """The index of a gallery in its turn, made anew first if it was lost. Whoever was given one may search it to
        the end, though the gallery's key is changed meanwhile: no index ever holds templates of two turns.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile.
        """

    def made(self, gallery: PinnedGallery) -> None:
        """A gallery is new, and empty."""

    def added(self, gallery: PinnedGallery, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Templates were added, (n,) int64 and (n, dim) float32; they can be found when this returns."""

    def removed(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates were removed, (n,) int64. Fails never: what is left behind is mended later."""

    def dropped(self, gallery: PinnedGallery) -> None:
        """A gallery was removed. Fails never: what is left behind is mended later."""

    def prepare(self, after: PinnedGallery) -> None:
        """Makes an index of what is staged for a gallery's next turn, beside the one that is searched. May take long;
        said again, it takes in what was staged since.
        """

    def turn(self, after: PinnedGallery, flip: Callable[[], object]) -> None:
        """Runs the transaction that begins a gallery's next turn, and then gives out the index that was prepared, with
        all that was added and removed since. Fails as the transaction does, and never after it.
        """

    def unprepare(self, after: PinnedGallery) -> None:
        """That turn will not come; what was prepared for it is let go of."""

    def close(self) -> None:
        """Lets go of all."""


class NothingToNote:
    """The journal of an index that is built from the whole record at each start."""

    def added(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Nothing."""

    def removed(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Nothing."""

    def dropped(self, connection: Connection, pinned: PinnedGallery) -> None:
        """Nothing."""

    def turned(self, connection: Connection, before: PinnedGallery, after: PinnedGallery) -> None:
        """Nothing."""


@dataclass
class _Prepared:
    """The index of a gallery's next turn: how far it was built, and what has to be removed from it."""

    turn: int
    index: VectorIndex
    built_to: int = 0
    removed: list[NDArray[np.int64]] = field(default_factory=list)


class LocalIndexes:
    """Indexes in the memory of this process, which alone uses the record.

    Args:
        record: the truth.
        make_index: makes the index of a gallery.
        metrics: where steps are timed.
    """

    def __init__(self, record: Record, make_index: MakeIndex, metrics: Metrics) -> None:
        self._record = record
        self._make_index = make_index
        self._metrics = metrics
        self._changing = threading.Lock()
        # By gallery and turn: an index that is asked for in the turn before is not there any more.
        self._indexes: dict[tuple[int, int], VectorIndex] = {}
        self._prepared: dict[int, _Prepared] = {}
        # The last template that a gallery's index was built with: what is added later has a larger id.
        self._built_to: dict[int, int] = {}
        self._to_mend: set[int] = set()

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched, none waiting to be rebuilt."""
        return not self._to_mend

    def load(self) -> None:
        """Builds every gallery's index from the record."""
        with self._changing:
            for gallery in self._record.galleries():
                self._rebuild(gallery)
        _log.info("indexes_loaded", galleries=len(self._indexes), templates=sum(map(len, self._indexes.values())))

    def of(self, gallery: PinnedGallery) -> VectorIndex:
        """A gallery's index, rebuilt first if it was lost.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile.
        """
        index = self._indexes.get((gallery.id, gallery.turn))
        if index is not None:
            return index
        with self._changing:
            index = self._indexes.get((gallery.id, gallery.turn))
            if index is None:
                self._record.require(gallery)
                index = self._rebuild(gallery)
            return index

    def made(self, gallery: PinnedGallery) -> None:
        """A gallery is new, and empty."""
        with self._changing:
            self._built_to[gallery.id] = 0
            self._indexes[gallery.id, gallery.turn] = self._make_index(gallery)

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

    def removed(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates were removed."""
        with self._changing, self._metrics.step("index"):
            prepared = self._prepared.get(gallery.id)
            if prepared is not None:
                prepared.removed.append(ids)
            index = self._indexes.get((gallery.id, gallery.turn))
            if index is None:
                return
            try:
                index.remove(ids)
            except Exception as error:
                # Erased all the same: no hit is returned without the record. The rebuild frees the vectors' memory.
                _log.error("index_removal_failed", **place_of(error))
                self._mend(gallery)

    def dropped(self, gallery: PinnedGallery) -> None:
        """A gallery was removed."""
        with self._changing:
            index = self._indexes.pop((gallery.id, gallery.turn), None)
            self._prepared.pop(gallery.id, None)
            self._built_to.pop(gallery.id, None)
            self._to_mend.discard(gallery.id)
            if index is not None:
                index.drop()

    def prepare(self, after: PinnedGallery) -> None:
        """Makes an index of what is staged for a gallery's next turn; searches and changes go on meanwhile."""
        with self._changing:  # from here on, `removed` tells of what goes
            prepared = self._prepared.get(after.id)
            if prepared is None or prepared.turn != after.turn:
                prepared = self._prepared[after.id] = _Prepared(after.turn, self._make_index(after))
        self._fill(prepared, after)

    def turn(self, after: PinnedGallery, flip: Callable[[], object]) -> None:
        """Runs the transaction that begins a gallery's next turn, and gives out the index that was prepared for it."""
        with self._changing:  # who asks for the new turn's index waits until it is whole
            flip()
            self._indexes.pop((after.id, after.turn - 1), None)  # not emptied: somebody may be searching it
            prepared = self._prepared.pop(after.id, None)
            try:
                if prepared is None or prepared.turn != after.turn:
                    self._rebuild(after)
                    return
                self._fill(prepared, after)  # what was enrolled since
                if prepared.removed:
                    prepared.index.remove(np.concatenate(prepared.removed))
                self._built_to[after.id] = prepared.built_to
                self._indexes[after.id, after.turn] = prepared.index
                self._to_mend.discard(after.id)
            except Exception as error:
                _log.error("index_turn_failed", **place_of(error))
                self._mend(after)

    def unprepare(self, after: PinnedGallery) -> None:
        """Lets go of what was prepared for a turn that will not come."""
        with self._changing:
            self._prepared.pop(after.id, None)

    def close(self) -> None:
        """Lets go of all."""
        self._indexes.clear()
        self._prepared.clear()

    def _fill(self, prepared: _Prepared, after: PinnedGallery) -> None:
        for ids, vectors in self._record.batches(after, prepared.built_to):
            prepared.index.add(ids, vectors)
            prepared.built_to = int(ids[-1])

    def _mend(self, gallery: PinnedGallery) -> None:
        """Drops an index that cannot be trusted and rebuilds it; where that fails too, its next use tries again."""
        self._indexes.pop((gallery.id, gallery.turn), None)
        self._to_mend.add(gallery.id)
        try:
            self._rebuild(gallery)
        except Exception as error:
            _log.error("index_rebuild_failed", **place_of(error))

    def _rebuild(self, gallery: PinnedGallery) -> VectorIndex:
        index, last = self._make_index(gallery), 0
        for ids, vectors in self._record.batches(gallery):
            index.add(ids, vectors)
            last = int(ids[-1])
        self._built_to[gallery.id] = last
        self._indexes[gallery.id, gallery.turn] = index
        self._to_mend.discard(gallery.id)
        return index
