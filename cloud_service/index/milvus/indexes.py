"""The indexes of all galleries, in Milvus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from cloud_service.entries.queries import Entries, Lacking
from cloud_service.erasure.residue import Residue
from cloud_service.index.flat import VectorIndex
from cloud_service.index.milvus.client import MOST_HITS, CollectionLost, Milvus
from cloud_service.index.milvus.index import MilvusIndex
from cloud_service.index.milvus.names import Names, approximate
from cloud_service.index.milvus.outbox import Outbox, instance_of
from cloud_service.index.milvus.sync import Sync
from cloud_service.record.database import Database
from cloud_service.record.queries import EntryChange, PinnedGallery
from cloud_service.record.record import Journal, Record
from cloud_service.settings import MilvusSettings
from shared.errors import IndexUnavailable, Overloaded, RecordUnavailable, place_of
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.wire.cloud import IndexStats, SnapshotInfo
from shared.wire.common import Receipt

_log = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class MilvusIndexes:
    """Indexes that replicas share; none of them remembers what another may change.

    Changes may arrive in any order: each is checked against the record, so that writers do not wait for each other.

    Attributes:
        entries: the record's.
        outbox: the record's journal.
        milvus: the connection.
        names: of the collections.
        sync: keeps Milvus in step.
        metrics: where steps are timed.
    """

    entries: Entries
    outbox: Outbox
    milvus: Milvus
    names: Names
    sync: Sync
    metrics: Metrics
    in_order = False

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched now."""
        return self.sync.sound

    def load(self) -> None:
        """Connects and checks every gallery; where Milvus is away, later."""
        self.sync.start()

    def of(self, gallery: PinnedGallery) -> VectorIndex:
        """A gallery's index.

        Raises:
            NotFound: the gallery was erased meanwhile.
            IndexUnavailable: Milvus is away, or the index is being made again.
        """
        if self.sync.away:
            raise IndexUnavailable("The index cannot be reached; try again in a moment.")
        if not self.sync.trusts(gallery):
            if self.entries.count(gallery) > MOST_HITS:
                self.sync.wake()
                raise CollectionLost("The index of this gallery is being made; try again in a moment.")
            self.sync.ensure(gallery, patient=False)
        return MilvusIndex(
            self.milvus,
            self.names.collection(gallery),
            gallery.dim,
            approximate(gallery),
            lambda: self.sync.lost(gallery),
            lambda: self._lacking(gallery),
        )

    def made(self, gallery: PinnedGallery) -> None:
        """Makes the collection of a new gallery; where Milvus is away, when it is back."""
        with self._repaired_later("index_not_made"):
            self.of(gallery)

    def added(self, gallery: PinnedGallery, change: EntryChange) -> None:
        """Adds entries, and removes those that they replace; they can be found when this returns.

        Raises:
            IndexUnavailable: Milvus is away. They are committed, and found when it is back.
        """
        with self.metrics.step("index"), self._noticing_loss(gallery):
            self.sync.put(gallery, change.ids, change.vectors)
            if len(change.removed):
                self.sync.remove(gallery, change.removed)

    def added_before(self, gallery: PinnedGallery, uids: Sequence[str]) -> None:
        """Makes sure that templates which are sent again, by their names on the wire, can be found.

        Raises:
            IndexUnavailable: Milvus is away.
        """
        with self.metrics.step("index"):
            missing = self.outbox.not_yet_added(gallery, self.entries.named(gallery, uids))
            if len(missing):
                with self._noticing_loss(gallery):
                    self.sync.put_stored(gallery, missing)

    def removed(self, gallery: PinnedGallery, change: EntryChange) -> None:
        """Removes entries, and adds those that take the place of some; where Milvus is away, when it is back."""
        with self._repaired_later("index_removal_failed"):
            if change and not self.sync.away:
                if len(change.ids):
                    self.sync.put(gallery, change.ids, change.vectors)
                self.sync.remove(gallery, change.removed)

    def regrouped(self, before: PinnedGallery, after: PinnedGallery) -> None:
        """Drops the collection of the rule before, and makes that of a small gallery now, of a large one soon.

        Raises:
            IndexUnavailable: it is not searched until that is done.
        """
        self.dropped(before)
        self.of(after)

    def dropped(self, gallery: PinnedGallery) -> None:
        """Drops the collection of an erased gallery; where Milvus is away, when it is back."""
        self.sync.dropped(gallery)
        with self._repaired_later("index_removal_failed"):
            if not self.sync.away:
                self.sync.drop(self.names.entry(gallery), patient=False)

    def doubtful(self, gallery: PinnedGallery) -> None:
        """Does nothing: a change that was committed stands in the outbox."""

    def stats(self, gallery: PinnedGallery) -> IndexStats:
        """How a gallery is searched.

        Raises:
            NotFound: the gallery was erased meanwhile.
            IndexUnavailable: Milvus is away, or the index is being made again.
        """
        return IndexStats(
            backend="milvus",
            kind="approximate" if approximate(gallery) else "exact",
            pinned=gallery.index_kind,
            entries=len(self.of(gallery)),
            memory_bytes=None,
            snapshot_entries=None,
        )

    def pinned(self, gallery: PinnedGallery) -> None:
        """Fills a collection of the kind that an operator chose from the record.

        Raises:
            IndexUnavailable: Milvus is away; or the gallery is large, and is not searched until that is done.
        """
        self.of(gallery)

    def snapshot(self, gallery: PinnedGallery) -> SnapshotInfo:
        """Does nothing: Milvus keeps its own files, and no start reads others."""
        return SnapshotInfo(files=0, entries=0)

    def prepare(self, after: PinnedGallery) -> None:
        """Fills a collection with what is staged for the next key; where Milvus is away, later."""
        try:
            self.sync.prepare(after)
        except IndexUnavailable:
            _log.warning("index_not_prepared", gallery=after.id)

    def switch(self, after: PinnedGallery, commit: Callable[[], object]) -> None:
        """Runs the transaction that changes a gallery's key.

        A large gallery is answered with 503 until its collection was compared with the record.
        """
        commit()
        self.sync.wake()

    def unprepare(self, gallery: PinnedGallery) -> None:
        """Drops the collection for a gallery's next key, now or when all are checked."""
        try:
            self.milvus.drop(self.names.collection(replace(gallery, key_version=gallery.key_version + 1)))
        except IndexUnavailable:
            self.sync.wake()

    def _lacking(self, gallery: PinnedGallery) -> Lacking:
        """What the outbox still has to add, and what was committed since the gallery was read."""
        if not gallery.one_entry_a_subject:  # ids stay those of templates: what is new may be proposed or not
            return Lacking(gallery.last_entry, np.empty(0, np.int64))
        return Lacking(gallery.last_entry, self.outbox.to_add(gallery))

    def close(self) -> None:
        """Ends the sync thread and the connection."""
        self.sync.stop()
        self.milvus.close()

    @contextmanager
    def _repaired_later(self, event: str) -> Iterator[None]:
        """Logs an error instead of raising it: the sync thread repeats the change."""
        with self.metrics.step("index"):
            try:
                yield
            except Exception as error:
                _log.warning(event, **place_of(error))
                self.sync.wake()

    @contextmanager
    def _noticing_loss(self, gallery: PinnedGallery) -> Iterator[None]:
        try:
            yield
        except CollectionLost:
            self.sync.lost(gallery)
            raise


def in_milvus(
    url: str, settings: MilvusSettings, database: Database, record_with: Callable[[Journal], Record], metrics: Metrics
) -> tuple[Record, MilvusIndexes, Residue]:
    """Makes the record with an outbox as its journal, the indexes, and their residue.

    Raises:
        SetupError: a package that is needed is not installed, or milvus-lite's folder cannot be used.
    """
    milvus = Milvus(url, settings.token, settings.ca_file, settings.timeout_s)
    names = Names(instance_of(database))
    outbox = Outbox(database, names)
    record = record_with(outbox)
    sync = Sync(record, outbox, milvus, names, settings)
    return record, MilvusIndexes(record.entries, outbox, milvus, names, sync, metrics), MilvusResidue(outbox)


class MilvusResidue:
    """Bytes of erased templates in Milvus; ``Purge`` removes them, the outbox records it.

    Args:
        outbox: of all galleries.
    """

    name = "index"

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def erased(self, receipt: Receipt) -> None:
        """Does nothing: the erasure stands in the outbox."""

    def doubtful(self) -> None:
        """Does nothing: what was committed stands in the outbox."""

    def finish(self) -> None:
        """Does nothing: ``Purge`` does it."""

    def holds(self, receipt: Receipt) -> bool:
        """Whether this erasure, or an older one, is not done; also true if that cannot be read."""
        try:
            oldest = self._outbox.oldest_pending()
        except (RecordUnavailable, Overloaded):
            return True
        return oldest is not None and oldest <= receipt.at
