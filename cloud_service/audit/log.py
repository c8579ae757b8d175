"""The audit log: what was done, when, under which API key.

Each entry holds the digest of the one before.

An entry is written in the transaction of what it is about. It holds no biometric value and names no subject. An entry's
digest is SHA-256 over the UTF-8 bytes of a JSON array (docs/operating.md shows how anybody checks it)::

    [seq, at, key_id, action, gallery, details, previous]

without spaces, with the members of ``details`` in the order of their names, and ``at`` with six digits after the second
and a Z. Values are strings of ASCII, integers, booleans and null, so that this is RFC 8785's form too.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection, Text, cast, insert, select, update

from cloud_service.record.queries import PinnedGallery, damaged_value, read_value
from cloud_service.record.tables import audit, gallery, record_value, subject
from shared.errors import NotFound, RecordDamaged
from shared.wire.cloud import AuditEntry, AuditHead, AuditPage
from shared.wire.common import Receipt, moment_text

# `previous` of the first entry.
NO_ENTRY: Final = "0" * 64

HEAD: Final = "audit_head"
SALT: Final = "audit_salt"

Detail = str | int | bool | None


class Action(StrEnum):
    """What an entry is about."""

    SERVICE_STARTED = "service_started"
    GALLERY_MADE = "gallery_made"
    GALLERY_ERASED = "gallery_erased"
    TEMPLATES_ENROLLED = "templates_enrolled"
    SUBJECT_ERASED = "subject_erased"
    TEMPLATE_ERASED = "template_erased"
    TEMPLATES_EXPIRED = "templates_expired"
    TEMPLATES_REDATED = "templates_redated"
    SUBJECT_RENAMED = "subject_renamed"
    TEMPLATES_MOVED = "templates_moved"
    EXPIRY_CHANGED = "expiry_changed"
    RETENTION_CHANGED = "retention_changed"
    SCORE_CHANGED = "score_changed"
    THRESHOLD_CHANGED = "threshold_changed"
    REKEY_BEGUN = "rekey_begun"
    REKEY_FLIPPED = "rekey_flipped"
    RECORD_RESTORED = "record_restored"
    ERASURE_REPEATED = "erasure_repeated"


# Those that remove templates.
ERASURES: Final = frozenset(
    {
        Action.GALLERY_ERASED,
        Action.SUBJECT_ERASED,
        Action.TEMPLATE_ERASED,
        Action.TEMPLATES_EXPIRED,
        Action.ERASURE_REPEATED,
    }
)


# Actions whose entry is a receipt: bytes of before are overwritten.
RECEIPTS: Final = ERASURES | {Action.SUBJECT_RENAMED, Action.TEMPLATES_MOVED}


def append(
    connection: Connection,
    action: Action,
    *,
    by: str | None,
    gallery: str | None = None,
    details: Mapping[str, Detail] | None = None,
) -> Receipt:
    """Adds an entry at the end of the log.

    To be called last in a transaction that writes: from here to its end, no other transaction can add one, so that the
    chain cannot fork, however many processes write.

    Args:
        connection: in the transaction of what the entry is about.
        action: what was done.
        by: the id of the API key that asked for it; None: the service itself, or its operator.
        gallery: the name of the gallery that it is about.
        details: no name of a subject, no biometric value; no fraction, which no two programs write alike.
    """
    # SQLite has one writer anyway, and leaves FOR UPDATE out. On PostgreSQL this waits for the transaction that appends
    # now, and reads what it left; were the isolation stricter, it would fail, and so would a number used twice.
    last = head(connection, for_update=True)
    seq, at, values = last.seq + 1, datetime.now(UTC), dict(details or {})
    digest = digest_of(seq, moment_text(at), by, action.value, gallery, values, last.digest)
    row = {"seq": seq, "at": at, "key_id": by, "action": action.value, "gallery": gallery, "details": values}
    connection.execute(insert(audit).values(**row, previous=last.digest, digest=digest))
    connection.execute(update(record_value).where(record_value.c.name == HEAD).values(value=f"{seq}:{digest}"))
    return Receipt(id=seq, at=at, digest=digest)


def append_for(
    connection: Connection, gallery: PinnedGallery, action: Action, by: str | None, **details: Detail
) -> Receipt:
    """``append`` about a gallery, with its number: other galleries may have had its name."""
    return append(connection, action, by=by, gallery=gallery.name, details={"gallery_id": gallery.id, **details})


def digest_of(
    seq: int, at: str, key_id: str | None, action: str, gallery: str | None, details: object, previous: str
) -> str:
    """The digest of an entry, as 64 hexadecimal digits."""
    fields = [seq, at, key_id, action, gallery, details, previous]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def new_mark() -> str:
    """What the log calls a new subject: 64 random hexadecimal digits, which stay when its name or key changes."""
    return secrets.token_hex(32)


def check_salt(connection: Connection) -> None:
    """Checks the salt: by it a list of erasures tells of which record it is.

    Raises:
        RecordDamaged: the record has none.
    """
    try:
        bytes.fromhex(read_value(connection, SALT))
    except ValueError:
        raise damaged_value(SALT) from None


def head(connection: Connection, *, for_update: bool = False) -> AuditHead:
    """The last entry's number and digest; 0 and zeros of an empty log.

    Args:
        connection: to read with.
        for_update: keeps others from appending until the transaction ends.

    Raises:
        RecordDamaged: they are missing or damaged.
    """
    try:
        return parse_head(read_value(connection, HEAD, for_update=for_update))
    except ValueError:
        raise damaged_value(HEAD) from None


def parse_head(value: str) -> AuditHead:
    """A head as it is written down: ``SEQ:DIGEST``.

    Raises:
        ValueError: it is none.
    """
    seq, _, digest = value.partition(":")
    return AuditHead(seq=int(seq), digest=digest)


def entry(connection: Connection, seq: int, gallery: str, actions: Collection[Action]) -> AuditEntry:
    """One entry about a gallery.

    Raises:
        NotFound: there is none of this number, or it is about another gallery or action.
    """
    wanted = (audit.c.seq == seq) & (audit.c.gallery == gallery) & audit.c.action.in_([one.value for one in actions])
    row = connection.execute(select(audit).where(wanted)).first()
    if row is None:
        raise NotFound("The gallery has no erasure of this number.", reason="unknown_erasure")
    return _entry(row)


def page(connection: Connection, only: Collection[str] | None, after: int, limit: int) -> AuditPage:
    """A page of the log, oldest first.

    Args:
        connection: to read with.
        only: the galleries that the caller may know of, and nothing that is about none; None: all.
        after: the number that the page begins behind.
        limit: the most on one page.
    """
    query = select(audit).where(audit.c.seq > after)
    if only is not None:
        query = query.where(audit.c.gallery.in_(sorted(only)))
    rows = connection.execute(query.order_by(audit.c.seq).limit(limit + 1)).all()
    more = len(rows) > limit
    rows = rows[:limit]
    return AuditPage(items=[_entry(row) for row in rows], next=rows[-1].seq if more else None)


def about(connection: Connection, gallery: str, mark: str) -> list[AuditEntry]:
    """The entries about one subject, oldest first.

    Args:
        connection: to read with.
        gallery: the name of its gallery.
        mark: of the subject, as its row has it and its receipts.
    """
    said = cast(audit.c.details, Text).contains(mark)  # nothing else has these 64 digits
    rows = connection.execute(select(audit).where(audit.c.gallery == gallery, said).order_by(audit.c.seq))
    return [_entry(row) for row in rows]


def mark_of(connection: Connection, gallery_name: str, name: str) -> str | None:
    """The mark of a subject that is there; None: it is not.

    Args:
        connection: to read with.
        gallery_name: of its gallery.
        name: of the subject, as it is stored.
    """
    query = select(subject.c.mark).join(gallery, gallery.c.id == subject.c.gallery_id)
    found: str | None = connection.scalar(query.where(gallery.c.name == gallery_name, subject.c.name == name))
    return found


def knows_gallery(connection: Connection, name: str) -> bool:
    """Whether a gallery of this name is there, or the log has an entry about one."""
    there = select(gallery.c.id).where(gallery.c.name == name).limit(1)
    logged = select(audit.c.seq).where(audit.c.gallery == name).limit(1)
    return any(connection.scalar(query) is not None for query in (there, logged))


def mark_in_entry(connection: Connection, gallery_name: str, seq: int) -> str | None:
    """The mark of the subject that an entry of the log is about, such as an erasure's; None: of none.

    Args:
        connection: to read with.
        gallery_name: of the subject's gallery.
        seq: the entry's number, which is the receipt's id.
    """
    row = connection.execute(select(audit).where(audit.c.gallery == gallery_name, audit.c.seq == seq)).first()
    found = None if row is None else _entry(row).details.get("subject")
    return found if isinstance(found, str) else None


def _entry(row: Any) -> AuditEntry:
    try:
        return AuditEntry.model_validate(row, from_attributes=True)
    except ValidationError:
        raise RecordDamaged(f"The row {row.seq} of the table audit is damaged; restore it from a backup.") from None
