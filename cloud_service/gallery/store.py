"""The store: the only place that writes the record and the index, and so keeps them in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cloud_service.gallery.envelopes import open_for
from cloud_service.gallery.indexes import Indexes
from cloud_service.gallery.record import Record
from cloud_service.gallery.rows import NewRow, PinnedGallery, Removed
from shared.errors import Overloaded, Unprocessable
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.wire.cloud import EnrollAnswer, GallerySpec, NewTemplate
from shared.wire.common import Erased

_log = get_logger(__name__)


class Store:
    """Galleries that can be written and searched.

    A write returns when it is committed *and* searchable; an erasure, when it is committed, can no longer be returned
    (whoever searches joins each hit with the record), and its bytes are overwritten on disk. One write at a time;
    searches go on meanwhile.

    Args:
        record: the truth.
        indexes: what is searched.
        metrics: where steps are timed.
    """

    def __init__(self, record: Record, indexes: Indexes, metrics: Metrics) -> None:
        self.record = record
        self.indexes = indexes
        self._metrics = metrics
        self._writing = threading.Lock()
        self._scrub_due = False

    def load(self) -> None:
        """Makes every gallery searchable."""
        self.indexes.load()

    def put_gallery(self, name: str, spec: GallerySpec) -> bool:
        """Makes a gallery; true when it is new, false when it was there, alike.

        Raises:
            Conflict: it exists with another contract (ContractMismatch) or another threshold.
        """
        with self._writing, self._metrics.step("record"):
            gallery, new = self.record.put_gallery(name, spec)
            if new:
                self.indexes.made(gallery)
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
            self.indexes.of(gallery)  # what could not be searched is not stored either
            with self._metrics.step("record"):
                added = self.record.add_templates(gallery, subject, rows)
            if len(added.ids):
                self.indexes.added(gallery, added.ids, added.vectors)
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
            self.indexes.dropped(gallery)
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

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The right to write, for a step of a change of key."""
        with self._writing:
            yield

    def scrub(self) -> None:
        """Empties the record's log of what was overwritten.

        Raises:
            Overloaded: somebody reads an old state of the record.
        """
        with self._writing:
            self._scrub()

    def close(self) -> None:
        """Closes the record, once the write that runs is done."""
        with self._writing:
            try:
                self._finish_last_erasure()
            except Overloaded:
                _log.warning("erased_bytes_left_in_log")  # the next start empties it
            self.indexes.close()
            self.record.database.close()

    def _erase(self, gallery_name: str, remove: Callable[[PinnedGallery], Removed]) -> Erased:
        with self._writing:
            self._finish_last_erasure()
            with self._metrics.step("record"):
                gallery = self.record.gallery(gallery_name)
                removed = remove(gallery)
            self.indexes.removed(gallery, removed.ids)
            self._scrub()
        return removed.erased

    def _scrub(self) -> None:
        self._scrub_due = True
        with self._metrics.step("scrub"):
            self.record.database.scrub()
        self._scrub_due = False

    def _finish_last_erasure(self) -> None:
        if self._scrub_due:
            self._scrub()
