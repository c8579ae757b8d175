"""A checksum behind the values of each stored template.

A row that is no unit vector any more was damaged before it had a checksum. It is left as it is: without a checksum it
counts as damaged, matches nobody, and is reported until it is erased.
"""

import hashlib
import zlib
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_AT_A_TIME = 1_000
# As accepted at enrollment (1e-4 of length 1), squared, and what float32 adds.
_SQUARE_TOLERANCE = 5e-4

_gallery = sa.table("gallery", sa.column("id"), sa.column("dim"), sa.column("turn"))
_subject = sa.table("subject", sa.column("id"), sa.column("name"))
_template = sa.table(
    "template", sa.column("id"), sa.column("gallery_id"), sa.column("subject_id"), sa.column("vector", sa.LargeBinary)
)
_turned = sa.table(
    "turned", sa.column("id"), sa.column("template_id"), sa.column("turn"), sa.column("vector", sa.LargeBinary)
)
_segment_file = sa.table("segment_file", sa.column("gallery_id"))


def upgrade() -> None:
    """Adds the checksums; forgets the index files of galleries with damaged rows."""
    # While a change of key settles, what still stands in the template's own row is under the key before.
    unsettled = sa.and_(_turned.c.template_id == _template.c.id, _turned.c.turn == _gallery.c.turn)
    version = sa.case((_turned.c.id.is_not(None), _gallery.c.turn - 1), else_=_gallery.c.turn)
    templates = (
        sa.select(_template.c.id, _template.c.vector, _subject.c.name, _gallery.c.id, _gallery.c.dim, version)
        .join(_subject, _subject.c.id == _template.c.subject_id)
        .join(_gallery, _gallery.c.id == _template.c.gallery_id)
        .outerjoin(_turned, unsettled)
    )
    staged = (
        sa.select(_turned.c.id, _turned.c.vector, _subject.c.name, _gallery.c.id, _gallery.c.dim, _turned.c.turn)
        .join(_template, _template.c.id == _turned.c.template_id)
        .join(_subject, _subject.c.id == _template.c.subject_id)
        .join(_gallery, _gallery.c.id == _template.c.gallery_id)
    )
    damaged = _add_checksums(_template, templates) | _add_checksums(_turned, staged)
    if damaged:
        op.get_bind().execute(sa.delete(_segment_file).where(_segment_file.c.gallery_id.in_(damaged)))


def _add_checksums(table: sa.TableClause, rows: sa.Select[Any]) -> set[int]:
    """Adds a checksum to each sound row; returns the ids of galleries with damaged ones."""
    bind, last, damaged = op.get_bind(), -1, set[int]()
    change = sa.update(table).where(table.c.id == sa.bindparam("row")).values(vector=sa.bindparam("blob"))
    while True:
        some = bind.execute(rows.where(table.c.id > last).order_by(table.c.id).limit(_AT_A_TIME)).all()
        if not some:
            return damaged
        last = some[-1][0]
        changed = []
        for row_id, vector, name, gallery_id, dim, version in some:
            if _is_unit(vector, dim):
                changed.append({"row": row_id, "blob": vector + _checksum(vector, name, gallery_id, version)})
            else:
                damaged.add(gallery_id)
        if changed:
            bind.execute(change, changed)


def _is_unit(vector: bytes, dim: int) -> bool:
    if len(vector) != 4 * dim:
        return False
    values = np.frombuffer(vector, "<f4").astype(np.float64)
    return bool(abs(values @ values - 1) <= _SQUARE_TOLERANCE)  # false for NaN


def _checksum(vector: bytes, name: str, gallery_id: int, key_version: int) -> bytes:
    words = np.frombuffer(vector, "<u4").astype(np.uint64)
    owner = zlib.crc32(f"{gallery_id}/{key_version}/{name}".encode())
    factors = _FACTORS[: len(words) + 1]
    checksum = np.sum(factors * np.append(words, np.uint64(owner)), dtype=np.uint64)
    return int(checksum).to_bytes(8, "little")


# One for each value of the longest template, 4,096, and one for the owner.
_FACTORS = np.frombuffer(hashlib.shake_256(b"patronus template checksum 1").digest(8 * 4097), "<u8") | np.uint64(1)
