"""Galleries, their subjects, and the templates of these. There is no way back: it would erase the record."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the three tables."""
    big_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")

    def name(length: int) -> sa.String:
        return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")

    op.create_table(
        "gallery",
        sa.Column("id", big_id, nullable=False),
        sa.Column("name", name(64), nullable=False),
        sa.Column("contract", sa.JSON, nullable=False),
        sa.Column("contract_digest", sa.String(64), nullable=False),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.Column("threshold_cosine", sa.Float, nullable=False),
        sa.Column("threshold_fmr", sa.Float, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gallery"),
        sa.UniqueConstraint("name", name="uq_gallery_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "subject",
        sa.Column("id", big_id, nullable=False),
        sa.Column("gallery_id", big_id, nullable=False),
        sa.Column("name", name(128), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_subject"),
        sa.ForeignKeyConstraint(
            ["gallery_id"], ["gallery.id"], name="fk_subject_gallery_id_gallery", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("gallery_id", "name", name="uq_subject_gallery_id_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "template",
        sa.Column("id", big_id, nullable=False),
        sa.Column("gallery_id", big_id, nullable=False),
        sa.Column("subject_id", big_id, nullable=False),
        sa.Column("uid", name(32), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_template"),
        sa.ForeignKeyConstraint(
            ["gallery_id"], ["gallery.id"], name="fk_template_gallery_id_gallery", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["subject_id"], ["subject.id"], name="fk_template_subject_id_subject", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("gallery_id", "uid", name="uq_template_gallery_id_uid"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_template_gallery_id_id", "template", ["gallery_id", "id"])
    op.create_index("ix_template_subject_id", "template", ["subject_id"])
