"""The indexes of all galleries, in Milvus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.flat import VectorIndex
from cloud_service.index.milvus.client import MOST_HITS, CollectionLost, Milvus
from cloud_service.index.milvus.index import MilvusIndex
from cloud_service.index.milvus.names import Names, approximate
from cloud_service.index.milvus.outbox import Outbox
from cloud_service.index.milvus.state import Held
from cloud_service.index.milvus.sync import Keeper
from cloud_service.record.record import Record
from cloud_service.record.rows import PinnedGallery
from shared.errors import IndexUnavailable
from shared.logs import get_logger, place_of
from shared.metrics import Metrics
from shared.wire.cloud import IndexStats, SnapshotInfo

_log = get_logger(__name__)


class MilvusIndexes:
    """Indexes that several replicas of the service share. None of them remembers what another may change.

    What is told out of order is put right by a look at the record, so that writers need not wait for each other here.

    Args:
        record: the truth.
        outbox: the record's journal.
        milvus: the connection.
        names: of the collections.
        keeper: keeps Milvus in step.
        metrics: where steps are timed.
    """

    in_order = False

    def __init__(
        self, record: Record, outbox: Outbox, milvus: Milvus, names: Names, keeper: Keeper, metrics: Metrics
    ) -> None:
        self._held = Held(record.database)
        self._outbox = outbox
        self._milvus = milvus
        self._names = names
        self._keeper = keeper
        self._metrics = metrics

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched now."""
        return self._keeper.sound

    def load(self) -> None:
        """Connects, and sees to every gallery. Where Milvus is away, the service starts and waits for it."""
        self._keeper.start()

    def of(self, gallery: PinnedGallery) -> VectorIndex:
        """A gallery's index.

        Raises:
            NotFound: the gallery was erased meanwhile.
            IndexUnavailable: Milvus is away, or the index is being made anew.
        """
        if self._keeper.away:
            raise IndexUnavailable("The index cannot be reached; try again in a moment.")
        if not self._keeper.trusts(gallery):
            if self._held.size(gallery) > MOST_HITS:
                self._keeper.wake()
                raise CollectionLost("The index of this gallery is being made; try again in a moment.")
            self._keeper.see_to(gallery, patient=False)
        return MilvusIndex(
            self._milvus,
            self._names.collection(gallery),
            gallery.dim,
            approximate(gallery),
            lambda: self._keeper.lost(gallery),
        )

    def made(self, gallery: PinnedGallery) -> None:
        """A gallery is new, and empty. Where Milvus is away, its collection is made when it is back."""
        with self._metrics.step("index"):
            try:
                self.of(gallery)
            except Exception as error:  # made all the same: the keeper sees to every gallery of the record
                _log.warning("index_not_made", **place_of(error))
                self._keeper.wake()

    def added(self, gallery: PinnedGallery, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Templates were added, (n,) int64 and (n, dim) float32; they can be found when this returns.

        Raises:
            IndexUnavailable: Milvus is away. They are committed, and found when it is back.
        """
        with self._metrics.step("index"), self._told_when_lost(gallery):
            self._keeper.put(gallery, ids, vectors)

    def added_before(self, gallery: PinnedGallery, uids: Sequence[str]) -> None:
        """Templates are sent again, by their names on the wire; they can be found when this returns.

        Raises:
            IndexUnavailable: Milvus is away.
        """
        with self._metrics.step("index"):
            untold = self._outbox.not_yet_added(gallery, self._held.named(gallery, uids))
            if len(untold):
                with self._told_when_lost(gallery):
                    self._keeper.put_stored(gallery, untold)

    def removed(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates were removed, (n,) int64. Where Milvus is away, it is told when it is back."""
        with self._metrics.step("index"):
            try:
                if len(ids) and not self._keeper.away:
                    self._keeper.remove(gallery, ids)
            except Exception as error:  # erased all the same: the outbox tells of it until it is done
                _log.warning("index_removal_failed", **place_of(error))
                self._keeper.wake()

    def dropped(self, gallery: PinnedGallery) -> None:
        """A gallery was removed. Where Milvus is away, it is told when it is back."""
        with self._metrics.step("index"):
            self._keeper.dropped(gallery)
            try:
                if not self._keeper.away:
                    self._keeper.drop(self._names.entry(gallery), patient=False)
            except Exception as error:  # erased all the same: the outbox tells of it until it is done
                _log.warning("index_removal_failed", **place_of(error))
                self._keeper.wake()

    def doubtful(self, gallery: PinnedGallery) -> None:
        """Whether the last change of a gallery was committed cannot be told. The outbox will tell the keeper."""

    def stats(self, gallery: PinnedGallery) -> IndexStats:
        """How a gallery is searched.

        Raises:
            NotFound: the gallery was erased meanwhile.
            IndexUnavailable: Milvus is away, or the index is being made anew.
        """
        return IndexStats(
            backend="milvus",
            kind="approximate" if approximate(gallery) else "exact",
            pinned=gallery.index_kind,
            templates=len(self.of(gallery)),
            memory_bytes=None,
            snapshot_templates=None,
        )

    def pinned(self, gallery: PinnedGallery) -> None:
        """An operator chose the kind of a gallery's index: a collection of that kind is filled from the record.

        Raises:
            IndexUnavailable: Milvus is away; or the gallery is large, and is not searched until that is done.
        """
        self.of(gallery)

    def snapshot(self, gallery: PinnedGallery) -> SnapshotInfo:
        """Nothing: Milvus keeps its own files, and no start reads others."""
        return SnapshotInfo(files=0, templates=0)

    def prepare(self, after: PinnedGallery) -> None:
        """Fills a collection with what is staged for a gallery's next turn; where Milvus is away, later."""
        try:
            self._keeper.prepare(after)
        except IndexUnavailable:
            _log.warning("index_not_prepared", gallery=after.id)

    def turn(self, after: PinnedGallery, flip: Callable[[], object]) -> None:
        """Runs the transaction that begins a gallery's next turn. A large gallery's collection is compared with the
        record before it is searched, and until then answered with 503.
        """
        flip()
        self._keeper.wake()

    def unprepare(self, after: PinnedGallery) -> None:
        """That turn will not come; its collection is removed, now or when all are looked at."""
        try:
            self._keeper.unprepare(after)
        except IndexUnavailable:
            self._keeper.wake()

    def close(self) -> None:
        """Ends the keeper and the connection."""
        self._keeper.stop()
        self._milvus.close()

    @contextmanager
    def _told_when_lost(self, gallery: PinnedGallery) -> Iterator[None]:
        try:
            yield
        except CollectionLost:
            self._keeper.lost(gallery)
            raise
