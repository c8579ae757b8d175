"""Carries the erasures of a replaced record over into the restored one, and nothing else."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, select

from cloud_service.audit.check import reading
from cloud_service.audit.log import Action, append, head
from cloud_service.clock import RecordClock
from cloud_service.erasure.erasure_list import ErasureList, erasures_in, load_erasures, record_mark
from cloud_service.erasure.reapply import Repeated, repeat_erasures
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.database import Database
from cloud_service.record.opening import open_database
from cloud_service.record.record import Record
from cloud_service.record.tables import audit, gallery
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
class Unread:
    """A record that a backup replaces, and whose audit log does not count. ``why`` has no full stop."""

    why: str


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


def read_replaced(record: Path, *, required: bool) -> Replaced | Unread | None:
    """The erasures of a record that is to be replaced; None: there is no record.

    Args:
        record: the SQLite file.
        required: whether its erasures are known from nowhere else.

    Returns:
        ``Unread`` where its log is broken or cannot be read, and a list counts instead.

    Raises:
        SetupError: its log is broken or cannot be read, and its erasures are required.
    """
    if not record.exists():
        return None
    try:
        with reading(f"sqlite:///{record.resolve()}") as connection:
            digests = {row.seq: row.digest for row in connection.execute(select(audit.c.seq, audit.c.digest))}
            contracts = select(gallery.c.id, gallery.c.name, gallery.c.contract_digest)
            keys = {(row.id, row.name): row.contract_digest for row in connection.execute(contracts)}
            return Replaced(erasures_in(connection), digests, keys)
    except PatronusError as error:
        why = error.detail.rstrip(".")
        if not required:
            return Unread(why)
        raise _not_known(why) from None


def _not_known(why: str) -> SetupError:
    return SetupError(
        f"What was erased since the backup cannot be read from the record that is to be replaced ({why}). "
        "Give a list of it with --erasures FILE; or move the record away, and erase again yourself."
    )


def carry_over(database: Database, before: Replaced | Unread | None, listed: ErasureList | None) -> CarriedOver:
    """Repeats in a restored record the erasures since its backup, and logs the restore.

    Args:
        database: the restored record; nobody else uses it.
        before: the record that it replaces, or why that cannot be read.
        listed: a list of erasures.

    Raises:
        SetupError: the list is of another record; or there is none, and the salt of the record that is replaced was
            changed. RecordDamaged: the restored record's log cannot be read.
    """
    record = _record(database)
    with database.write(long=True) as connection:
        mine, end = record_mark(connection), head(connection)
        unread = before.why if isinstance(before, Unread) else None
        if isinstance(before, Unread):
            before = None
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
    database = open_database(settings.record_url, settings.record, connections=2)
    with closing(database):
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
