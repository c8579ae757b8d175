"""The tables of the record. The migrations make them; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
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
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

# SQLite reuses no id only in a column declared INTEGER with AUTOINCREMENT.
BigId = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, kept as UTC without a zone, because SQLite keeps none."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From an aware moment to what is stored."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From what is stored to an aware moment."""
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

gallery = Table(
    "gallery",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("contract", JSON, nullable=False),
    Column("contract_digest", String(64), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("threshold_cosine", Float, nullable=False),
    Column("threshold_fmr", Float, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

subject = Table(
    "subject",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("gallery_id", BigId, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("gallery_id", "name"),
    sqlite_autoincrement=True,
)

template = Table(
    "template",
    metadata,
    # Also the index's id. Never reused, so that an index that lags behind cannot name another person's template.
    Column("id", BigId, primary_key=True),
    Column("gallery_id", BigId, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column("subject_id", BigId, ForeignKey("subject.id", ondelete="CASCADE"), nullable=False),
    Column("uid", String(32), nullable=False),
    # (dim,) little-endian float32, the very bytes that were received.
    Column("vector", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("gallery_id", "uid"),
    Index(None, "gallery_id", "id"),
    Index(None, "subject_id"),
    sqlite_autoincrement=True,
)
