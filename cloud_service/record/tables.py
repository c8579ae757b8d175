"""The tables of the record. The migrations make them; a test holds the two together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from cloud_service.migrations import NAMING_CONVENTION
from shared.errors import RecordDamaged
from shared.names import MAX_STORED_NAME

# SQLite reuses no id only in a column declared INTEGER with AUTOINCREMENT.
BigId = BigInteger().with_variant(Integer, "sqlite")


def name_of(length: int) -> String:
    """The type of names, which sort by their bytes.

    SQLite has no other order, and a server's own may change under its indexes.
    """
    return String(length).with_variant(String(length, collation="C"), "postgresql")


# Stands for a stored value that was not written so, where a row is checked as a whole.
DAMAGED: Final = object()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, kept as UTC without a zone, because SQLite keeps none.

    Args:
        checked: whether what is no moment is read as ``DAMAGED``; otherwise reading it raises RecordDamaged.
    """

    impl = DateTime
    cache_ok = True

    def __init__(self, *, checked: bool = False) -> None:
        super().__init__()
        self.checked = checked

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From an aware moment to what is stored."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From what is stored to an aware moment."""
        return None if value is None else value.replace(tzinfo=UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Reads what is stored."""
        return _reading(super().result_processor(dialect, coltype), checked=self.checked)


class StoredJson(TypeDecorator[Any]):
    """A JSON value; None is stored as no value. What is no JSON is read as ``DAMAGED``."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Reads what is stored."""
        return _reading(super().result_processor(dialect, coltype), checked=True)


def _reading(process: Callable[[Any], Any] | None, *, checked: bool) -> Callable[[Any], Any] | None:
    if process is None:
        return None

    def read(value: Any) -> Any:
        try:
            return process(value)
        except (TypeError, ValueError, RecursionError):
            if checked:
                return DAMAGED
            raise RecordDamaged("A row of the record is damaged: restore it from a backup.") from None

    return read


metadata = MetaData(naming_convention=NAMING_CONVENTION)

# SQLite enforces no length, and so its tables say what they said before names were sealed.
_STORED_NAME: Final = name_of(MAX_STORED_NAME).with_variant(String(128), "sqlite")
_EXPIRES: Final = text("expires_at IS NOT NULL")

gallery = Table(
    "gallery",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", name_of(64), nullable=False, unique=True),
    Column("contract", StoredJson, nullable=False),
    Column("contract_digest", String(64), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("threshold_cosine", Float, nullable=False),
    Column("threshold_fmr", Float, nullable=False),
    # How many templates there are. Each transaction that changes them changes this first, and so waits for the others.
    Column("templates", BigInteger, nullable=False, server_default="0"),
    # How many subjects there are, kept in the same way.
    Column("subjects", BigInteger, nullable=False, server_default="0"),
    # How a subject of several templates is compared; null: by the best of them, as before there was a choice.
    Column("score", StoredJson),
    # Counts the changes of that.
    Column("score_version", Integer, nullable=False, server_default="0"),
    # The last id that an entry of a subject was given (`subject.entry_id`).
    Column("last_entry", BigInteger, nullable=False, server_default="0"),
    # Counts the changes of key.
    Column("key_version", Integer, nullable=False, server_default="0"),
    # The contract under the next key, while a change of key is under way.
    Column("next_contract", StoredJson),
    # Templates that are older never match; null: they do not expire.
    Column("max_age_seconds", BigInteger),
    # Whether the names of subjects are sealed by the edge; false in galleries made before they were.
    Column("sealed_names", Boolean, nullable=False, server_default=false()),
    # Counts the changes of the list of subjects; and what it was when one was last removed.
    Column("subjects_version", BigInteger, nullable=False, server_default="0"),
    Column("removed_version", BigInteger, nullable=False, server_default="0"),
    # The index that an operator chose, by name; null: by the number of templates.
    Column("index_kind", String(32)),
    # Of what decides in this row (``gallery_checksum``); null: the row was damaged before there were checksums.
    Column("checksum", String(64)),
    Column("created_at", UtcDateTime(checked=True), nullable=False),
    sqlite_autoincrement=True,
)

subject = Table(
    "subject",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("gallery_id", BigId, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column("name", _STORED_NAME, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # What it is called under the next key, while a change of key is under way.
    Column("next_name", name_of(MAX_STORED_NAME)),
    # What the audit log calls it: random, and the same under each key and name.
    Column("mark", String(64), nullable=False, server_default=""),
    # The gallery's `subjects_version` when it was made, or its number of templates or its expiry last changed.
    Column("version", BigInteger, nullable=False, server_default="0"),
    # From when on it matches nobody and is erased; null: only by the gallery's age.
    Column("expires_at", UtcDateTime),
    # The id in the index of the mean of the subject's templates: a new one whenever these change, so that the vector
    # under an id never does. Null where each template is an entry of its own.
    Column("entry_id", BigInteger),
    UniqueConstraint("gallery_id", "name"),
    Index(None, "gallery_id", "entry_id", unique=True),
    Index(None, "gallery_id", "id"),
    Index(None, "gallery_id", "expires_at", sqlite_where=_EXPIRES, postgresql_where=_EXPIRES),
    sqlite_autoincrement=True,
)

template = Table(
    "template",
    metadata,
    # Also the id in the index, where each template is an entry of its own. Never reused, so that an index that lags
    # behind cannot name another person's template.
    Column("id", BigId, primary_key=True),
    Column("gallery_id", BigId, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column("subject_id", BigId, ForeignKey("subject.id", ondelete="CASCADE"), nullable=False),
    Column("uid", name_of(32), nullable=False),
    # (dim,) little-endian float32, the very bytes that were received; then 8 bytes of checksum (`checksums`).
    Column("vector", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # In the mean of the subject's templates, relative to the others.
    Column("weight", Float, nullable=False, server_default="1"),
    # Whether it came from another subject: backups from before may hold it under that one.
    Column("moved", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("gallery_id", "uid"),
    Index(None, "gallery_id", "created_at"),
    Index(None, "gallery_id", "id"),
    Index(None, "subject_id"),
    sqlite_autoincrement=True,
)
# Templates under another key than that of `template.vector`, while a gallery's key is changed. Rows of the next key
# version wait for the switch. Matching reads rows of the present one, until they are moved to `template.vector`.
# A table of its own: longer rows in `template` would make SQLite move rows, and leave bytes behind (decision 13).
rekeyed = Table(
    "rekeyed_template",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("gallery_id", BigId, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column("template_id", BigId, ForeignKey("template.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("key_version", Integer, nullable=False),
    # As in `template`.
    Column("vector", LargeBinary, nullable=False),
    Index(None, "gallery_id", "key_version", "id"),
    sqlite_autoincrement=True,
)

# Which files of an index's snapshot are to be trusted: those that have the digest that stands here. An erasure takes
# the row away in its own transaction, so that a file that still holds what was erased is never read again.
segment_file = Table(
    "segment_file",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("gallery_id", BigId, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column("key_version", Integer, nullable=False),
    Column("name", String(64), nullable=False, unique=True),
    # Of the entries in it, by id.
    Column("first_id", BigInteger, nullable=False),
    Column("last_id", BigInteger, nullable=False),
    Column("templates", Integer, nullable=False),
    Column("digest", String(128), nullable=False),
    Index(None, "gallery_id", "first_id"),
    sqlite_autoincrement=True,
)

# Changes that an index outside this process has not taken up yet, written with the changes themselves; and erasures of
# which that index may still hold bytes.
outbox = Table(
    "outbox",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("collection", String(64), nullable=False),
    # "add", "remove" or "drop" (of the whole collection). After "remove" comes "purge", and then "kept".
    Column("action", String(8), nullable=False),
    # Of an entry of the index.
    Column("template_id", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
    # When the index answered that it dropped the bytes; it may keep old files for a while.
    Column("acknowledged_at", UtcDateTime),
    Index(None, "collection", "template_id"),
    sqlite_autoincrement=True,
)

# What was done, by whom: no biometric value. Each entry holds the digest of the one before.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigId, primary_key=True),
    Column("at", UtcDateTime(checked=True), nullable=False),
    # The API key's id; null: the service itself.
    Column("key_id", String(12)),
    Column("action", String(32), nullable=False),
    Column("gallery", String(64)),
    Column("details", StoredJson, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    sqlite_autoincrement=True,
)

# Values of the record as a whole, by name.
record_value = Table(
    "record_value",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", String(128), nullable=False),
)
