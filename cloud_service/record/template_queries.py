"""Reads templates of the record: of subjects, by ids, and all for an index.

Each is read under its gallery's key, also while a change of key moves it. A template whose bytes are not what was
stored is left out and remembered as damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, and_, bindparam, func, select

from cloud_service.clock import RecordClock
from cloud_service.record.checksums import KnownDamage, from_blobs, from_grouped_blobs
from cloud_service.record.database import Database
from cloud_service.record.queries import (
    EVER,
    IDS_A_QUERY,
    PinnedGallery,
    Stored,
    in_parts,
    oldest_alive,
    pinned_where,
    refuse_rekeyed,
)
from cloud_service.record.tables import gallery, rekeyed, subject, template
from shared.errors import ContractMismatch, NotFound, RecordDamaged

# A template under its gallery's key: the row of `rekeyed_template`, until it is moved to `template`.
CURRENT_VECTOR = func.coalesce(rekeyed.c.vector, template.c.vector).label("vector")
UNDER_CURRENT_KEY = and_(rekeyed.c.template_id == template.c.id, rekeyed.c.key_version == gallery.c.key_version)
_OF_SUBJECTS = (
    select(subject.c.name, CURRENT_VECTOR)
    .join(template, subject.c.id == template.c.subject_id)
    .join(gallery, gallery.c.id == subject.c.gallery_id)
    .outerjoin(rekeyed, UNDER_CURRENT_KEY)
    .where(subject.c.gallery_id == bindparam("gallery"), subject.c.name.in_(bindparam("subjects", expanding=True)))
    .where(template.c.created_at > bindparam("after"))
)
_TEMPLATES = (
    select(template.c.id, subject.c.name, CURRENT_VECTOR, gallery.c.key_version, gallery.c.contract_digest)
    .join(subject, subject.c.id == template.c.subject_id)
    .join(gallery, gallery.c.id == template.c.gallery_id)
)
# How many bytes of vectors are read at a time when an index is rebuilt.
_BATCH_BYTES = 16 * 1024 * 1024

# Ids, (n,), and vectors, (n, dim), of some templates.
Batch = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class OfSubjects:
    """All templates of some subjects of a gallery.

    ``vectors`` is (n, dim) float32, n at least 1, by subject; subjects that are not there are left out. ``damaged`` are
    the subjects of which at least one template is damaged; they have no entry in ``vectors``.
    """

    gallery: PinnedGallery
    vectors: dict[str, NDArray[np.float32]]
    damaged: frozenset[str]


class Vectors:
    """Reads templates.

    Args:
        database: where they are.
        clock: by what time they age.
        damage: remembers templates that are found damaged.
    """

    def __init__(self, database: Database, clock: RecordClock, damage: KnownDamage) -> None:
        self._database = database
        self._clock = clock
        self._damage = damage

    def of_subjects(self, gallery_name: str, names: Iterable[str]) -> OfSubjects:
        """A gallery and all unexpired templates of some of its subjects, at one moment.

        Raises:
            NotFound: there is no such gallery.
        """
        wanted = list(dict.fromkeys(names))
        blobs: dict[str, list[bytes]] = {}
        with self._database.read() as connection:
            pinned = pinned_where(connection, gallery.c.name == gallery_name)
            after = oldest_alive(pinned.max_age_seconds, self._clock.now())
            for part in in_parts(wanted):
                asked = {"gallery": pinned.id, "subjects": part, "after": after}
                for name, vector in connection.execute(_OF_SUBJECTS, asked).all():
                    blobs.setdefault(name, []).append(vector)
        rows, sound = from_grouped_blobs(blobs, pinned.dim, pinned.id, pinned.key_version)
        ends = list(accumulate(map(len, blobs.values())))
        vectors = {name: rows[end - len(blobs[name]) : end] for name, end in zip(blobs, ends, strict=True)}
        if sound.all():
            return OfSubjects(pinned, vectors, frozenset())
        damaged = frozenset(
            name for name, end in zip(blobs, ends, strict=True) if not sound[end - len(blobs[name]) : end].all()
        )
        self._note_damage(pinned, damaged)
        return OfSubjects(pinned, {name: vectors[name] for name in blobs if name not in damaged}, damaged)

    def _note_damage(self, pinned: PinnedGallery, subjects: Iterable[str]) -> None:
        """Finds and remembers the ids of damaged templates, which the quick way does not read."""
        query = select(template.c.id).join(subject, subject.c.id == template.c.subject_id)
        for name in subjects:
            with self._database.read() as connection:
                mine = query.where(subject.c.gallery_id == pinned.id, subject.c.name == name)
                ids = np.fromiter(connection.scalars(mine), np.int64)
            with suppress(ContractMismatch):  # its key was changed just now: the next reader finds it
                for _ in self.stored(pinned, ids, expired=True):
                    pass

    def stored(self, pinned: PinnedGallery, ids: NDArray[np.int64], *, expired: bool = False) -> Iterator[Stored]:
        """Those of the templates that are in the record now, some hundred at a time.

        Args:
            pinned: the gallery.
            ids: (n,) int64.
            expired: also those that match nobody any more, and are yet to be erased.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile.
        """
        # The sum keeps SQLite from looking through all of the gallery, by its index of ages, for a few of its ids.
        here = _TEMPLATES.outerjoin(rekeyed, UNDER_CURRENT_KEY).where(template.c.gallery_id + 0 == pinned.id)
        for part in in_parts(ids):
            after = EVER if expired else oldest_alive(pinned.max_age_seconds, self._clock.now())
            alive = here.where(template.c.id.in_(part.tolist()), template.c.created_at > after)
            with self._database.read() as connection:
                rows = connection.execute(alive.order_by(template.c.id)).all()
            for row in rows[:1]:
                refuse_rekeyed(pinned, row)
            yield self.read(pinned, rows)

    def read(self, pinned: PinnedGallery, rows: Sequence[Any]) -> Stored:
        """Templates from rows with ``id``, ``name`` and ``vector``; damaged ones are remembered."""
        ids = np.array([row.id for row in rows], dtype=np.int64)
        subjects = [row.name for row in rows]
        vectors, sound = from_blobs([row.vector for row in rows], subjects, pinned.dim, pinned.id, pinned.key_version)
        if sound.all():
            return Stored(ids, subjects, vectors, np.empty(0, np.int64))
        self._damage.found(pinned.id, ids[~sound].tolist())
        kept = np.flatnonzero(sound)
        return Stored(ids[kept], [subjects[place] for place in kept], vectors[kept], ids[~sound])

    def batches(self, pinned: PinnedGallery, after: int = 0) -> Iterator[Batch]:
        """The sound templates of a gallery in the order of ids, a few MB at a time.

        Args:
            pinned: the gallery as it is; or as it will be under its next key, and then those that are staged.
            after: the id that they begin behind.

        Returns:
            (n,) int64 ids and (n, dim) float32 vectors, n at least 1.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile.
        """
        for stored in self._pages(pinned, after):
            if len(stored.ids):
                yield stored.ids, stored.vectors

    def check_staged(self, after: PinnedGallery) -> None:
        """Reads all that is staged for a gallery's next key.

        Args:
            after: the gallery as it will be under that key.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile.
            RecordDamaged: a staged template is damaged.
        """
        for stored in self._pages(after, 0):
            if len(stored.damaged):
                self._damage.gone(after.id, stored.damaged.tolist())  # what matching reads now may be sound
                raise RecordDamaged(
                    "A template under the gallery's new key was damaged before the change was complete, so the change "
                    "has stopped. Abandon it (DELETE .../rekey) and begin it again.",
                    reason="staged_template_damaged",
                )

    def _pages(self, pinned: PinnedGallery, after: int) -> Iterator[Stored]:
        rows_a_batch = max(1, _BATCH_BYTES // (4 * pinned.dim))
        under_key = and_(rekeyed.c.template_id == template.c.id, rekeyed.c.key_version == pinned.key_version)
        query = (
            _TEMPLATES.outerjoin(rekeyed, under_key)
            .where(template.c.gallery_id == pinned.id)
            .where((gallery.c.key_version == pinned.key_version) | rekeyed.c.id.is_not(None))
            .order_by(template.c.id)
            .limit(rows_a_batch)
        )
        last = after
        while True:
            with self._database.read() as connection:
                rows = connection.execute(query.where(template.c.id > last)).all()
            for row in rows[:1]:
                if row.key_version + 1 != pinned.key_version:
                    refuse_rekeyed(pinned, row)
            if not rows:
                return
            last = rows[-1].id
            yield self.read(pinned, rows)

    def batches_without(self, pinned: PinnedGallery, known: NDArray[np.int64]) -> Iterator[Batch]:
        """As ``batches``, without the templates whose ids are known already.

        Args:
            pinned: the gallery.
            known: (k,) int64, ids that the record has.
        """
        last = int(known.max(initial=0))
        query = select(func.count()).where(template.c.gallery_id == pinned.id, template.c.id > last)
        with self._database.read() as connection:
            held = connection.scalar(select(gallery.c.templates).where(gallery.c.id == pinned.id)) or 0
            later = connection.scalar(query) or 0
            among = np.empty(0, np.int64)
            if held - later != len(known):
                mine = select(template.c.id).where(template.c.gallery_id == pinned.id, template.c.id <= last)
                among = np.setdiff1d(np.fromiter(connection.scalars(mine), np.int64), known)
        for stored in self.stored(pinned, among, expired=True):
            if len(stored.ids):
                yield stored.ids, stored.vectors
        yield from self.batches(pinned, last)

    def recheck_damaged(self) -> None:
        """Forgets damaged templates that were erased or are sound by now; checks some of them."""
        for gallery_id, ids in self._damage.some(IDS_A_QUERY).items():
            try:
                with self._database.read() as connection:
                    pinned = pinned_where(connection, gallery.c.id == gallery_id)
                [found] = self.stored(pinned, np.array(ids, dtype=np.int64), expired=True)
                still = found.damaged
            except NotFound:
                still = np.empty(0, np.int64)
            except (ContractMismatch, RecordDamaged):  # its key was changed just now, or its own row is damaged
                continue
            self._damage.gone(gallery_id, set(ids) - set(still.tolist()))

    def held(self, pinned: PinnedGallery, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the (n,) int64 ids that the gallery holds."""
        found = [self._ids(pinned, template.c.id.in_(part.tolist())) for part in in_parts(ids)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def page(self, pinned: PinnedGallery, after: int, most: int) -> NDArray[np.int64]:
        """The first (n,) int64 ids of a gallery's templates after this one, in order."""
        return self._ids(pinned, template.c.id > after, most)

    def named(self, pinned: PinnedGallery, uids: Sequence[str]) -> NDArray[np.int64]:
        """The (n,) int64 ids of the gallery's templates with these ids on the wire."""
        return self._ids(pinned, template.c.uid.in_(uids))

    def count(self, pinned: PinnedGallery) -> int:
        """How many templates a gallery has; 0 also where it was erased."""
        with self._database.read() as connection:
            return connection.scalar(select(gallery.c.templates).where(gallery.c.id == pinned.id)) or 0

    def _ids(self, pinned: PinnedGallery, which: ColumnElement[bool], most: int | None = None) -> NDArray[np.int64]:
        query = select(template.c.id).where(template.c.gallery_id == pinned.id, which).order_by(template.c.id)
        with self._database.read() as connection:
            return np.fromiter(connection.scalars(query.limit(most)), np.int64)
