"""Sealed names, versions of the list of subjects, marks and expiries of subjects, and moved templates.

A subject's mark is what the audit log calls it. Until now it followed from the name: subjects that are there get the
mark that the log knows, so that erasures and lists of them still fit.
"""

import hashlib
import hmac

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_AT_A_TIME = 1_000

_gallery = sa.table("gallery", sa.column("id"), sa.column("key_version"))
_rekeyed = sa.table("rekeyed_template", sa.column("gallery_id"), sa.column("key_version"))
_subject = sa.table("subject", *(sa.column(name) for name in ("id", "gallery_id", "name", "mark")))
_record_value = sa.table("record_value", sa.column("name"), sa.column("value"))


def upgrade() -> None:
    """Adds the columns, gives each subject its mark, and drops what is staged for changes of key."""
    op.add_column("gallery", sa.Column("sealed_names", sa.Boolean, nullable=False, server_default=sa.false()))
    for counter in ("subjects_version", "removed_version"):
        op.add_column("gallery", sa.Column(counter, sa.BigInteger, nullable=False, server_default="0"))
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:  # SQLite enforces no length
        op.alter_column("subject", "name", type_=sa.String(748, collation="C"), existing_nullable=False)
    name = sa.String(748, collation="C") if postgresql else sa.String(748)
    op.add_column("subject", sa.Column("next_name", name))
    op.add_column("subject", sa.Column("mark", sa.String(64), nullable=False, server_default=""))
    op.add_column("subject", sa.Column("version", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("subject", sa.Column("expires_at", sa.DateTime))
    op.add_column("template", sa.Column("moved", sa.Boolean, nullable=False, server_default=sa.false()))
    _mark_subjects()
    # What is staged for a next key is under the present names, and is to be under the next ones: it is staged anew.
    now = sa.select(_gallery.c.key_version).where(_gallery.c.id == _rekeyed.c.gallery_id).scalar_subquery()
    op.execute(sa.delete(_rekeyed).where(_rekeyed.c.key_version > now))
    op.create_index("ix_subject_gallery_id_id", "subject", ["gallery_id", "id"])
    expires = sa.text("expires_at IS NOT NULL")
    op.create_index(
        "ix_subject_gallery_id_expires_at",
        "subject",
        ["gallery_id", "expires_at"],
        sqlite_where=expires,
        postgresql_where=expires,
    )


def _mark_subjects() -> None:
    bind, last = op.get_bind(), -1
    stored = sa.select(_record_value.c.value).where(_record_value.c.name == "audit_salt")
    try:
        salt = bytes.fromhex(str(bind.scalar(stored)))
    except ValueError:
        salt = b""  # damaged: this start is refused for it
    change = sa.update(_subject).where(_subject.c.id == sa.bindparam("row")).values(mark=sa.bindparam("new"))
    rows = sa.select(_subject.c.id, _subject.c.gallery_id, _subject.c.name).order_by(_subject.c.id).limit(_AT_A_TIME)
    while some := bind.execute(rows.where(_subject.c.id > last)).all():
        last = some[-1].id
        bind.execute(change, [{"row": row.id, "new": _mark(salt, f"{row.gallery_id}:{row.name}")} for row in some])


def _mark(salt: bytes, whose: str) -> str:
    return hmac.new(salt, whose.encode(), hashlib.sha256).hexdigest()
