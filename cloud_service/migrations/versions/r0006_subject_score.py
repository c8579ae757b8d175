"""How a subject of several templates is compared, the weights of templates, and the number of subjects.

Galleries that are there keep the rule that they had, which is stored as no value. No row of a template is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the columns, and counts the subjects."""
    op.add_column("template", sa.Column("weight", sa.Float, nullable=False, server_default="1"))
    op.add_column("subject", sa.Column("entry_id", sa.BigInteger))
    op.create_index("ix_subject_gallery_id_entry_id", "subject", ["gallery_id", "entry_id"], unique=True)
    op.add_column("gallery", sa.Column("score", sa.JSON))
    op.add_column("gallery", sa.Column("score_version", sa.Integer, nullable=False, server_default="0"))
    for counter in ("last_entry", "subjects"):
        op.add_column("gallery", sa.Column(counter, sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE gallery SET subjects = (SELECT count(*) FROM subject WHERE subject.gallery_id = gallery.id)")
