"""The record: which galleries, subjects and templates there are.

Only the store calls what writes here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, select, update

from cloud_service.audit.log import Action, append_for
from cloud_service.clock import RecordClock
from cloud_service.entries.changes import entries_of, regroup, renewed
from cloud_service.entries.queries import Entries
from cloud_service.record.checksums import KnownDamage
from cloud_service.record.database import Database
from cloud_service.record.queries import (
    EntryChange,
    PinnedGallery,
    Removed,
    find_subject,
    galleries_where,
    hold_gallery,
    in_parts,
    joined,
    no_change,
    pinned_from,
    pinned_where,
    refuse_other,
    refuse_rekeyed,
    renew_checksum,
    touch_subjects,
)
from cloud_service.record.tables import gallery, rekeyed, subject, template
from cloud_service.record.template_queries import Vectors
from shared.errors import Conflict, ContractMismatch, NotFound
from shared.logs import get_logger
from shared.wire.cloud import GallerySpec, IndexKind
from shared.wire.common import SubjectScore, Threshold

_log = get_logger(__name__)


class Journal(Protocol):
    """What an index writes down with each change of entries, within its transaction.

    ``ids`` are the (n,) int64 ids of the entries, n at least 1.
    """

    def added(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Called when entries are added."""

    def removed(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Called when entries are removed."""

    def dropped(self, connection: Connection, pinned: PinnedGallery) -> None:
        """Called when all entries of a gallery go: it is erased, or its key or its rule is changed."""


class Record:
    """Galleries, subjects and templates in SQL.

    Args:
        database: where they are.
        journal: what is written with each change.
        max_templates_a_gallery: the most that one gallery may hold.
        max_templates_a_subject: the most that one subject may have.
        clock: by what time templates age.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        max_templates_a_gallery: int,
        max_templates_a_subject: int,
        clock: RecordClock,
    ) -> None:
        self.database = database
        self.clock = clock
        self.journal = journal
        # Numbers of the galleries whose rows were found damaged when all were last looked at.
        self.damaged_galleries: list[int] = []
        self.damaged_templates = KnownDamage()
        self.vectors = Vectors(database, self.damaged_templates)
        self.entries = Entries(database, clock, self.damaged_templates)
        self.max_templates_a_gallery = max_templates_a_gallery
        self.max_templates_a_subject = max_templates_a_subject

    def gallery(self, name: str) -> PinnedGallery:
        """The gallery of this name.

        Raises:
            NotFound: there is none.
        """
        with self.database.read() as connection:
            return pinned_where(connection, gallery.c.name == name)

    def require(self, pinned: PinnedGallery) -> None:
        """Checks that a gallery is still there, and under the same key and rule.

        Raises:
            NotFound: it was erased meanwhile, whatever may bear its name now.
            ContractMismatch: its key was changed meanwhile. ScoreChanged: its rule was.
        """
        with self.database.read() as connection:
            refuse_rekeyed(pinned, pinned_where(connection, gallery.c.id == pinned.id))

    def galleries(self) -> list[PinnedGallery]:
        """All galleries with a sound row, by id; the others are in ``damaged_galleries``."""
        with self.database.read() as connection:
            sound, damaged = galleries_where(connection)
        if damaged != self.damaged_galleries:
            self.damaged_galleries = damaged
            _log.error("galleries_damaged", rows=", ".join(map(str, damaged)))
        return sound

    def find(self, gallery_id: int) -> PinnedGallery | None:
        """The gallery of this id; None: it was erased.

        Raises:
            RecordDamaged: its row is not what was written.
        """
        try:
            with self.database.read() as connection:
                return pinned_where(connection, gallery.c.id == gallery_id)
        except NotFound:
            return None

    def put_gallery(self, name: str, spec: GallerySpec, by: str | None) -> tuple[PinnedGallery, bool]:
        """Makes a gallery, or finds it made alike; says which: true when it is new.

        One that is there keeps its own rule, and its kind of names.

        Raises:
            ContractMismatch: it exists with another contract.
            Conflict: it exists with another threshold.
        """
        digest = spec.contract.digest()
        with self.database.write() as connection:
            found = connection.execute(select(gallery).where(gallery.c.name == name)).first()
            if found is None:
                made = insert(gallery).values(
                    name=name,
                    contract=spec.contract.model_dump(mode="json"),
                    contract_digest=digest,
                    dim=spec.contract.dim,
                    threshold_cosine=spec.threshold.cosine,
                    threshold_fmr=spec.threshold.fmr,
                    score=spec.score.model_dump(mode="json"),
                    sealed_names=spec.sealed_names,
                    created_at=self.clock.now(),
                )
                renew_checksum(connection, int(connection.scalars(made.returning(gallery.c.id)).one()))
            pinned = pinned_where(connection, gallery.c.name == name)
            if found is None:
                append_for(connection, pinned, Action.GALLERY_MADE, by, contract=digest)
        if pinned.contract_digest != digest:
            raise ContractMismatch(
                "The gallery exists under another profile, embedder or key; choose another name, or use its own edge.",
                expected=pinned.contract_digest,
                given=digest,
            )
        if (pinned.threshold.cosine.value, pinned.fmr) != (spec.threshold.cosine, spec.threshold.fmr):
            raise Conflict(
                "The gallery exists with another threshold; send the one it has, or use another name.",
                reason="threshold_differs",
            )
        return pinned, found is None

    def change_score(
        self, pinned: PinnedGallery, score: SubjectScore, by: str | None
    ) -> tuple[PinnedGallery, PinnedGallery]:
        """Changes how a gallery compares subjects; returns the gallery as it was, and as it is.

        Raises:
            NotFound: the gallery was erased meanwhile.
            Conflict: a change of its key is under way.
        """
        with self.database.write(long=True) as connection:
            row = hold_gallery(connection, pinned.id)
            before = pinned_from(row)
            if before.score == score:
                return before, before
            if row.next_contract is not None:
                raise Conflict(
                    "A change of this gallery's key is under way; wait, or abandon it, and then change its rule.",
                    reason="rekey_under_way",
                )
            self.journal.dropped(connection, before)
            regroup(connection, row, one_a_subject=score.rule == "mean")
            values = {"score": score.model_dump(mode="json"), "score_version": before.score_version + 1}
            connection.execute(update(gallery).where(gallery.c.id == pinned.id).values(values))
            renew_checksum(connection, pinned.id)
            exponents = " ".join(map(repr, score.exponents))
            append_for(connection, before, Action.SCORE_CHANGED, by, rule=score.rule, exponents=exponents)
            return before, pinned_from(hold_gallery(connection, pinned.id))

    def change_threshold(self, pinned: PinnedGallery, threshold: Threshold, by: str | None) -> None:
        """Changes a gallery's threshold and its stated rate; the same again changes nothing.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        with self.database.write() as connection:
            before = pinned_from(hold_gallery(connection, pinned.id))
            was = before.threshold.cosine.value, before.fmr
            if was == (threshold.cosine, threshold.fmr):
                return
            values = {"threshold_cosine": threshold.cosine, "threshold_fmr": threshold.fmr}
            connection.execute(update(gallery).where(gallery.c.id == pinned.id).values(values))
            renew_checksum(connection, pinned.id)
            now = {"cosine": repr(threshold.cosine), "fmr": repr(threshold.fmr)}
            earlier = {"cosine_before": repr(was[0]), "fmr_before": repr(was[1])}
            append_for(connection, before, Action.THRESHOLD_CHANGED, by, **now, **earlier)

    def erase_gallery(self, pinned: PinnedGallery, by: str | None) -> tuple[PinnedGallery, Removed]:
        """Removes a gallery and all in it; returns the gallery as it was then.

        Raises:
            NotFound: it was erased meanwhile.
        """
        with self.database.write(long=True) as connection:
            pinned = pinned_from(hold_gallery(connection, pinned.id))
            subjects, templates = self.remove_gallery(connection, pinned)
            receipt = append_for(connection, pinned, Action.GALLERY_ERASED, by, subjects=subjects, templates=templates)
        return pinned, Removed(subjects, templates, receipt, no_change(pinned.dim))

    def remove_gallery(self, connection: Connection, pinned: PinnedGallery) -> tuple[int, int]:
        """Removes a gallery within a transaction; returns how many subjects and templates.

        Raises:
            NotFound: it was erased meanwhile.
        """
        templates = int(hold_gallery(connection, pinned.id).templates)
        subjects = _count(connection, subject.c.gallery_id == pinned.id)
        self.journal.dropped(connection, pinned)
        connection.execute(delete(rekeyed).where(rekeyed.c.gallery_id == pinned.id))
        connection.execute(delete(template).where(template.c.gallery_id == pinned.id))
        connection.execute(delete(subject).where(subject.c.gallery_id == pinned.id))
        connection.execute(delete(gallery).where(gallery.c.id == pinned.id))
        return subjects, templates

    def erase_subject(
        self, pinned: PinnedGallery, name: str, by: str | None, uid: str | None = None, contract: str | None = None
    ) -> Removed:
        """Removes a subject and all of its templates, or one template and its subject with the last one.

        Args:
            pinned: the gallery.
            name: of the subject.
            by: the id of the caller's API key, for the audit log.
            uid: the id on the wire of the one template; None: all.
            contract: as ``refuse_other`` takes it.

        Raises:
            NotFound: there is no such subject, or it has no such template.
            ContractMismatch: the gallery has another contract. Unprocessable: it has names of the other kind.
        """
        action = Action.SUBJECT_ERASED if uid is None else Action.TEMPLATE_ERASED
        with self.database.write() as connection:
            pinned = pinned_from(hold_gallery(connection, pinned.id))
            refuse_other(pinned, contract, name)
            subject_id = find_subject(connection, pinned.id, name)
            which = template.c.subject_id == subject_id
            details = marked(connection, subject_id)
            if uid is not None:
                which, details = which & (template.c.uid == uid), {"subject": details["subject"], "template": uid}
            templates, gone, change = self.remove(connection, pinned, which, [subject_id])
            if uid is not None and not templates:
                raise NotFound("The subject has no template with this id.", reason="unknown_template")
            receipt = append_for(connection, pinned, action, by, **details, subjects=gone, templates=templates)
        return Removed(gone, templates, receipt, change)

    def remove(
        self, connection: Connection, pinned: PinnedGallery, which: ColumnElement[bool], subject_ids: Collection[int]
    ) -> tuple[int, int, EntryChange]:
        """Removes templates, and those of the subjects that have none left.

        The transaction holds the gallery.

        Args:
            connection: in that transaction.
            pinned: the gallery, as it is in it.
            which: of the templates.
            subject_ids: of all subjects that these belong to.

        Returns:
            how many templates and subjects are gone, and what to change in the index.
        """
        before = entries_of(connection, pinned, subject_ids)
        ids = np.array(list(connection.scalars(delete(template).where(which).returning(template.c.id))), dtype=np.int64)
        bare = ~exists().where(template.c.subject_id == subject.c.id)
        gone = set(
            connection.scalars(delete(subject).where(subject.c.id.in_(list(subject_ids)), bare).returning(subject.c.id))
        )
        if not len(ids):
            return 0, len(gone), no_change(pinned.dim)
        hold_gallery(connection, pinned.id, -len(ids), subjects=-len(gone))
        left = [one for one in subject_ids if one not in gone]
        touch_subjects(connection, pinned.id, left, removed=bool(gone))
        change = no_change(pinned.dim, ids)
        if pinned.one_entry_a_subject:
            change = renewed(connection, self.entries, pinned, before, left)
        self.note(connection, pinned, change)
        return len(ids), len(gone), change

    def remove_rows(
        self, connection: Connection, pinned: PinnedGallery, rows: Sequence[Any]
    ) -> tuple[int, EntryChange]:
        """Removes templates as ``remove`` does, by rows with ``id`` and ``subject_id``.

        Returns:
            how many subjects are gone, and what to change in the index.
        """
        gone, changes = 0, [no_change(pinned.dim)]
        # By subject, so that each has its rows in few parts, and few means of it are made in between.
        for part in in_parts(sorted(rows, key=attrgetter("subject_id"))):
            which = template.c.id.in_([row.id for row in part])
            _, subjects, change = self.remove(connection, pinned, which, {row.subject_id for row in part})
            gone += subjects
            changes.append(change)
        return gone, joined(changes)

    def pin_index(self, name: str, kind: IndexKind | None) -> PinnedGallery:
        """Writes down how a gallery shall be searched; None: by the number of its templates.

        Raises:
            NotFound: there is no such gallery.
        """
        with self.database.write() as connection:
            connection.execute(update(gallery).where(gallery.c.name == name).values(index_kind=kind))
            return pinned_where(connection, gallery.c.name == name)

    def note(self, connection: Connection, pinned: PinnedGallery, change: EntryChange) -> None:
        """Has the journal note a change of entries, in its transaction."""
        if len(change.removed):
            self.journal.removed(connection, pinned, change.removed)
        if len(change.ids):
            self.journal.added(connection, pinned, change.ids)


def marked(connection: Connection, subject_id: int) -> dict[str, str]:
    """What an audit entry about the erasure of a whole subject says of it.

    Its mark, and the ids of the templates that came from other subjects: a backup may hold them under those.
    """
    mark = connection.scalars(select(subject.c.mark).where(subject.c.id == subject_id)).one()
    came = select(template.c.uid).where(template.c.subject_id == subject_id, template.c.moved).order_by(template.c.id)
    moved = " ".join(connection.scalars(came))
    return {"subject": mark} | ({"moved": moved} if moved else {})


def _count(connection: Connection, which: ColumnElement[bool]) -> int:
    return int(connection.scalar(select(func.count()).where(which)) or 0)
