"""Erases from a restored record what was erased since its backup was taken."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, false, select

from cloud_service.audit.log import Action, append, marker
from cloud_service.erasure.erasure_list import ErasureList, KnownErasure, details_of, erasures_in
from cloud_service.record.queries import PinnedGallery, in_parts, pinned_from
from cloud_service.record.record import Record
from cloud_service.record.tables import audit, gallery, subject, template
from shared.errors import SetupError


@dataclass(frozen=True, slots=True)
class Repeated:
    """How many erasures were repeated, and how many subjects and templates they removed."""

    erasures: int = 0
    subjects: int = 0
    templates: int = 0

    def __add__(self, other: Repeated) -> Repeated:
        return Repeated(
            self.erasures + other.erasures, self.subjects + other.subjects, self.templates + other.templates
        )


def repeat_erasures(record: Record, connection: Connection, listed: ErasureList, *, descends: bool = False) -> Repeated:
    """Repeats the erasures of a list that a record does not know of, and adds each to its audit log.

    Each is added also where nothing is left to erase, so that the next restore knows of it too.

    Args:
        record: what is erased from.
        connection: in a transaction that writes; nobody else uses the record.
        listed: of the same record, at another time.
        descends: whether the list is of a log that goes on where this record's log ends, so that all in this record
            was there before each of the erasures. Otherwise the times decide.

    Raises:
        SetupError: the list is of another record. RecordDamaged: the record's log cannot be read.
    """
    mine = erasures_in(connection)
    if listed.record != mine.record:
        raise SetupError("The list of erasures is of another record; nothing was changed.")
    known = {one.entry for one in mine.erasures}
    last = None if descends else connection.scalar(select(audit.c.at).order_by(audit.c.seq.desc()).limit(1))
    repeater = _Repeater(record, connection)
    new = sorted((one for one in listed.erasures if one.entry not in known), key=lambda one: one.at)
    done = [repeater.repeat(one, descends or last is None or last <= one.at) for one in new]
    return Repeated(len(done), sum(subjects for subjects, _ in done), sum(templates for _, templates in done))


class _Repeater:
    """Erasures in one record, within one transaction."""

    def __init__(self, record: Record, connection: Connection) -> None:
        self._record = record
        self._connection = connection
        self._made: dict[int, str] = {
            int(row.details["gallery_id"]): row.digest
            for row in connection.execute(select(audit).where(audit.c.action == Action.GALLERY_MADE.value))
        }
        self._mark_of = marker(connection)
        # By gallery: the number of each subject by its mark.
        self._marks: dict[int, dict[str, int]] = {}

    def repeat(self, erasure: KnownErasure, all_before: bool) -> tuple[int, int]:
        """Erases, and adds an entry to the audit log; how many subjects and templates that were.

        Args:
            erasure: which.
            all_before: all in this record was stored before it; otherwise only what was stored by its time goes.
        """
        pinned = self._same(erasure)
        gone = (0, 0) if pinned is None else self._erase(pinned, erasure, all_before)
        details = details_of(erasure) | {"subjects": gone[0], "templates": gone[1]}
        append(self._connection, Action.ERASURE_REPEATED, by=None, gallery=erasure.gallery, details=details)
        return gone

    def _same(self, erasure: KnownErasure) -> PinnedGallery | None:
        """The very gallery that was erased from, not one of its name; None: it is not here."""
        if self._made.get(erasure.gallery_id) != erasure.made:
            return None
        which = (gallery.c.id == erasure.gallery_id) & (gallery.c.name == erasure.gallery)
        row = self._connection.execute(select(gallery).where(which)).first()
        return None if row is None else pinned_from(row)

    def _erase(self, pinned: PinnedGallery, erasure: KnownErasure, all_before: bool) -> tuple[int, int]:
        if erasure.action == "gallery_erased":
            return self._record.remove_gallery(self._connection, pinned)
        which = (template.c.gallery_id == pinned.id) & self._named(pinned, erasure)
        if not all_before:
            which &= template.c.created_at <= erasure.at
        rows = self._connection.execute(select(template.c.id, template.c.subject_id).where(which)).all()
        subjects = 0
        for part in in_parts(rows):
            ids = template.c.id.in_([row.id for row in part])
            subjects += self._record.remove(self._connection, pinned, ids, {row.subject_id for row in part})[1]
        return subjects, len(rows)

    def _named(self, pinned: PinnedGallery, erasure: KnownErasure) -> ColumnElement[bool]:
        """What an erasure named of a gallery's templates."""
        if erasure.action == "templates_expired":
            return false() if erasure.stored_until is None else template.c.created_at <= erasure.stored_until
        if erasure.action == "template_erased":
            return template.c.uid == erasure.template
        return template.c.subject_id == self._subjects(pinned).get(erasure.subject or "", 0)

    def _subjects(self, pinned: PinnedGallery) -> dict[str, int]:
        if pinned.id not in self._marks:
            here = select(subject.c.id, subject.c.name).where(subject.c.gallery_id == pinned.id)
            rows = self._connection.execute(here).all()
            self._marks[pinned.id] = {self._mark_of(pinned.id, row.name): row.id for row in rows}
        return self._marks[pinned.id]
