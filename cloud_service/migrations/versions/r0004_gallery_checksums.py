"""A checksum of what decides in a gallery's row.

A row that holds what no gallery can have was damaged before it had a checksum. It gets none, and counts as damaged.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_LONGEST_AGE = 100 * 365 * 24 * 3600

_gallery = sa.table(
    "gallery",
    *(sa.column(name) for name in ("id", "name", "contract_digest", "dim", "turn")),
    *(sa.column(name) for name in ("threshold_cosine", "threshold_fmr", "max_age_seconds", "checksum")),
)


def upgrade() -> None:
    """Adds the column, and the checksums of the galleries that are sound."""
    op.add_column("gallery", sa.Column("checksum", sa.String(64)))
    bind = op.get_bind()
    for row in bind.execute(sa.select(_gallery)).all():
        if _is_sound(row):
            bind.execute(sa.update(_gallery).where(_gallery.c.id == row.id).values(checksum=_checksum(row)))


def _is_sound(row: sa.Row[tuple[object, ...]]) -> bool:
    texts = isinstance(row.name, str) and isinstance(row.contract_digest, str)
    numbers = (row.dim, row.turn, 1 if row.max_age_seconds is None else row.max_age_seconds)
    rates = (row.threshold_cosine, row.threshold_fmr)
    if (
        not texts
        or not all(isinstance(one, int) for one in numbers)
        or not all(isinstance(one, float) for one in rates)
    ):
        return False
    return 0 < rates[0] < 1 and 0 <= rates[1] <= 1 and 1 <= numbers[2] <= _LONGEST_AGE


def _checksum(row: sa.Row[tuple[object, ...]]) -> str:
    rates = float(row.threshold_cosine), float(row.threshold_fmr)
    values = [row.id, row.name, row.contract_digest, row.dim, row.turn, *rates, row.max_age_seconds]
    return hashlib.sha256(json.dumps(values, allow_nan=False).encode("ascii")).hexdigest()
