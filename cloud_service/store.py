"""The store: the only place that writes the record and the index, and so keeps them in step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial

from prometheus_client import Gauge

from cloud_service.envelopes import open_for
from cloud_service.erasure.residue import Residue
from cloud_service.index.protocol import Indexes
from cloud_service.record.exclusive import WriteLock
from cloud_service.record.queries import NewRow, PinnedGallery, Removed
from cloud_service.record.record import Record
from cloud_service.record.replies import Answers, Once
from cloud_service.record.retention import Retention
from shared.errors import IndexUnavailable, NotFound, OutcomeUnknown, Overloaded, RecordUnavailable, Unprocessable
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.wire.cloud import EnrollAnswer, GallerySpec, IndexKind, IndexStats, NewTemplate
from shared.wire.common import Erased, Receipt

_log = get_logger(__name__)

_STORED = "The templates are stored"


@contextmanager
def _before_commit() -> Iterator[None]:
    """Around what must be possible before anything is stored.

    Raises:
        IndexUnavailable: it is not; ``reason`` is ``not_stored``.
    """
    try:
        yield
    except IndexUnavailable as error:
        raise IndexUnavailable(
            "The index cannot be reached or is being made: nothing was stored. Send the same again in a moment.",
            reason="not_stored",
            retry_after_s=error.retry_after_s,
        ) from error


@contextmanager
def after_commit(what: str) -> Iterator[None]:
    """Around what follows a commit: whatever fails there is told as what it is, and not as if nothing were stored.

    Args:
        what: was committed, as the subject of a sentence.

    Raises:
        IndexUnavailable: the index or the record went away; ``reason`` is ``stored``.
    """
    try:
        yield
    except (IndexUnavailable, RecordUnavailable, Overloaded) as error:
        raise IndexUnavailable(
            f"{what}, but the index cannot be reached or is being made, so it is not in effect for searches yet. It "
            "will be by itself; send the same again in a moment to see whether it is.",
            reason="stored",
            retry_after_s=error.retry_after_s,
        ) from error


class Store:
    """Galleries that can be written and searched.

    A write returns when it is committed *and* searchable; an erasure, when it is committed and can no longer be
    returned (whoever searches joins each hit with the record), and says where its bytes are not overwritten yet. One
    write at a time; searches go on meanwhile. ``by`` is the id of the API key that asks, for the audit log; None is the
    service itself.

    Args:
        record: the truth.
        indexes: what is searched.
        residues: where bytes of what was erased may linger.
        metrics: where steps are timed.
        answers: which requests were done already.
        patience_seconds: the longest that a write waits for the one before it.
    """

    def __init__(
        self,
        record: Record,
        indexes: Indexes,
        residues: Sequence[Residue],
        metrics: Metrics,
        *,
        answers: Answers,
        patience_seconds: float,
    ) -> None:
        self.record = record
        self.indexes = indexes
        self.retention = Retention(record)
        self._residues = residues
        self._metrics = metrics
        self._answers = answers
        self._writing = WriteLock(patience_seconds)
        # Taken before the other, around a change of the record and what the index is told of it.
        self._order = WriteLock(patience_seconds) if indexes.in_order else nullcontext()
        self._lingering: deque[Receipt] = deque()
        Gauge(
            "patronus_cloud_damaged_templates",
            "Stored templates that are known to be damaged: they are not compared",
            registry=metrics.registry,
        ).set_function(lambda: len(record.damaged_templates))
        self._age_of_oldest = Gauge(
            "patronus_cloud_erasure_pending_seconds",
            "Age of the oldest erasure of which overwritten bytes may still be somewhere; 0 where there is none",
            registry=metrics.registry,
        )

    def load(self) -> None:
        """Makes every gallery searchable."""
        self.indexes.load()

    def put_gallery(self, name: str, spec: GallerySpec, by: str | None) -> bool:
        """Makes a gallery; true when it is new, false when it was there, alike.

        Raises:
            Conflict: it exists with another contract (ContractMismatch) or another threshold.
        """
        with self._order:
            with self._writing, self._metrics.step("record"):
                gallery, new = self.record.put_gallery(name, spec, by)
            if new:
                self.indexes.made(gallery)
        return new

    def enroll(
        self,
        gallery_name: str,
        subject: str,
        sent: Sequence[NewTemplate],
        by: str | None,
        once: Once | None = None,
    ) -> EnrollAnswer:
        """Stores templates of a subject, all or none; committed and searchable when this returns.

        Args:
            gallery_name: where.
            subject: whose.
            sent: the templates.
            by: the id of the caller's API key, for the audit log.
            once: noted with them, where the request is to be done once.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: a template was made under another contract.
            InvalidTemplate: a template is not a unit vector of the gallery's length.
            Unprocessable: an id stands in the request twice.
            Conflict: an id is taken by another template, or the gallery or subject is full.
            IndexUnavailable: the templates could not be searched. They are stored where the reason is ``stored``.
        """
        with self._metrics.step("record"):
            gallery = self.record.gallery(gallery_name)
        vectors = open_for(gallery, (new.template for new in sent))
        rows = [NewRow(new.id, vector) for new, vector in zip(sent, vectors, strict=True)]
        if len({row.uid for row in rows}) < len(rows):
            raise Unprocessable("A template id stands in the request twice; give each its own.", reason="duplicate_id")
        with self._order:
            with _before_commit():
                self.indexes.of(gallery)  # what could not be searched is not stored either
            also = partial(self._answers.note, once=once)
            with self._writing, self._metrics.step("record"), self._in_doubt(gallery):
                added = self.record.add_templates(gallery, subject, rows, by, also)
            with after_commit(_STORED):
                if len(added.ids):
                    self.indexes.added(gallery, added.ids, added.vectors)
                if len(added.ids) < len(rows):
                    self.indexes.added_before(gallery, [row.uid for row in rows])
        return EnrollAnswer(subject=subject, templates=added.answers)

    def enroll_once(
        self, gallery_name: str, subject: str, sent: Sequence[NewTemplate], by: str | None, once: Once
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
                return self.enroll(gallery_name, subject, sent, by, once), False
            with after_commit(_STORED):
                self.indexes.of(gallery)  # lost meanwhile, it is made anew
                self.indexes.added_before(gallery, [new.id for new in sent])  # stored before, and now searchable
            return EnrollAnswer(subject=subject, templates=templates), True

    def erase_gallery(self, name: str, by: str | None) -> Erased:
        """Erases a gallery and all in it.

        Raises:
            NotFound: there is no such gallery.
        """
        with self._order, self._writing:
            with self._metrics.step("record"):
                gallery = self.record.gallery(name)
                with self._in_doubt(gallery):
                    gallery, removed = self.record.erase_gallery(name, by)
            self.indexes.dropped(gallery)
            return self._answer(removed)

    def erase_subject(self, gallery_name: str, subject: str, by: str | None) -> Erased:
        """Erases a subject and all of its templates.

        Raises:
            NotFound: there is no such gallery or subject.
        """
        return self._erase(gallery_name, lambda gallery: self.record.erase_subject(gallery, subject, by))

    def erase_template(self, gallery_name: str, subject: str, uid: str, by: str | None) -> Erased:
        """Erases a template, and its subject with the last one.

        Raises:
            NotFound: there is no such gallery, subject or template.
        """
        return self._erase(gallery_name, lambda gallery: self.record.erase_template(gallery, subject, uid, by))

    def set_retention(self, gallery_name: str, max_age_seconds: int | None, by: str | None) -> None:
        """Changes how long a gallery keeps templates; None: until they are erased. Holds when this returns.

        What has expired by the old rule is erased first.

        Raises:
            NotFound: there is no such gallery.
        """
        with self._order, self._writing, self._metrics.step("record"):
            self.record.clock.observe(self.retention.time_seen())
            gallery = self.record.gallery(gallery_name)
            with self._in_doubt(gallery):
                gallery, removed = self.retention.change(gallery, max_age_seconds, by)
            if removed is not None:
                self._forget(gallery, removed)

    def erase_expired(self, gallery: PinnedGallery, at_most: int) -> bool:
        """Erases some of the templates that have expired; whether there may be more."""
        try:
            if not self.retention.overdue(gallery):
                return False
            with self._order, self._writing, self._metrics.step("expire"):
                with self._in_doubt(gallery):
                    removed = self.retention.erase_expired(gallery, at_most)
                if removed is not None:
                    self._forget(gallery, removed)
        except NotFound:  # the gallery was erased meanwhile
            return False
        return removed is not None and removed.templates == at_most

    def redate(self, gallery: PinnedGallery) -> None:
        """Has templates that bear a time which is yet to come, from a clock that was wrong, stored now."""
        try:
            with self._writing:
                redated = self.retention.redate(gallery)
        except NotFound:  # the gallery was erased meanwhile
            return
        if redated:
            _log.warning("templates_redated", templates=redated)

    def pending(self, receipt: Receipt) -> list[str]:
        """Where bytes of what an erasure removed may still be."""
        return [residue.name for residue in self._residues if residue.holds(receipt)]

    def finish_erasures(self) -> None:
        """Overwrites what could not be overwritten when it was erased, as far as that can be done without waiting."""
        for residue in self._residues:
            with self._writing:
                residue.finish()
        with self._writing:
            while self._lingering and not self.pending(self._lingering[0]):
                self._lingering.popleft()
            self._tell_age()

    def pin_index(self, gallery_name: str, kind: IndexKind | None) -> IndexStats:
        """Chooses how a gallery is searched; None: by the number of its templates.

        Raises:
            NotFound: there is no such gallery.
            IndexUnavailable: the index is away, and nothing was chosen; or with the reason ``stored``, it was chosen,
                and the index is yet to be made so.
        """
        with _before_commit():
            self.indexes.of(self.record.gallery(gallery_name))  # what could not be done is not chosen either
        with self._writing:
            gallery = self.record.pin_index(gallery_name, kind)
        with after_commit("The choice is stored"):
            self.indexes.pinned(gallery)
            return self.indexes.stats(gallery)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The right to write, for a step of a change of key; waits for it until it comes."""
        order = self._order.however_long() if isinstance(self._order, WriteLock) else nullcontext()
        with order, self._writing.however_long():
            yield

    def scrub(self) -> None:
        """Empties the record's log of what was overwritten.

        Raises:
            Overloaded: somebody reads an old state of the record.
        """
        with self._writing.however_long():
            self.record.database.scrub()

    def close(self) -> None:
        """Closes the record, once the write that runs is done. What is left in its log, the next start overwrites."""
        order = self._order.however_long() if isinstance(self._order, WriteLock) else nullcontext()
        with order, self._writing.however_long():
            for residue in self._residues:
                residue.finish()
            self.indexes.close()
            self.record.database.close()

    def _erase(self, gallery_name: str, remove: Callable[[PinnedGallery], Removed]) -> Erased:
        with self._order, self._writing:
            with self._metrics.step("record"):
                gallery = self.record.gallery(gallery_name)
                with self._in_doubt(gallery):
                    removed = remove(gallery)
            return self._forget(gallery, removed)

    @contextmanager
    def _in_doubt(self, gallery: PinnedGallery) -> Iterator[None]:
        """Around a change of a gallery's templates: index and disk must not be left behind one that was committed."""
        try:
            yield
        except OutcomeUnknown:
            for residue in self._residues:
                residue.doubtful()
            self.indexes.doubtful(gallery)
            raise

    def _forget(self, gallery: PinnedGallery, removed: Removed) -> Erased:
        self.indexes.removed(gallery, removed.ids)
        return self._answer(removed)

    def _answer(self, removed: Removed) -> Erased:
        with self._metrics.step("scrub"):
            for residue in self._residues:
                residue.erased(removed.receipt)
        pending = self.pending(removed.receipt)
        if pending:
            self._lingering.append(removed.receipt)
            self._tell_age()
            _log.warning("erased_bytes_linger", erasure=removed.receipt.id, where=", ".join(pending))
        return Erased(subjects=removed.subjects, templates=removed.templates, receipt=removed.receipt, pending=pending)

    def _tell_age(self) -> None:
        oldest = self._lingering[0].at if self._lingering else None
        self._age_of_oldest.set((datetime.now(UTC) - oldest).total_seconds() if oldest else 0)
