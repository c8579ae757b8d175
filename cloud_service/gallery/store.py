"""The store: the only place that writes the record and the index, and so keeps them in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_service.gallery.envelopes import open_for
from cloud_service.gallery.index import VectorIndex
from cloud_service.gallery.record import Record
from cloud_service.gallery.rows import Added, NewRow, PinnedGallery, Removed
from shared.errors import Overloaded, Unprocessable
from shared.logs import get_logger, place_of
from shared.metrics import Metrics
from shared.wire.cloud import EnrollAnswer, GallerySpec, NewTemplate
from shared.wire.common import Erased

_log = get_logger(__name__)

MakeIndex = Callable[[int], VectorIndex]
"""Makes an empty index for templates of a length."""


class Store:
    """Galleries that can be written and searched.

    A write returns when it is committed *and* searchable; an erasure, when it is committed, can no longer be returned
    (whoever searches joins each hit with the record), and its bytes are overwritten on disk. One write at a time;
    searches go on meanwhile.

    Args:
        record: the truth.
        make_index: makes the index of a gallery.
        max_templates_a_gallery: the most that one gallery may hold.
        metrics: where steps are timed.
    """

    def __init__(self, record: Record, make_index: MakeIndex, max_templates_a_gallery: int, metrics: Metrics) -> None:
        self.record = record
        self._make_index = make_index
        self._max_templates = max_templates_a_gallery
        self._metrics = metrics
        self._writing = threading.Lock()
        self._indexes: dict[int, VectorIndex] = {}
        self._galleries_to_mend: set[int] = set()
        self._scrub_due = False

    def load(self) -> None:
        """Builds every gallery's index from the record."""
        with self._writing:
            for gallery in self.record.galleries():
                self._rebuild(gallery)
        _log.info("indexes_loaded", galleries=len(self._indexes), templates=sum(map(len, self._indexes.values())))

    @property
    def indexes_sound(self) -> bool:
        """Whether every gallery can be searched, none waiting to be rebuilt."""
        return not self._galleries_to_mend

    def index_of(self, gallery: PinnedGallery) -> VectorIndex:
        """The gallery's index, rebuilt first if it was lost.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        index = self._indexes.get(gallery.id)
        if index is not None:
            return index
        with self._writing:
            return self._sound_index(gallery)

    def put_gallery(self, name: str, spec: GallerySpec) -> bool:
        """Makes a gallery; true when it is new, false when it was there, alike.

        Raises:
            Conflict: it exists with another contract (ContractMismatch) or another threshold.
        """
        with self._writing, self._metrics.step("record"):
            gallery, new = self.record.put_gallery(name, spec)
            if new:
                self._indexes[gallery.id] = self._make_index(gallery.dim)
        return new

    def enroll(self, gallery_name: str, subject: str, sent: Sequence[NewTemplate]) -> EnrollAnswer:
        """Stores templates of a subject, all or none; committed and searchable when this returns.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: a template was made under another contract.
            InvalidTemplate: a template is not a unit vector of the gallery's length.
            Unprocessable: an id stands in the request twice.
            Conflict: an id is taken by another template, or the gallery or subject is full.
        """
        with self._metrics.step("record"):
            gallery = self.record.gallery(gallery_name)
        vectors = open_for(gallery, (new.template for new in sent))
        rows = [NewRow(new.id, vector) for new, vector in zip(sent, vectors, strict=True)]
        if len({row.uid for row in rows}) < len(rows):
            raise Unprocessable("A template id stands in the request twice; give each its own.", reason="duplicate_id")
        with self._writing:
            index = self._sound_index(gallery)
            with self._metrics.step("record"):
                added = self.record.add_templates(gallery, subject, rows, self._max_templates - len(index))
            self._index_added(gallery, index, added)
        return EnrollAnswer(subject=subject, templates=added.answers)

    def erase_gallery(self, name: str) -> Erased:
        """Erases a gallery and all in it.

        Raises:
            NotFound: there is no such gallery.
            Overloaded: erased, but its bytes are still in the log of the record.
        """
        with self._writing:
            self._finish_last_erasure()
            with self._metrics.step("record"):
                gallery, erased = self.record.erase_gallery(name)
            self._indexes.pop(gallery.id, None)
            self._galleries_to_mend.discard(gallery.id)
            self._scrub()
        return erased

    def erase_subject(self, gallery_name: str, subject: str) -> Erased:
        """Erases a subject and all of its templates.

        Raises:
            NotFound: there is no such gallery or subject.
            Overloaded: erased, but its bytes are still in the log of the record.
        """
        return self._erase(gallery_name, lambda gallery: self.record.erase_subject(gallery, subject))

    def erase_template(self, gallery_name: str, subject: str, uid: str) -> Erased:
        """Erases a template, and its subject with the last one.

        Raises:
            NotFound: there is no such gallery, subject or template.
            Overloaded: erased, but its bytes are still in the log of the record.
        """
        return self._erase(gallery_name, lambda gallery: self.record.erase_template(gallery, subject, uid))

    def close(self) -> None:
        """Closes the record, once the write that runs is done."""
        with self._writing:
            try:
                self._finish_last_erasure()
            except Overloaded:
                _log.warning("erased_bytes_left_in_log")  # the next start empties it
            self.record.database.close()
            self._indexes.clear()

    def _erase(self, gallery_name: str, remove: Callable[[PinnedGallery], Removed]) -> Erased:
        with self._writing:
            self._finish_last_erasure()
            with self._metrics.step("record"):
                gallery = self.record.gallery(gallery_name)
                removed = remove(gallery)
            self._index_removed(gallery, removed.ids)
            self._scrub()
        return removed.erased

    def _index_added(self, gallery: PinnedGallery, index: VectorIndex, added: Added) -> None:
        if not len(added.ids):
            return
        try:
            with self._metrics.step("index"):
                index.add(added.ids, added.vectors)
        except Exception:
            # Committed, yet perhaps not searchable: not acknowledged. The sender's next try finds it stored.
            self._mend(gallery)
            raise

    def _index_removed(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        index = self._indexes.get(gallery.id)
        if index is None:
            return
        try:
            with self._metrics.step("index"):
                index.remove(ids)
        except Exception as error:
            # Erased all the same: no hit is returned without the record. The rebuild frees the vectors' memory.
            _log.error("index_removal_failed", **place_of(error))
            self._mend(gallery)

    def _mend(self, gallery: PinnedGallery) -> None:
        """Drops an index that cannot be trusted and rebuilds it; where that fails too, its next use tries again."""
        self._indexes.pop(gallery.id, None)
        self._galleries_to_mend.add(gallery.id)
        try:
            self._rebuild(gallery)
        except Exception as error:
            _log.error("index_rebuild_failed", **place_of(error))

    def _sound_index(self, gallery: PinnedGallery) -> VectorIndex:
        index = self._indexes.get(gallery.id)
        if index is None:
            self.record.require(gallery)
            index = self._rebuild(gallery)
        return index

    def _rebuild(self, gallery: PinnedGallery) -> VectorIndex:
        index = self._make_index(gallery.dim)
        for ids, vectors in self.record.batches(gallery):
            index.add(ids, vectors)
        self._indexes[gallery.id] = index
        self._galleries_to_mend.discard(gallery.id)
        return index

    def _scrub(self) -> None:
        self._scrub_due = True
        with self._metrics.step("scrub"):
            self.record.database.scrub()
        self._scrub_due = False

    def _finish_last_erasure(self) -> None:
        if self._scrub_due:
            self._scrub()
