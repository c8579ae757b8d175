"""The store: the only place that writes the record and the index, and so keeps them in step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

from cloud_service.gallery.answers import Answers, Once
from cloud_service.gallery.envelopes import open_for
from cloud_service.gallery.indexes import Indexes
from cloud_service.gallery.record import Record
from cloud_service.gallery.rows import NewRow, PinnedGallery, Removed
from cloud_service.gallery.turn import Turn
from shared.errors import NotFound, OutcomeUnknown, PatronusError, Unprocessable
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.wire.cloud import EnrollAnswer, GallerySpec, IndexKind, IndexStats, NewTemplate
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
        answers: which requests were done already.
        patience_seconds: the longest that a write waits for the one before it.
    """

    def __init__(
        self, record: Record, indexes: Indexes, metrics: Metrics, *, answers: Answers, patience_seconds: float
    ) -> None:
        self.record = record
        self.indexes = indexes
        self._metrics = metrics
        self._answers = answers
        self._writing = Turn(patience_seconds)
        # Taken before the other, around a change of the record and what the index is told of it.
        self._order = Turn(patience_seconds) if indexes.in_order else nullcontext()
        self._scrub_due = False

    def load(self) -> None:
        """Makes every gallery searchable."""
        self.indexes.load()

    def put_gallery(self, name: str, spec: GallerySpec) -> bool:
        """Makes a gallery; true when it is new, false when it was there, alike.

        Raises:
            Conflict: it exists with another contract (ContractMismatch) or another threshold.
        """
        with self._order:
            with self._writing, self._metrics.step("record"):
                gallery, new = self.record.put_gallery(name, spec)
            if new:
                self.indexes.made(gallery)
        return new

    def enroll(
        self, gallery_name: str, subject: str, sent: Sequence[NewTemplate], once: Once | None = None
    ) -> EnrollAnswer:
        """Stores templates of a subject, all or none; committed and searchable when this returns.

        Args:
            gallery_name: where.
            subject: whose.
            sent: the templates.
            once: noted with them, where the request is to be done once.

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
        with self._order:
            self.indexes.of(gallery)  # what could not be searched is not stored either
            with self._writing, self._metrics.step("record"), self._in_doubt(gallery):
                added = self.record.add_templates(gallery, subject, rows, also=partial(self._answers.note, once=once))
            if len(added.ids):
                self.indexes.added(gallery, added.ids, added.vectors)
            if len(added.ids) < len(rows):
                self.indexes.added_before(gallery, [row.uid for row in rows])
        return EnrollAnswer(subject=subject, templates=added.answers)

    def enroll_once(
        self, gallery_name: str, subject: str, sent: Sequence[NewTemplate], once: Once
    ) -> tuple[EnrollAnswer, bool]:
        """As ``enroll``, unless the request was done before: then its answer again, and true.

        Raises:
            Unprocessable: another request was done under the key.
            Conflict: the request is being worked on, or what it stored was erased since.
            PatronusError: as ``enroll`` says.
        """
        with self._answers.under_way(once):
            with self._metrics.step("record"):
                gallery = self.record.gallery(gallery_name)
                templates = self._answers.before(once, gallery, subject, [new.id for new in sent])
            if templates is None:
                return self.enroll(gallery_name, subject, sent, once), False
            self.indexes.of(gallery)  # lost meanwhile, it is made anew
            self.indexes.added_before(gallery, [new.id for new in sent])  # stored before, and now searchable
            return EnrollAnswer(subject=subject, templates=templates), True

    def erase_gallery(self, name: str) -> Erased:
        """Erases a gallery and all in it.

        Raises:
            NotFound: there is no such gallery.
            Overloaded: erased, but its bytes are still in the log of the record.
        """
        with self._order, self._writing:
            with self._metrics.step("record"), self._last_one_finished():
                gallery = self.record.gallery(name)
                with self._in_doubt(gallery):
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

    def pin_index(self, gallery_name: str, kind: IndexKind | None) -> IndexStats:
        """Chooses how a gallery is searched; None: by the number of its templates.

        Raises:
            NotFound: there is no such gallery.
        """
        with self._writing:
            gallery = self.record.pin_index(gallery_name, kind)
        self.indexes.pinned(gallery)
        return self.indexes.stats(gallery)

    def close(self) -> None:
        """Closes the record, once the write that runs is done."""
        order = self._order.however_long() if isinstance(self._order, Turn) else nullcontext()
        with order, self._writing.however_long():
            try:
                self._finish_last_erasure()
            except PatronusError:
                _log.warning("erased_bytes_left_in_log")  # the next start empties it
            self.indexes.close()
            self.record.database.close()

    def _erase(self, gallery_name: str, remove: Callable[[PinnedGallery], Removed]) -> Erased:
        with self._order, self._writing:
            with self._metrics.step("record"), self._last_one_finished():
                gallery = self.record.gallery(gallery_name)
                with self._in_doubt(gallery):
                    removed = remove(gallery)
            self.indexes.removed(gallery, removed.ids)
            self._scrub()
        return removed.erased

    @contextmanager
    def _last_one_finished(self) -> Iterator[None]:
        """Around an erasure: that nothing is there is not said before the bytes of what was there are overwritten."""
        try:
            yield
        except NotFound:
            self._finish_last_erasure()
            raise

    @contextmanager
    def _in_doubt(self, gallery: PinnedGallery) -> Iterator[None]:
        """Around a change of a gallery's templates: index and disk must not be left behind one that was committed."""
        try:
            yield
        except OutcomeUnknown:
            self._scrub_due = True
            self.indexes.doubtful(gallery)
            raise

    def _scrub(self) -> None:
        self._scrub_due = True
        with self._metrics.step("scrub"):
            self.record.database.scrub()
        self._scrub_due = False

    def _finish_last_erasure(self) -> None:
        if self._scrub_due:
            self._scrub()
