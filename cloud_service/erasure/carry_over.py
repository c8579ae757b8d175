"""Carries the erasures of a replaced record over into the restored one, and nothing else."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, false, select

from cloud_service.audit.check import reading
from cloud_service.audit.log import Action, append, head
from cloud_service.clock import RecordClock
from cloud_service.entries.changes import skip_used_ids
from cloud_service.erasure.erasure_list import (
    ErasureList,
    KnownErasure,
    details_of,
    erasures_in,
    load_erasures,
    record_mark,
)
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.database import Database
from cloud_service.record.opening import open_database
from cloud_service.record.queries import PinnedGallery, pinned_from
from cloud_service.record.record import Record
from cloud_service.record.tables import audit, gallery, subject, template
from cloud_service.settings import Settings
from shared.errors import PatronusError, SetupError


@dataclass(frozen=True, slots=True)
class Replaced:
    """The record that a backup replaces.

    Its erasures, the digests of its log's entries by their numbers, and the digests of its galleries' contracts by
    number and name.
    """

    erasures: ErasureList
    digests: dict[int, str]
    contracts: dict[tuple[int, str], str]


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


@dataclass(frozen=True, slots=True)
class CarriedOver:
    """What was carried over.

    ``known_from`` says where it is known from what was erased since the backup: ``record``, ``list``, ``record and
    list``; None: it is not known. ``other_key`` names the galleries whose key was changed since: it is again the one
    that they had. ``unread`` says why the audit log of the record that was replaced did not count; None: it did, or
    there is no such record.
    """

    repeated: Repeated
    known_from: str | None
    other_key: list[str]
    unread: str | None


def read_replaced(record: Path, *, required: bool) -> tuple[Replaced | None, str | None]:
    """The erasures of a record that is to be replaced.

    Args:
        record: the SQLite file.
        required: whether its erasures are known from nowhere else.

    Returns:
        the record, if there is one and its log can be read; and why its log is broken or cannot be read, without a
        full stop, where a list counts instead.

    Raises:
        SetupError: its log is broken or cannot be read, and its erasures are required.
    """
    if not record.exists():
        return None, None
    try:
        with reading(f"sqlite:///{record.resolve()}") as connection:
            digests = {row.seq: row.digest for row in connection.execute(select(audit.c.seq, audit.c.digest))}
            contracts = select(gallery.c.id, gallery.c.name, gallery.c.contract_digest)
            keys = {(row.id, row.name): row.contract_digest for row in connection.execute(contracts)}
            return Replaced(erasures_in(connection), digests, keys), None
    except PatronusError as error:
        why = error.detail.rstrip(".")
        if not required:
            return None, why
        raise _not_known(why) from None


def _not_known(why: str) -> SetupError:
    return SetupError(
        f"What was erased since the backup cannot be read from the record that is to be replaced ({why}). "
        "Give a list of it with --erasures FILE; or move the record away, and erase again yourself."
    )


def carry_over(
    database: Database, before: Replaced | None, listed: ErasureList | None, unread: str | None
) -> CarriedOver:
    """Repeats in a restored record the erasures since its backup, and logs the restore.

    Args:
        database: the restored record; nobody else uses it.
        before: the record that it replaces.
        listed: a list of erasures.
        unread: why the audit log of the record that it replaces does not count.

    Raises:
        SetupError: the list is of another record; or there is none, and the salt of the record that is replaced was
            changed. RecordDamaged: the restored record's log cannot be read.
    """
    record = _record(database)
    with database.write(long=True) as connection:
        skip_used_ids(connection)
        mine, end = record_mark(connection), head(connection)
        if before is not None and before.erasures.record != mine:
            if _same_log(connection, before):  # the log is this record's, so the salt was changed
                unread = "The row audit_salt of the table record_value is damaged"
                if listed is None:
                    raise _not_known(unread)
            before = None  # another record: what was erased from it is not in this one
        done = Repeated()
        if before is not None:
            descends = end.seq == 0 or before.digests.get(end.seq) == end.digest
            done = repeat_erasures(record, connection, before.erasures, descends=descends)
        if listed is not None:
            done += repeat_erasures(record, connection, listed)
        sources = [name for name, there in (("record", before), ("list", listed)) if there is not None]
        known_from = " and ".join(sources) or None
        details = {
            "backup_head": f"{end.seq}:{end.digest}",
            "erasures_known_from": known_from,
            "erasures_repeated": done.erasures,
            "subjects": done.subjects,
            "templates": done.templates,
        }
        append(connection, Action.RECORD_RESTORED, by=None, details=details)
        return CarriedOver(done, known_from, _with_another_key(connection, before), unread)


def apply_list(settings: Settings, source: Path) -> Repeated:
    """Erases from the record what a list names; the service must not run.

    Raises:
        NotFound: there is no such list.
        SetupError: it is no list, or of another record; or a service uses the record.
    """
    listed = load_erasures(source)
    with closing(open_database(settings.record_url, settings.record, connections=2)) as database:
        record = _record(database)
        with database.write(long=True) as connection:
            done = repeat_erasures(record, connection, listed)
        database.scrub()
        return done


def _record(database: Database) -> Record:
    # As a journal only, which touches no file: index files with something of what is erased are not trusted any more,
    # and the next start overwrites them. Milvus it compares with the record.
    return Record(database, Snapshots(database, Path()), 0, 0, RecordClock(timedelta(0), 0))


def _same_log(connection: Connection, before: Replaced) -> bool:
    first = connection.execute(select(audit.c.seq, audit.c.digest).order_by(audit.c.seq).limit(1)).first()
    return first is not None and before.digests.get(first.seq) == first.digest


def _with_another_key(connection: Connection, before: Replaced | None) -> list[str]:
    rows = connection.execute(select(gallery.c.id, gallery.c.name, gallery.c.contract_digest).order_by(gallery.c.name))
    known = before.contracts if before is not None else {}
    return [row.name for row in rows if known.get((row.id, row.name), row.contract_digest) != row.contract_digest]


def repeat_erasures(record: Record, connection: Connection, listed: ErasureList, *, descends: bool = False) -> Repeated:
    """Repeats the erasures of a list that a record does not know of.

    Each is added to the record's audit log, so that the next restore knows of it, even where nothing is left to erase.

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
        raise SetupError("The list of erasures is of another record; nothing was changed. Use the list of this record.")
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
        return self._record.remove_rows(self._connection, pinned, rows)[0], len(rows)

    def _named(self, pinned: PinnedGallery, erasure: KnownErasure) -> ColumnElement[bool]:
        """What an erasure named of a gallery's templates."""
        if erasure.action == "templates_expired" and erasure.subject is None:
            return false() if erasure.stored_until is None else template.c.created_at <= erasure.stored_until
        if erasure.action == "template_erased":
            return template.c.uid == erasure.template
        its_own = template.c.subject_id == self._subjects(pinned).get(erasure.subject or "", 0)
        return its_own | template.c.uid.in_((erasure.moved or "").split())  # under other subjects in this backup

    def _subjects(self, pinned: PinnedGallery) -> dict[str, int]:
        if pinned.id not in self._marks:
            here = select(subject.c.id, subject.c.mark).where(subject.c.gallery_id == pinned.id)
            self._marks[pinned.id] = {row.mark: row.id for row in self._connection.execute(here)}
        return self._marks[pinned.id]
