"""Reads templates of the record, one by one; ``entries`` reads what is compared and indexed of them.

Each is read under its gallery's key, also while a change of key moves it. A template whose bytes are not what was
stored is left out and remembered as damaged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from cloud_service.record.checksums import KnownDamage, from_blobs, weights_of
from cloud_service.record.database import Database
from cloud_service.record.queries import (
    IDS_A_QUERY,
    PinnedGallery,
    Stored,
    in_parts,
    pinned_where,
    refuse_rekeyed,
)
from cloud_service.record.tables import gallery, rekeyed, subject, template
from shared.errors import NotFound, RecordDamaged

# A template under its gallery's key: the row of `rekeyed_template`, until it is moved to `template`.
CURRENT_VECTOR = func.coalesce(rekeyed.c.vector, template.c.vector).label("vector")
UNDER_CURRENT_KEY = and_(rekeyed.c.template_id == template.c.id, rekeyed.c.key_version == gallery.c.key_version)
# Whose a template is: what is staged for the next key is under the subject's next name already.
OWNER_NAME = case((rekeyed.c.key_version > gallery.c.key_version, subject.c.next_name), else_=subject.c.name).label(
    "name"
)
TEMPLATES = (
    select(
        template.c.id,
        OWNER_NAME,
        template.c.weight,
        CURRENT_VECTOR,
        gallery.c.key_version,
        gallery.c.contract_digest,
        gallery.c.score_version,
    )
    .join(subject, subject.c.id == template.c.subject_id)
    .join(gallery, gallery.c.id == template.c.gallery_id)
)
# How many bytes of vectors are read at a time.
BATCH_BYTES = 16 * 1024 * 1024


def living_at(now: Any) -> ColumnElement[bool]:
    """The condition that a subject has not expired by itself at a moment."""
    living: ColumnElement[bool] = subject.c.expires_at.is_(None) | (subject.c.expires_at > now)
    return living


def count_templates(connection: Connection, subject_ids: Collection[int]) -> dict[int, int]:
    """How many templates some subjects have, by their ids; those that have none are left out."""
    found: dict[int, int] = {}
    for part in in_parts(sorted(subject_ids)):
        query = select(template.c.subject_id, func.count()).where(template.c.subject_id.in_(part))
        found.update((one, count) for one, count in connection.execute(query.group_by(template.c.subject_id)))
    return found


class Vectors:
    """Reads templates.

    Args:
        database: where they are.
        damage: remembers templates that are found damaged.
    """

    def __init__(self, database: Database, damage: KnownDamage) -> None:
        self._database = database
        self._damage = damage

    def read(self, pinned: PinnedGallery, rows: Sequence[Any]) -> Stored:
        """Templates from rows with ``id``, ``name``, ``weight`` and ``vector``; damaged ones are remembered."""
        ids = np.array([row.id for row in rows], dtype=np.int64)
        subjects, weights = [row.name for row in rows], weights_of([row.weight for row in rows])
        blobs = [row.vector for row in rows]
        vectors, sound = from_blobs(blobs, weights, subjects, pinned.dim, pinned.id, pinned.key_version)
        if sound.all():
            return Stored(ids, subjects, vectors, weights, np.empty(0, np.int64))
        self._damage.found(pinned.id, ids[~sound].tolist())
        kept = np.flatnonzero(sound)
        return Stored(ids[kept], [subjects[place] for place in kept], vectors[kept], weights[kept], ids[~sound])

    def check_staged(self, after: PinnedGallery) -> None:
        """Reads all that is staged for a gallery's next key.

        Args:
            after: the gallery as it will be under that key.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile.
            RecordDamaged: a staged template is damaged.
        """
        for stored in self._staged(after):
            if len(stored.damaged):
                self._damage.gone(after.id, stored.damaged.tolist())  # what matching reads now may be sound
                raise RecordDamaged(
                    "A template under the gallery's new key was damaged before the change was complete, so the change "
                    "has stopped. Abandon it (DELETE .../rekey) and begin it again.",
                    reason="staged_template_damaged",
                )

    def _staged(self, after: PinnedGallery) -> Iterator[Stored]:
        rows_a_batch = max(1, BATCH_BYTES // (4 * after.dim))
        under_key = and_(rekeyed.c.template_id == template.c.id, rekeyed.c.key_version == after.key_version)
        query = (
            TEMPLATES.outerjoin(rekeyed, under_key)
            .where(template.c.gallery_id == after.id)
            .where((gallery.c.key_version == after.key_version) | rekeyed.c.id.is_not(None))
            .order_by(template.c.id)
            .limit(rows_a_batch)
        )
        last = 0
        while True:
            with self._database.read() as connection:
                rows = connection.execute(query.where(template.c.id > last)).all()
            for row in rows[:1]:
                if row.key_version + 1 != after.key_version:
                    refuse_rekeyed(after, row)
            if not rows:
                return
            last = rows[-1].id
            yield self.read(after, rows)

    def recheck_damaged(self) -> None:
        """Forgets damaged templates that were erased or are sound by now; checks some of them."""
        for gallery_id, ids in self._damage.some(IDS_A_QUERY).items():
            try:
                with self._database.read() as connection:
                    pinned = pinned_where(connection, gallery.c.id == gallery_id)
                    query = TEMPLATES.outerjoin(rekeyed, UNDER_CURRENT_KEY).where(template.c.id.in_(ids))
                    rows = connection.execute(query.where(template.c.gallery_id + 0 == pinned.id)).all()
                still = self.read(pinned, rows).damaged
            except NotFound:
                still = np.empty(0, np.int64)
            except RecordDamaged:  # its own row is
                continue
            self._damage.gone(gallery_id, set(ids) - set(still.tolist()))
