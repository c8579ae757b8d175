"""The store: the only module that writes the record and the index, so that the two agree."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime

from prometheus_client import Gauge

from cloud_service.commit import after_commit, before_commit
from cloud_service.envelopes import duplicate_id, new_vectors
from cloud_service.erasure.residue import Residue
from cloud_service.index.protocol import Indexes
from cloud_service.record.exclusive import WriteLock
from cloud_service.record.queries import PinnedGallery, Removed
from cloud_service.record.record import Record
from cloud_service.record.retention import Retention
from cloud_service.subjects.enrollment import Enrollment
from cloud_service.subjects.expiry import set_expiry
from cloud_service.subjects.moves import Moves
from shared.errors import NotFound, OutcomeUnknown
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.wire.cloud import (
    BulkEnrollAnswer,
    EnrollAnswer,
    GallerySpec,
    IndexKind,
    IndexStats,
    MoveAnswer,
    MoveRequest,
    NewTemplate,
    SubjectTemplates,
)
from shared.wire.common import Erased, Receipt, SubjectScore, Threshold

_log = get_logger(__name__)


class Store:
    """Galleries that can be written and searched.

    A write returns when it is committed *and* searchable. An erasure returns when it is committed and can no longer be
    returned, because every search joins its hits with the record; it says where its bytes are not overwritten yet.
    Writes run one at a time, and searches beside them. ``by`` is the id of the caller's API key, for the audit log;
    None is the service itself.

    Args:
        record: the truth.
        indexes: what is searched.
        residues: where erased bytes may remain.
        metrics: where steps are timed.
        write_timeout_s: the longest that a write waits for the one before it.
    """

    def __init__(
        self, record: Record, indexes: Indexes, residues: Sequence[Residue], metrics: Metrics, write_timeout_s: float
    ) -> None:
        self.record = record
        self.indexes = indexes
        self.retention = Retention(record)
        self._enrollment = Enrollment(record)
        self._moves = Moves(record)
        self._residues = residues
        self._metrics = metrics
        self._writing = WriteLock(write_timeout_s)
        # Taken before the other, around a change of the record and the call that passes it to the index.
        self._order = WriteLock(write_timeout_s) if indexes.in_order else nullcontext()
        self._unfinished: deque[Receipt] = deque()
        Gauge(
            "patronus_cloud_damaged_templates",
            "Stored templates that are known to be damaged: they are not compared",
            registry=metrics.registry,
        ).set_function(lambda: len(record.damaged_templates))
        Gauge(
            "patronus_cloud_erasure_pending_seconds",
            "Age of the oldest erasure whose overwritten bytes may still be somewhere; 0 if there is none",
            registry=metrics.registry,
        ).set_function(self._age_of_oldest)

    def put_gallery(self, name: str, spec: GallerySpec, by: str | None) -> bool:
        """Makes a gallery; returns false if the same one exists.

        Raises:
            Conflict: it exists with another contract (ContractMismatch) or another threshold.
        """
        with self._order:
            with self._writing, self._metrics.step("record"):
                gallery, new = self.record.put_gallery(name, spec, by)
            if new:
                self.indexes.made(gallery)
        return new

    def enroll(self, gallery_name: str, subject: str, sent: Sequence[NewTemplate], by: str | None) -> EnrollAnswer:
        """Stores templates of a subject, all or none; committed and searchable when this returns.

        Idempotent: a template whose id the subject has already is left as it is, and answered as stored before.

        Args:
            gallery_name: which gallery.
            subject: whose templates.
            sent: the templates.
            by: the id of the caller's API key, for the audit log.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: a template was made under another contract.
            ScoreChanged: the gallery's rule was changed meanwhile; nothing is stored.
            InvalidTemplate: a template is not a unit vector of the gallery's length.
            Unprocessable: an id occurs twice in the request.
            Conflict: another subject has a template with one of the ids, or the gallery or subject is full.
            IndexUnavailable: the templates could not be searched. They are stored if the reason is ``stored``.
        """
        return self._enroll(gallery_name, {subject: sent}, by)[0]

    def enroll_many(self, gallery_name: str, sent: Sequence[SubjectTemplates], by: str | None) -> BulkEnrollAnswer:
        """Stores templates of many subjects as ``enroll`` does, all or none.

        Raises:
            PatronusError: as ``enroll`` says.
        """
        return BulkEnrollAnswer(
            subjects=self._enroll(gallery_name, {each.subject: each.templates for each in sent}, by)
        )

    def _enroll(
        self, gallery_name: str, sent: Mapping[str, Sequence[NewTemplate]], by: str | None
    ) -> list[EnrollAnswer]:
        with self._metrics.step("record"):
            gallery = self.record.gallery(gallery_name)
        templates = {subject: new_vectors(gallery, some) for subject, some in sent.items()}
        uids = [uid for some in templates.values() for uid in some]
        if len(set(uids)) < len(uids):
            raise duplicate_id()
        with self._order:
            with before_commit():
                self.indexes.of(gallery)  # what could not be searched is not stored either
            with self._writing, self._metrics.step("record"), self._in_doubt(gallery):
                added = self._enrollment.add(gallery, templates, by)
            with after_commit("The templates are stored"):
                if added.change:
                    self.indexes.added(gallery, added.change)
                if any(one.stored == "before" for each in added.answers for one in each.templates):
                    self.indexes.added_before(gallery, uids)
        return added.answers

    def move(
        self, gallery_name: str, subject: str, wanted: MoveRequest, by: str | None, contract: str | None = None
    ) -> MoveAnswer:
        """Moves templates of a subject under another name; committed, and found under that, when this returns.

        Raises:
            PatronusError: as ``Moves.move`` says. IndexUnavailable: the index is away, and nothing was moved.
        """
        with self._order:
            gallery = self.record.gallery(gallery_name)
            with before_commit():
                self.indexes.of(gallery)
            with self._writing:
                with self._metrics.step("record"), self._in_doubt(gallery):
                    answer, change = self._moves.move(gallery, subject, wanted, by, contract)
                self._forget(gallery, Removed(0, 0, answer.receipt, change))
        return answer

    def set_expiry(
        self, gallery_name: str, subject: str, moment: datetime | None, by: str | None, contract: str | None = None
    ) -> None:
        """Sets when a subject expires; None: only by the gallery's age.

        Raises:
            PatronusError: as ``cloud_service.subjects.expiry.set_expiry`` says.
        """
        with self._writing, self._metrics.step("record"):
            set_expiry(self.record, self.record.gallery(gallery_name), subject, moment, by, contract)

    def erase_gallery(self, name: str, by: str | None) -> Erased:
        """Erases a gallery and all in it.

        Raises:
            NotFound: there is no such gallery.
        """
        with self._order, self._writing:
            with self._metrics.step("record"):
                gallery = self.record.gallery(name)
                with self._in_doubt(gallery):
                    gallery, removed = self.record.erase_gallery(gallery, by)
            self.indexes.dropped(gallery)
            return self._overwrite(removed)

    def erase_subject(
        self, gallery_name: str, subject: str, by: str | None, uid: str | None = None, contract: str | None = None
    ) -> Erased:
        """Erases a subject and all of its templates, or the one template and its subject with the last one.

        Raises:
            PatronusError: as ``Record.erase_subject`` says.
        """
        with self._order, self._writing:
            with self._metrics.step("record"):
                gallery = self.record.gallery(gallery_name)
                with self._in_doubt(gallery):
                    removed = self.record.erase_subject(gallery, subject, by, uid, contract)
            return self._forget(gallery, removed)

    def set_retention(self, gallery_name: str, max_age_seconds: int | None, by: str | None) -> None:
        """Changes how long a gallery keeps templates; None: until they are erased.

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
        """Erases some of the templates that have expired; returns whether there may be more."""
        try:
            if not self.retention.overdue(gallery):
                return False
            with self._order, self._writing, self._metrics.step("expire"):
                gallery = self.record.gallery(gallery.name)  # its key may have changed, and so its index
                with self._in_doubt(gallery):
                    removed = self.retention.erase_expired(gallery, at_most)
                if removed is not None:
                    self._forget(gallery, removed)
        except NotFound:  # the gallery was erased meanwhile
            return False
        return removed is not None and self.retention.overdue(gallery)

    def redate(self, gallery: PinnedGallery) -> None:
        """Dates templates from the future, stored by a clock that was wrong, to now."""
        try:
            with self._writing:
                redated = self.retention.redate(gallery)
        except NotFound:  # the gallery was erased meanwhile
            return
        if redated:
            _log.warning("templates_redated", templates=redated)

    def pending(self, receipt: Receipt) -> list[str]:
        """Names what may still hold bytes that an erasure removed."""
        return [residue.name for residue in self._residues if residue.holds(receipt)]

    def finish_erasures(self) -> None:
        """Overwrites what could not be overwritten when erased, without waiting."""
        for residue in self._residues:
            with self._writing:
                residue.finish()
        with self._writing:
            while self._unfinished and not self.pending(self._unfinished[0]):
                self._unfinished.popleft()

    def change_score(self, gallery_name: str, score: SubjectScore, by: str | None) -> None:
        """Changes how a gallery compares subjects of several templates; the same again changes nothing.

        Searches in progress are begun again. The index is made anew, and searches wait for it meanwhile.

        Raises:
            NotFound: there is no such gallery.
            Conflict: a change of its key is under way.
            IndexUnavailable: the index is away, and nothing was changed; or, with the reason ``stored``, the change is
                stored and the index will follow.
        """
        with self._order:
            gallery = self.record.gallery(gallery_name)
            with before_commit():
                self.indexes.of(gallery)
            with self._writing, self._metrics.step("record"), self._in_doubt(gallery):
                before, after = self.record.change_score(gallery, score, by)
            if after is not before:
                with after_commit("The rule is stored"):
                    self.indexes.regrouped(before, after)

    def change_threshold(self, gallery_name: str, threshold: Threshold, by: str | None) -> None:
        """Changes a gallery's threshold; answers begun before keep the one that they began with.

        Raises:
            NotFound: there is no such gallery.
        """
        with self._writing, self._metrics.step("record"):
            self.record.change_threshold(self.record.gallery(gallery_name), threshold, by)

    def pin_index(self, gallery_name: str, kind: IndexKind | None) -> IndexStats:
        """Chooses how a gallery is searched; None: by the number of its templates.

        Raises:
            NotFound: there is no such gallery.
            IndexUnavailable: the index is away, and nothing was chosen; or, with the reason ``stored``, the choice is
                stored and the index will follow.
        """
        with before_commit():
            self.indexes.of(self.record.gallery(gallery_name))  # what could not be done is not chosen either
        with self._writing:
            gallery = self.record.pin_index(gallery_name, kind)
        with after_commit("The choice is stored"):
            self.indexes.pinned(gallery)
            return self.indexes.stats(gallery)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the write lock, for a step of a change of key or the end; waits without limit."""
        order = self._order.however_long() if isinstance(self._order, WriteLock) else nullcontext()
        with order, self._writing.however_long():
            yield

    def scrub(self) -> None:
        """Empties the record's log of what was overwritten, and overwrites what else the engine left of it.

        Raises:
            Overloaded: a reader holds an old state of the record.
        """
        with self._writing.however_long():
            self.record.database.scrub(whole=True)

    def close(self) -> None:
        """Closes the record after the write in progress; the next start empties its log."""
        with self.writing():
            for residue in self._residues:
                residue.finish()
            self.indexes.close()
            self.record.database.close()

    @contextmanager
    def _in_doubt(self, gallery: PinnedGallery) -> Iterator[None]:
        """Has index and residues checked later if the outcome of a change is unknown."""
        try:
            yield
        except OutcomeUnknown:
            for residue in self._residues:
                residue.doubtful()
            self.indexes.doubtful(gallery)
            raise

    def _forget(self, gallery: PinnedGallery, removed: Removed) -> Erased:
        self.indexes.removed(gallery, removed.change)
        return self._overwrite(removed)

    def _overwrite(self, removed: Removed) -> Erased:
        with self._metrics.step("scrub"):
            for residue in self._residues:
                residue.erased(removed.receipt)
        pending = self.pending(removed.receipt)
        if pending:
            self._unfinished.append(removed.receipt)
            _log.warning("erased_bytes_remain", erasure=removed.receipt.id, where=", ".join(pending))
        return Erased(subjects=removed.subjects, templates=removed.templates, receipt=removed.receipt, pending=pending)

    def _age_of_oldest(self) -> float:
        unfinished = tuple(self._unfinished)  # other threads change it
        return (datetime.now(UTC) - unfinished[0].at).total_seconds() if unfinished else 0
