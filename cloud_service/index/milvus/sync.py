"""Keeps Milvus in step with the record, beside the requests: makes, fills, compares, tells and removes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.milvus.client import MOST_HITS, CollectionLost, Milvus
from cloud_service.index.milvus.leases import Lease, live_leases
from cloud_service.index.milvus.names import Names, approximate
from cloud_service.index.milvus.outbox import Outbox, Untold
from cloud_service.index.milvus.purge import Purging
from cloud_service.index.milvus.state import Held
from cloud_service.record.record import Record
from cloud_service.record.rows import PinnedGallery
from shared.errors import ContractMismatch, IndexUnavailable, NotFound, RecordDamaged
from shared.logs import get_logger, place_of

_log = get_logger(__name__)

_ROUND_SECONDS: Final = 1.0
# What a request writes to the outbox it tells Milvus of itself, within this time; what is older was left behind.
_LEFT_BEHIND: Final = timedelta(seconds=2)
_ENTRIES_A_ROUND: Final = 10_000
_ALL_GALLERIES_SECONDS: Final = 10.0
_IDS_A_PAGE: Final = MOST_HITS // 2
_LAST_ID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long Milvus may be behind before the service says so, and how long it keeps what it dropped; in seconds."""

    behind: float
    kept: float


class Keeper:
    """A thread that sees to it that each gallery has a complete collection, and nothing else has one.

    Every replica has one. They may do the same at the same time: each step is right when repeated, in any order,
    because it looks at the record after it changed Milvus. Only filling a collection is done by one at a time.

    A collection is filled under another name and renamed when it is complete, so that one that is there is complete but
    for what the outbox tells. Each replica compares its ids with the record's before it first searches it, and again
    when Milvus was away.

    Args:
        record: the truth.
        outbox: what Milvus has yet to be told.
        milvus: the connection.
        names: of the collections.
        patience: of the service with Milvus.
    """

    def __init__(self, record: Record, outbox: Outbox, milvus: Milvus, names: Names, patience: Patience) -> None:
        self._record = record
        self._held = Held(record.database)
        self._outbox = outbox
        self._milvus = milvus
        self._names = names
        self._patience = patience
        self._trusted: set[str] = set()
        self._era = 0
        self.away = False
        self._complete = False
        self._behind = False
        self._looked = -_ALL_GALLERIES_SECONDS
        self._purging = Purging(record, outbox, milvus, names, patience.kept)
        self._woken = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="index-keeper", daemon=True)

    @property
    def sound(self) -> bool:
        """Whether Milvus answers, every gallery can be searched, and nothing waits for long to be told."""
        return not self.away and self._complete and not self._behind

    def start(self) -> None:
        """Makes the first round, and then one every second in a thread of its own."""
        self._round_or_log()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a long work is left to whoever comes next."""
        self._over.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Something went wrong: the next round is now, and looks at every gallery."""
        self._looked = -_ALL_GALLERIES_SECONDS
        self._woken.set()

    def lost(self, gallery: PinnedGallery) -> None:
        """A gallery's collection was not there."""
        self._trusted.discard(self._names.collection(gallery))
        self._complete = False
        self.wake()

    def dropped(self, gallery: PinnedGallery) -> None:
        """A gallery is gone."""
        self._trusted.discard(self._names.collection(gallery))

    def trusts(self, gallery: PinnedGallery) -> bool:
        """Whether this replica knows that the gallery's collection is complete."""
        return self._names.collection(gallery) in self._trusted

    def see_to(self, gallery: PinnedGallery, *, patient: bool) -> None:
        """Makes sure that a gallery's collection is there, loaded, and complete; fills it from the record if need be.

        Args:
            gallery: which.
            patient: whether it may take long: not within a request.

        Raises:
            NotFound: the gallery was erased meanwhile.
            IndexUnavailable: Milvus does not answer, or another replica is filling the collection.
        """
        era, name = self._era, self._names.collection(gallery)
        if name not in self._milvus.collections() and not self._fill(gallery, name, patient):
            raise CollectionLost("The index of this gallery is being made; try again in a moment.")
        self._milvus.load(name, patient=patient)
        self._compare(gallery, name)
        try:
            self._record.require(gallery)
        except NotFound:
            self._milvus.drop(name)
            raise
        if era == self._era:
            self._trusted.add(name)

    def prepare(self, after: PinnedGallery) -> None:
        """Fills a collection for a gallery's next turn with what is staged for it.

        What is missing from it then is added when it is compared, before it is first searched.

        Raises:
            IndexUnavailable: Milvus does not answer.
        """
        name = self._names.collection(after)
        if name not in self._milvus.collections():
            self._fill(after, name, patient=True)
        self._milvus.load(name)

    def unprepare(self, after: PinnedGallery) -> None:
        """Removes such a collection.

        Raises:
            IndexUnavailable: Milvus does not answer.
        """
        self._milvus.drop(self._names.collection(after))

    def put(self, told: PinnedGallery, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Stores templates that are committed, (n,) int64 and (n, dim) float32; they can be found when this returns.

        The gallery is looked up once more: whoever fills another collection of it begins after that, and finds them.
        And one that was erased meanwhile is removed again: whoever erased it may have told Milvus before this.

        Raises:
            IndexUnavailable: Milvus does not answer; the outbox still tells of them.
        """
        gallery = self._record.find(told.id)
        if gallery is None:
            return
        if gallery.turn != told.turn:
            self.put_stored(gallery, ids)
            return
        name = self._names.collection(gallery)
        self._milvus.put(name, ids, vectors)
        gone = np.setdiff1d(ids, self._held.of(gallery, ids))
        if len(gone):
            self._milvus.remove(name, gone)
        self._outbox.told_of_additions(gallery, ids)

    def put_stored(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Stores those of the templates that the record holds, and removes the others.

        Raises:
            IndexUnavailable: Milvus does not answer; the outbox still tells of them.
        """
        for stored in self._record.vectors.stored(gallery, ids, expired=True):
            if len(stored.ids):
                self.put(gallery, stored.ids, stored.vectors)
            if len(stored.damaged):
                self._outbox.told_of_additions(gallery, stored.damaged)  # never to be found: nothing waits for them
        gone = np.setdiff1d(ids, self._held.of(gallery, ids))
        if len(gone):
            self._milvus.remove(self._names.collection(gallery), gone)
            self._outbox.told_of_additions(gallery, gone)

    def remove(self, told: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Removes templates whose erasure is committed.

        Raises:
            IndexUnavailable: Milvus does not answer; the outbox still tells of them.
        """
        gallery = self._record.find(told.id)
        if gallery is None:
            return
        self._milvus.remove(self._names.collection(gallery), ids)
        self._outbox.told_of_removals(gallery, ids)

    def drop(self, entry: str, *, patient: bool) -> None:
        """Removes a collection, by the outbox's name of it.

        Raises:
            IndexUnavailable: Milvus does not answer; the outbox still tells of it.
        """
        for name in self._names.all_of(entry):
            self._milvus.drop(name, patient=patient)
        self._outbox.told_of_drop(entry)

    def _work(self) -> None:
        while not self._over.is_set():
            self._woken.wait(_ROUND_SECONDS)
            self._woken.clear()
            if not self._over.is_set():
                self._round_or_log()

    def _round_or_log(self) -> None:
        try:
            self._round()
        except Exception as error:  # a thread that ended would tell Milvus of nothing any more: the next round may do
            _log.warning("index_round_failed", away=self.away, **place_of(error))

    def _round(self) -> None:
        self._note_delay()
        try:
            self._milvus.ping()
        except IndexUnavailable:
            if not self.away:
                _log.error("index_unreachable")
            self.away = True
            self._era += 1  # whatever comes back may have been restored, or be empty
            self._trusted.clear()
            self._looked = -_ALL_GALLERIES_SECONDS
            return
        if self.away:
            _log.info("index_reachable")
        self.away = False
        if time.monotonic() - self._looked >= _ALL_GALLERIES_SECONDS:
            self._look_at_all()
        for untold in self._outbox.untold(_LEFT_BEHIND, _ENTRIES_A_ROUND):
            self._tell(untold)
        self._purging.go_on()

    def _note_delay(self) -> None:
        since = self._outbox.waiting_since()
        self._behind = since is not None and datetime.now(UTC) - since > timedelta(seconds=self._patience.behind)

    def _look_at_all(self) -> None:
        self._looked = time.monotonic()
        present = self._milvus.collections()
        filling = live_leases(self._record.database)
        galleries = self._record.galleries()  # after the collections: one whose gallery is not here is nobody's
        complete = True
        for gallery in galleries:
            if self._over.is_set():
                return
            name = self._names.collection(gallery)
            if name not in present:
                self._trusted.discard(name)
            if name not in self._trusted:
                complete &= self._saw_to(gallery)
        self._complete = complete
        turns = {gallery.id: gallery.turn for gallery in galleries}
        expected = {self._names.collection(gallery) for gallery in galleries}
        for name in present:
            parts = self._names.parts(name)
            if parts is None or name in expected or parts.gallery_id in self._record.damaged_galleries:
                continue
            # One of a coming turn is being made by whoever changes the key, and one with a lease is being filled.
            coming = parts.turn > turns.get(parts.gallery_id, parts.turn) and not parts.unfinished
            if not coming and not (parts.unfinished and _work_on(parts.gallery_id, parts.turn) in filling):
                self._milvus.drop(name)

    def _saw_to(self, gallery: PinnedGallery) -> bool:
        try:
            self.see_to(gallery, patient=True)
        except NotFound:
            return True
        except (IndexUnavailable, ContractMismatch):  # its key was changed just now
            return False
        return True

    def _fill(self, gallery: PinnedGallery, name: str, patient: bool) -> bool:
        """Makes a collection of all templates of the record; false when another replica is at it."""
        lease = Lease(self._record.database, _work_on(gallery.id, gallery.turn))
        if not lease.take():
            return False
        new = self._names.unfinished(gallery)
        try:
            self._milvus.create(new, gallery.dim, approximate(gallery), patient=patient)
            for ids, vectors in self._record.vectors.batches(gallery):
                self._milvus.put(new, ids, vectors)
                lease.take()
            self._milvus.rename(new, name, patient=patient)
        except (IndexUnavailable, ContractMismatch):
            self._remove_remains(new, patient)
            raise
        finally:
            lease.give_back()
        _log.info("index_filled", gallery=gallery.id)
        return True

    def _remove_remains(self, name: str, patient: bool) -> None:
        try:
            self._milvus.drop(name, patient=patient)
        except IndexUnavailable:
            _log.warning("index_remains_left")  # dropped when all galleries are looked at

    def _compare(self, gallery: PinnedGallery, name: str) -> None:
        """Adds what the record holds and the collection does not, and removes the converse."""
        after, missing, surplus = 0, 0, 0
        while after < _LAST_ID:
            expected = self._held.page(gallery, after, _IDS_A_PAGE)
            last = int(expected[-1]) if len(expected) == _IDS_A_PAGE else _LAST_ID
            held = self._ids(name, after, last)
            absent = np.setdiff1d(expected, held)
            if len(absent):
                self.put_stored(gallery, absent)
            strange = np.setdiff1d(held, expected)
            strange = np.setdiff1d(strange, self._held.of(gallery, strange))  # it may have come just now
            if len(strange):
                self._milvus.remove(name, strange)
            after, missing, surplus = last, missing + len(absent), surplus + len(strange)
        if missing or surplus:
            _log.warning("index_mended", gallery=gallery.id, missing=missing, surplus=surplus)

    def _ids(self, name: str, after: int, last: int) -> NDArray[np.int64]:
        found = self._milvus.ids(name, after, last)
        if len(found) < MOST_HITS:
            return found
        middle = int(np.median(found))
        return np.concatenate([self._ids(name, after, middle), self._ids(name, middle, last)])

    def _tell(self, untold: Untold) -> None:
        parts = self._names.parts(untold.entry)
        if parts is None:  # of a record that this one was restored from
            return
        try:
            gallery = self._record.find(parts.gallery_id)
        except RecordDamaged:  # told when it is restored
            return
        try:
            if gallery is not None and gallery.turn > parts.turn and len(untold.remove):
                # Erased while the key was being changed: the new collection may have been filled just before.
                self._milvus.remove(self._names.collection(gallery), untold.remove)
            if gallery is None or gallery.turn > parts.turn:
                self.drop(untold.entry, patient=True)
                return
            if gallery.turn < parts.turn:
                return
            if len(untold.add):
                self.put_stored(gallery, untold.add)
            if len(untold.remove):
                self.remove(gallery, untold.remove)
        except CollectionLost:
            if gallery is not None:
                self.lost(gallery)


def _work_on(gallery_id: int, turn: int) -> str:
    return f"fill {gallery_id}.{turn}"
