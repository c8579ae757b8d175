"""Changes of key, retention, snapshots, an outbox and the audit log.

It once made the table ``answered``, of Idempotency-Keys, too, which 0005 drops.
"""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds columns and tables, counts templates, and notes where log and time begin."""
    big_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("gallery", sa.Column("templates", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("gallery", sa.Column("turn", sa.Integer, nullable=False, server_default="0"))
    op.add_column("gallery", sa.Column("turning_to", sa.JSON))
    op.add_column("gallery", sa.Column("max_age_seconds", sa.BigInteger))
    op.add_column("gallery", sa.Column("index_kind", sa.String(32)))
    op.execute("UPDATE gallery SET templates = (SELECT count(*) FROM template WHERE template.gallery_id = gallery.id)")
    op.create_index("ix_template_gallery_id_created_at", "template", ["gallery_id", "created_at"])
    op.create_table(
        "turned",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("gallery_id", big_id, sa.ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
        sa.Column("template_id", big_id, sa.ForeignKey("template.id", ondelete="CASCADE"), nullable=False, unique=True),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_turned_gallery_id_turn_id", "turned", ["gallery_id", "turn", "id"])
    op.create_table(
        "segment_file",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("gallery_id", big_id, sa.ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("first_id", sa.BigInteger, nullable=False),
        sa.Column("last_id", sa.BigInteger, nullable=False),
        sa.Column("templates", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(128), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_segment_file_gallery_id_first_id", "segment_file", ["gallery_id", "first_id"])
    op.create_table(
        "outbox",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("collection", sa.String(64), nullable=False),
        sa.Column("action", sa.String(8), nullable=False),
        sa.Column("template_id", sa.BigInteger),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("told_at", sa.DateTime),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_collection_template_id", "outbox", ["collection", "template_id"])
    op.create_table(
        "audit",
        sa.Column("seq", big_id, primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("key_id", sa.String(12)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("gallery", sa.String(64)),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "note",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_note"),
    )
    note = sa.table("note", sa.column("name", sa.String), sa.column("value", sa.String))
    newest = op.get_bind().execute(sa.text("SELECT max(created_at) FROM template")).scalar()
    seen = datetime.fromisoformat(str(newest)) if newest else datetime.min
    now = max(seen, datetime.now(UTC).replace(tzinfo=None))
    op.bulk_insert(
        note,
        [
            {"name": "audit_head", "value": f"0:{'0' * 64}"},
            {"name": "audit_salt", "value": secrets.token_hex(32)},
            {"name": "time_seen", "value": now.isoformat(timespec="microseconds") + "Z"},
        ],
    )
