"""Galleries, their subjects, and the templates of these.

There is no way back: it would erase the record.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the three tables."""
    big_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")

    def name(length: int) -> sa.String:
        return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")

    op.create_table(
        "gallery",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("name", name(64), nullable=False, unique=True),
        sa.Column("contract", sa.JSON, nullable=False),
        sa.Column("contract_digest", sa.String(64), nullable=False),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.Column("threshold_cosine", sa.Float, nullable=False),
        sa.Column("threshold_fmr", sa.Float, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "subject",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("gallery_id", big_id, sa.ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", name(128), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("gallery_id", "name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "template",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("gallery_id", big_id, sa.ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
        sa.Column("subject_id", big_id, sa.ForeignKey("subject.id", ondelete="CASCADE"), nullable=False),
        sa.Column("uid", name(32), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("gallery_id", "uid"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_template_gallery_id_id", "template", ["gallery_id", "id"])
    op.create_index("ix_template_subject_id", "template", ["subject_id"])
