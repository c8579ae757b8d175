"""Plain names for tables and columns, and no table of Idempotency-Keys any more.

The rows of ``turned`` and ``note`` are copied to new tables, so that constraints and sequences get the new names too.
SQLite overwrites the pages of a table that is dropped (``secure_delete``).
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_RENAMED = (
    ("gallery", "turn", "key_version"),
    ("gallery", "turning_to", "next_contract"),
    ("segment_file", "turn", "key_version"),
    ("outbox", "told_at", "acknowledged_at"),
)


def upgrade() -> None:
    """Renames the columns, copies the two tables and drops the three old ones."""
    for table, before, after in _RENAMED:
        op.alter_column(table, before, new_column_name=after)
    big_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "rekeyed_template",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("gallery_id", big_id, sa.ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
        sa.Column("template_id", big_id, sa.ForeignKey("template.id", ondelete="CASCADE"), nullable=False, unique=True),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_rekeyed_template_gallery_id_key_version_id", "rekeyed_template", ["gallery_id", "key_version", "id"]
    )
    op.create_table(
        "record_value",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_record_value"),
    )
    op.execute(
        "INSERT INTO rekeyed_template (gallery_id, template_id, key_version, vector) "
        "SELECT gallery_id, template_id, turn, vector FROM turned ORDER BY id"
    )
    op.execute("INSERT INTO record_value (name, value) SELECT name, value FROM note")
    for table in ("turned", "note", "answered"):
        op.drop_table(table, if_exists=True)  # ``answered`` is only where an earlier version made it
