"""Keeps Milvus in step with the record, in a thread beside the requests."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.milvus.client import MOST_HITS, CollectionLost, Milvus
from cloud_service.index.milvus.leases import Lease, live_leases
from cloud_service.index.milvus.names import Names, approximate
from cloud_service.index.milvus.outbox import Outbox, Unsynced
from cloud_service.index.milvus.purge import Purge
from cloud_service.record.queries import PinnedGallery
from cloud_service.record.record import Record
from cloud_service.settings import MilvusSettings
from shared.errors import ContractMismatch, IndexUnavailable, NotFound, RecordDamaged, place_of
from shared.logs import get_logger

_log = get_logger(__name__)

_ROUND_SECONDS: Final = 1.0
# A request sends its own entries of the outbox to Milvus within this time; older ones were left behind.
_LEFT_BEHIND: Final = timedelta(seconds=2)
_ENTRIES_A_ROUND: Final = 10_000
_ALL_GALLERIES_SECONDS: Final = 10.0
_IDS_A_PAGE: Final = MOST_HITS // 2
_LAST_ID: Final = 2**63 - 1


class Sync:
    """A thread that gives each gallery a complete collection, and drops all others.

    Every replica has one. They may do the same at the same time: each step is right when repeated, in any order,
    because it reads the record after it changed Milvus. Only filling a collection is done by one at a time.

    A collection is filled under another name and renamed when it is complete, so that one that is there is complete but
    for the outbox's entries. Each replica compares its ids with the record's before it first searches it, and again
    when Milvus was away.

    Args:
        record: the truth.
        outbox: the changes that Milvus has not taken up yet.
        milvus: the connection.
        names: of the collections.
        settings: how long Milvus may be behind, and how long it keeps what it dropped.
    """

    def __init__(self, record: Record, outbox: Outbox, milvus: Milvus, names: Names, settings: MilvusSettings) -> None:
        self._record = record
        self._entries = record.entries
        self._outbox = outbox
        self._milvus = milvus
        self._names = names
        self._may_be_behind = timedelta(seconds=settings.max_lag_s)
        # Replaced when Milvus was away: what was compared before that proves nothing.
        self._trusted: set[str] = set()
        self.away = False
        self._complete = False
        self._behind = False
        self._checked_all = -_ALL_GALLERIES_SECONDS
        self._purge = Purge(record, outbox, milvus, names, settings.retention_s)
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="index-sync", daemon=True)

    @property
    def sound(self) -> bool:
        """Whether Milvus answers, every gallery can be searched, and no change waits for long."""
        return not self.away and self._complete and not self._behind

    def start(self) -> None:
        """Makes the first round, and then one every second in a thread of its own."""
        self._round_or_log()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; work that takes long is left to another replica, or to the next start."""
        self._closing.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Makes the next round now, and has it check every gallery."""
        self._checked_all = -_ALL_GALLERIES_SECONDS
        self._woken.set()

    def lost(self, gallery: PinnedGallery) -> None:
        """Has a missing collection rebuilt."""
        self.dropped(gallery)
        self._complete = False
        self.wake()

    def dropped(self, gallery: PinnedGallery) -> None:
        """Trusts the collection of an erased gallery no more."""
        self._trusted.discard(self._names.collection(gallery))

    def trusts(self, gallery: PinnedGallery) -> bool:
        """Whether this replica knows that the gallery's collection is complete."""
        return self._names.collection(gallery) in self._trusted

    def ensure(self, gallery: PinnedGallery, *, patient: bool) -> None:
        """Makes sure that a gallery's collection is there, loaded, and complete.

        Fills it from the record if need be.

        Args:
            gallery: which.
            patient: whether it may take long: not within a request.

        Raises:
            NotFound: the gallery was erased meanwhile.
            IndexUnavailable: Milvus does not answer, or another replica is filling the collection.
        """
        trusted, name = self._trusted, self._names.collection(gallery)
        if name not in self._milvus.collections() and not self._fill(gallery, name, patient):
            raise CollectionLost("The index of this gallery is being made; try again in a moment.")
        self._milvus.load(name, patient=patient)
        self._compare(gallery, name)
        try:
            self._record.require(gallery)
        except NotFound:
            self._milvus.drop(name)
            raise
        trusted.add(name)

    def prepare(self, after: PinnedGallery) -> None:
        """Fills a collection for a gallery's next key with what is staged for it.

        What is missing from it then is added when it is compared, before it is first searched.

        Raises:
            IndexUnavailable: Milvus does not answer.
        """
        name = self._names.collection(after)
        if name not in self._milvus.collections():
            self._fill(after, name, patient=True)
        self._milvus.load(name)

    def put(self, known: PinnedGallery, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Stores committed entries, (n,) int64 and (n, dim) float32, found when this returns.

        The gallery is read once more: a replica that fills another collection of it begins after that, and finds them.
        Entries that were removed meanwhile are removed again: their removal may have reached Milvus before this.
        Where the gallery's rule was changed since, nothing is stored: its collection is filled after that change.

        Raises:
            IndexUnavailable: Milvus does not answer; they stay in the outbox.
        """
        gallery = self._record.find(known.id)
        if gallery is None or gallery.score_version != known.score_version:
            return
        if gallery.key_version != known.key_version:
            self.put_stored(gallery, ids)
            return
        self._milvus.put(self._names.collection(gallery), ids, vectors)
        self._remove_erased(gallery, ids)
        self._outbox.confirm_added(gallery, ids)

    def put_stored(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Stores those of the entries that the record holds, and removes the others.

        Raises:
            IndexUnavailable: Milvus does not answer; they stay in the outbox.
        """
        for stored in self._entries.stored(gallery, ids):
            if len(stored.ids):
                self.put(gallery, stored.ids, stored.vectors)
            self._outbox.confirm_added(gallery, stored.damaged)  # never to be found: nothing waits for them
        self._outbox.confirm_added(gallery, self._remove_erased(gallery, ids))

    def remove(self, known: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Removes entries whose removal is committed.

        Raises:
            IndexUnavailable: Milvus does not answer; they stay in the outbox.
        """
        gallery = self._record.find(known.id)
        if gallery is not None and gallery.score_version == known.score_version:
            self._milvus.remove(self._names.collection(gallery), ids)
            self._outbox.confirm_removed(gallery, ids)

    def drop(self, entry: str, *, patient: bool) -> None:
        """Drops a collection, by the outbox's name of it.

        Raises:
            IndexUnavailable: Milvus does not answer; the drop stays in the outbox.
        """
        for name in self._names.all_of(entry):
            self._milvus.drop(name, patient=patient)
        self._outbox.confirm_dropped(entry)

    def _remove_erased(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Removes those of the entries that the record does not hold; which they were."""
        erased = np.setdiff1d(ids, self._entries.held(gallery, ids))
        self._milvus.remove(self._names.collection(gallery), erased)
        return erased

    def _work(self) -> None:
        while not self._closing.is_set():
            self._woken.wait(_ROUND_SECONDS)
            self._woken.clear()
            if not self._closing.is_set():
                self._round_or_log()

    def _round_or_log(self) -> None:
        try:
            self._round()
        except Exception as error:  # the thread must not end: the next round may succeed
            _log.warning("index_round_failed", away=self.away, **place_of(error))

    def _round(self) -> None:
        since = self._outbox.waiting_since()
        self._behind = since is not None and datetime.now(UTC) - since > self._may_be_behind
        try:
            self._milvus.ping()
        except IndexUnavailable:
            if not self.away:
                _log.error("index_unreachable")
            self.away = True
            self._trusted = set()  # whatever comes back may have been restored, or be empty
            self._checked_all = -_ALL_GALLERIES_SECONDS
            return
        if self.away:
            _log.info("index_reachable")
        self.away = False
        if time.monotonic() - self._checked_all >= _ALL_GALLERIES_SECONDS:
            self._check_all()
        for unsynced in self._outbox.unsynced(_LEFT_BEHIND, _ENTRIES_A_ROUND):
            self._send(unsynced)
        self._purge.run()

    def _check_all(self) -> None:
        self._checked_all = time.monotonic()
        present = self._milvus.collections()
        filling = live_leases(self._record.database)
        galleries = self._record.galleries()  # after the collections: one of no gallery here is nobody's
        complete = True
        for gallery in galleries:
            if self._closing.is_set():
                return
            name = self._names.collection(gallery)
            if name not in present:
                self._trusted.discard(name)
            if name in self._trusted:
                continue
            try:
                self.ensure(gallery, patient=True)
            except NotFound:
                pass
            except (IndexUnavailable, ContractMismatch):  # its key was changed just now
                complete = False
        self._complete = complete
        versions = {gallery.id: gallery.key_version for gallery in galleries}
        expected = {self._names.collection(gallery) for gallery in galleries}
        for name in present:
            parts = self._names.parts(name)
            if parts is None or name in expected or parts.gallery_id in self._record.damaged_galleries:
                continue
            # One of a next key is made by a change of key, and one with a lease is being filled.
            coming = parts.key_version > versions.get(parts.gallery_id, parts.key_version) and not parts.unfinished
            lease = _lease_name(parts.gallery_id, parts.key_version, parts.score_version)
            if not coming and not (parts.unfinished and lease in filling):
                self._milvus.drop(name)

    def _fill(self, gallery: PinnedGallery, name: str, patient: bool) -> bool:
        """Makes a collection of all entries of the record; false when another replica is at it."""
        lease = Lease(self._record.database, _lease_name(gallery.id, gallery.key_version, gallery.score_version))
        if not lease.take():
            return False
        new = self._names.unfinished(gallery)
        try:
            self._milvus.create(new, gallery.dim, approximate(gallery), patient=patient)
            for ids, vectors in self._entries.batches(gallery):
                self._milvus.put(new, ids, vectors)
                lease.take()
            self._milvus.rename(new, name, patient=patient)
        except (IndexUnavailable, ContractMismatch):
            try:
                self._milvus.drop(new, patient=patient)
            except IndexUnavailable:
                _log.warning("unfinished_collection_left")  # dropped when all galleries are checked
            raise
        finally:
            lease.give_back()
        _log.info("index_filled", gallery=gallery.id)
        return True

    def _compare(self, gallery: PinnedGallery, name: str) -> None:
        """Adds what the record holds and the collection does not, and removes the converse."""
        after, missing, surplus = 0, 0, 0
        while after < _LAST_ID:
            expected = self._entries.page(gallery, after, _IDS_A_PAGE)
            last = int(expected[-1]) if len(expected) == _IDS_A_PAGE else _LAST_ID
            present = self._ids(name, after, last)
            absent = np.setdiff1d(expected, present)
            if len(absent):
                self.put_stored(gallery, absent)
            # Read again: one that was not expected may have been enrolled just now.
            removed = self._remove_erased(gallery, np.setdiff1d(present, expected))
            after, missing, surplus = last, missing + len(absent), surplus + len(removed)
        if missing or surplus:
            _log.warning("index_repaired", gallery=gallery.id, missing=missing, surplus=surplus)

    def _ids(self, name: str, after: int, last: int) -> NDArray[np.int64]:
        found = self._milvus.ids(name, after, last)
        if len(found) < MOST_HITS:
            return found
        middle = int(np.median(found))
        return np.concatenate([self._ids(name, after, middle), self._ids(name, middle, last)])

    def _send(self, unsynced: Unsynced) -> None:
        parts = self._names.parts(unsynced.entry)
        if parts is None:  # of a record that this one was restored from
            return
        try:
            gallery = self._record.find(parts.gallery_id)
        except RecordDamaged:  # sent when it is restored
            return
        try:
            if gallery is None or _versions(gallery) > (parts.score_version, parts.key_version):
                if gallery is not None and gallery.score_version == parts.score_version:
                    # Erased while the key was being changed: the new collection may have been filled just before.
                    self._milvus.remove(self._names.collection(gallery), unsynced.remove)
                self.drop(unsynced.entry, patient=True)
            elif _versions(gallery) == (parts.score_version, parts.key_version):
                if len(unsynced.add):
                    self.put_stored(gallery, unsynced.add)
                if len(unsynced.remove):
                    self.remove(gallery, unsynced.remove)
        except CollectionLost:
            if gallery is not None:
                self.lost(gallery)


def _lease_name(gallery_id: int, key_version: int, score_version: int) -> str:
    return f"fill {gallery_id}.{key_version}.{score_version}"


def _versions(gallery: PinnedGallery) -> tuple[int, int]:
    return gallery.score_version, gallery.key_version
