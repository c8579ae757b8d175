"""Checks the audit log's chain, also while a service writes to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from cloud_service.audit.log import NO_ENTRY, Action, digest_of, head, parse_head
from cloud_service.record.opening import read_only
from cloud_service.record.tables import audit
from shared.errors import RecordDamaged
from shared.wire.cloud import AuditHead
from shared.wire.common import moment_text

_AT_A_TIME = 1_000


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        head: the last entry that fits; its number is how many do.
        wrong: what is wrong with what follows, if anything.
        restored: where the chain is sound and does not hold what was noted, but a restore in it explains that:
            sentences that say so.
    """

    head: AuditHead
    wrong: str | None
    restored: str | None = None


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """A transaction on a record that is only read; a service may use it meanwhile.

    Raises:
        NotFound: there is no record.
        SetupError: it cannot be read, or is of another version.
    """
    why = "The record cannot be read, or has no audit log: it is away, damaged, or was not used by this version yet."
    with read_only(url, why) as engine, engine.connect() as connection:
        yield connection


def check(connection: Connection, noted: AuditHead | None = None) -> Checked:
    """Follows the chain from the first entry to the last.

    Args:
        connection: of ``reading``; the log is checked as it is at one moment.
        noted: a head, or a receipt's number and digest, that was kept elsewhere: the log must still hold it.
    """
    good = AuditHead(seq=0, digest=NO_ENTRY)
    restore: Any = None
    holds = noted is None or noted == good
    entries = select(audit).order_by(audit.c.seq)
    for row in connection.execute(entries, execution_options={"yield_per": _AT_A_TIME}):
        wrong = _wrong(row, good)
        if wrong is not None:
            return Checked(good, wrong)
        good = AuditHead(seq=row.seq, digest=row.digest)
        holds = holds or good == noted
        if row.action == Action.RECORD_RESTORED and noted is not None and _backup_end(row) < noted.seq:
            restore = row  # the last one that can have replaced what was noted
    wrong = _wrong_end(connection, good)
    if wrong is not None or noted is None or holds:
        return Checked(good, wrong)
    if noted.seq > good.seq:
        missing = f"the log ends with entry {good.seq}, but entry {noted.seq} was noted down"
        why = "its end was cut off"
    else:
        missing, why = f"entry {noted.seq} is another one than was noted down", "the log was rewritten"
    if restore is None:  # pg_restore adds no entry
        why += ", or a backup of before was restored without patronus cloud restore"
        return Checked(good, f"{missing}: {why}")
    # An attacker who rewrites the whole log can put such an entry in it: only the time of the note shows which it was.
    restored = f"A backup was restored (entry {restore.seq}, {moment_text(restore.at)})"
    replaced = f"the entries after entry {_backup_end(restore)} were replaced"
    tampered = "If it was noted after the restore, the log was tampered with."
    return Checked(good, None, f"{restored}, and {replaced}: {missing}. {tampered}")


def _backup_end(restore: Any) -> int:
    """The number of the last entry that the backup had."""
    try:
        return parse_head(restore.details["backup_head"]).seq
    except (KeyError, TypeError, ValueError, AttributeError):  # no entry that this program wrote
        return int(restore.seq)


def _wrong_end(connection: Connection, last: AuditHead) -> str | None:
    try:
        kept = head(connection)
    except RecordDamaged:
        kept = None
    if kept == last:
        return None
    return f"the log ends with entry {last.seq}, which is not where the record says that it ends: its end was changed"


def _wrong(row: Any, before: AuditHead) -> str | None:
    """What is wrong with an entry, seen from the one before it, as a sentence; None: nothing."""
    expected = before.seq + 1
    if row.seq != expected:
        return f"entry {row.seq} follows entry {before.seq}: entry {expected} is missing"
    if row.previous != before.digest:
        return f"entry {row.seq} does not belong behind the entry before it: one of the two was changed or put there"
    try:
        fields = (row.seq, moment_text(row.at), row.key_id, row.action, row.gallery, row.details, row.previous)
        digest = digest_of(*fields)
    except (AttributeError, TypeError, ValueError):  # a moment or details that somebody wrote by hand
        digest = None
    if row.digest != digest:
        return f"entry {row.seq} is not what it was when it was written"
    return None
