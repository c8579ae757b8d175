"""Reads entries of the record: of subjects, by ids, and all for an index.

An entry is made of the sound templates that it has: of the living ones to decide by, of all for an index, which also
holds what has expired and is not erased yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, func, select

from cloud_service.clock import RecordClock
from cloud_service.entries.vectors import entry_vectors
from cloud_service.record.checksums import KnownDamage, from_blobs, from_grouped_blobs, weights_of
from cloud_service.record.database import Database
from cloud_service.record.queries import (
    PinnedGallery,
    in_parts,
    oldest_alive,
    pinned_where,
    refuse_rekeyed,
)
from cloud_service.record.tables import gallery, rekeyed, subject, template
from cloud_service.record.template_queries import BATCH_BYTES, CURRENT_VECTOR, TEMPLATES, UNDER_CURRENT_KEY, living_at

_OF_SUBJECTS = (
    select(subject.c.name, template.c.id, template.c.weight, CURRENT_VECTOR)
    .join(template, subject.c.id == template.c.subject_id)
    .join(gallery, gallery.c.id == subject.c.gallery_id)
    .outerjoin(rekeyed, UNDER_CURRENT_KEY)
    .where(subject.c.gallery_id == bindparam("gallery"), subject.c.name.in_(bindparam("subjects", expanding=True)))
    .where(template.c.created_at > bindparam("after"), living_at(bindparam("now", type_=subject.c.expires_at.type)))
)
_ID = itemgetter(1)

# Subjects of so many templates that have expired and wait to be erased meet every probe. Beyond, as after a
# change of retention, an index may miss who would match by the other templates alone, until these are erased.
_MOST_EXPIRED: Final = 2_000

# Ids, (n,), and vectors, (n, dim), of some entries.
Batch = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class OfSubjects:
    """What is compared of some subjects of a gallery: their entries of living templates.

    ``vectors`` is (n, dim) float32, n at least 1, by subject, and ``templates`` how many each has; subjects that are
    not there are left out. ``damaged`` are the subjects of which at least one template is damaged; they have neither.
    """

    gallery: PinnedGallery
    vectors: dict[str, NDArray[np.float32]]
    templates: dict[str, int]
    damaged: frozenset[str]


@dataclass(frozen=True, slots=True)
class Lacking:
    """Which entries of the record an index may lack: those of larger ids than ``after``, and the (n,) int64 ``ids``."""

    after: int
    ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StoredEntries:
    """Entries of the record: (n,) int64 ids in order, subjects, (n, dim) float32 vectors.

    ``damaged`` is (k,) int64: ids of further entries that have no vector, as their template is damaged. ``for_all``:
    whether they are to be compared with each probe, as the index may not have proposed them.
    """

    ids: NDArray[np.int64]
    subjects: list[str]
    vectors: NDArray[np.float32]
    damaged: NDArray[np.int64]
    for_all: bool = False


def entry_column(pinned: PinnedGallery) -> ColumnElement[int]:
    """The column of a gallery's entry ids; each belongs to the joined tables of templates and subjects."""
    column: ColumnElement[int] = subject.c.entry_id if pinned.one_entry_a_subject else template.c.id
    return column


def all_entries_of(pinned: PinnedGallery) -> ColumnElement[bool]:
    """The condition on that column's table for all of a gallery."""
    return (subject if pinned.one_entry_a_subject else template).c.gallery_id == pinned.id


class Entries:
    """Reads entries.

    Args:
        database: where their templates are.
        clock: by what time these age.
        damage: remembers templates that are found damaged.
    """

    def __init__(self, database: Database, clock: RecordClock, damage: KnownDamage) -> None:
        self._database = database
        self._clock = clock
        self._damage = damage

    def of_subjects(self, gallery_name: str, names: Iterable[str]) -> OfSubjects:
        """A gallery and the entries of some of its subjects, at one moment.

        Raises:
            NotFound: there is no such gallery.
        """
        wanted = list(dict.fromkeys(names))
        rows: dict[str, list[Any]] = {}
        with self._database.read() as connection:
            pinned = pinned_where(connection, gallery.c.name == gallery_name)
            now = self._clock.now()
            after = oldest_alive(pinned.max_age_seconds, now)
            for part in in_parts(wanted):
                asked = {"gallery": pinned.id, "subjects": part, "after": after, "now": now}
                for row in connection.execute(_OF_SUBJECTS, asked).all():
                    rows.setdefault(row[0], []).append(row)
        if pinned.one_entry_a_subject:
            for some in rows.values():
                some.sort(key=_ID)
        _names, ids, stored_weights, blobs = zip(*chain.from_iterable(rows.values()), strict=True) if rows else [()] * 4
        counts = {name: len(some) for name, some in rows.items()}
        weights = weights_of(stored_weights)
        vectors, sound = from_grouped_blobs(blobs, weights, counts, pinned.dim, pinned.id, pinned.key_version)
        damaged: frozenset[str] = frozenset()
        if not sound.all():
            self._damage.found(pinned.id, np.array(ids, np.int64)[~sound].tolist())
            whose = np.repeat(np.arange(len(counts)), list(counts.values()))
            hit = set(whose[~sound].tolist())
            damaged = frozenset(name for at, name in enumerate(counts) if at in hit)
            kept = ~np.isin(whose, list(hit))
            vectors, weights = vectors[kept], weights[kept]
            counts = {name: count for name, count in counts.items() if name not in damaged}
        if pinned.one_entry_a_subject:
            means = entry_vectors(vectors, weights, np.array([*counts.values()], np.int64), pinned.score)
            return OfSubjects(pinned, {name: means[at : at + 1] for at, name in enumerate(counts)}, counts, damaged)
        ends = accumulate(counts.values())
        each = {name: vectors[end - count : end] for end, (name, count) in zip(ends, counts.items(), strict=True)}
        return OfSubjects(pinned, each, counts, damaged)

    def proposed(self, pinned: PinnedGallery, ids: NDArray[np.int64], lacking: Lacking) -> Iterator[StoredEntries]:
        """Those of the entries that are in the record now, of living templates; all at one moment.

        Further ones are those that the index may not have proposed though they are near: what it may lack, and where
        a subject has a template that has expired, or is known to be damaged, beside others.

        Args:
            pinned: the gallery.
            ids: (n,) int64, what the index proposed.
            lacking: what the index said before it was searched.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile. ScoreChanged: its rule was.
        """
        now = self._clock.now()
        living = (template.c.created_at > oldest_alive(pinned.max_age_seconds, now)) & living_at(now)
        with self._database.read() as connection:
            if pinned.one_entry_a_subject:
                query = select(gallery.c.key_version, gallery.c.contract_digest, gallery.c.score_version)
                for row in connection.execute(query.where(gallery.c.id == pinned.id)):
                    refuse_rekeyed(pinned, row)
                for part in in_parts(self._not_proposed(connection, pinned, lacking)):
                    yield self._stored(connection, pinned, part, living, for_all=True)
            for part in in_parts(ids):
                yield self._stored(connection, pinned, part, living)

    def stored(self, pinned: PinnedGallery, ids: NDArray[np.int64]) -> Iterator[StoredEntries]:
        """Those of the (n,) int64 entries that are in the record now, as an index holds them; some hundred at a time.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile. ScoreChanged: its rule was.
        """
        for part in in_parts(ids):
            with self._database.read() as connection:
                yield self._stored(connection, pinned, part)

    def batches(self, pinned: PinnedGallery, after: int = 0) -> Iterator[Batch]:
        """The entries of a gallery in the order of ids, a few MB at a time.

        Args:
            pinned: the gallery as it is; or as it will be under its next key, and then up to the first entry of which
                not all templates are staged.
            after: the id that they begin behind.

        Returns:
            (n,) int64 ids and (n, dim) float32 vectors, n at least 1.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile. ScoreChanged: its rule was.
        """
        last: int | None = after
        while last is not None:
            with self._database.read() as connection:
                rows, last = self._page(connection, pinned, last)
            if rows:
                found = self._read(pinned, rows)
                if len(found.ids):
                    yield found.ids, found.vectors

    def batches_without(self, pinned: PinnedGallery, known: NDArray[np.int64]) -> Iterator[Batch]:
        """As ``batches``, without the entries whose ids are known already.

        Args:
            pinned: the gallery.
            known: (k,) int64, ids that the record has.
        """
        last = int(known.max(initial=0))
        column = entry_column(pinned)
        with self._database.read() as connection:
            held = _count(connection, pinned)
            later = connection.scalar(select(func.count()).where(all_entries_of(pinned), column > last)) or 0
            among = np.empty(0, np.int64)
            if held - later != len(known):
                mine = select(column).where(all_entries_of(pinned), column <= last)
                among = np.setdiff1d(np.fromiter(connection.scalars(mine), np.int64), known)
        for stored in self.stored(pinned, among):
            if len(stored.ids):
                yield stored.ids, stored.vectors
        yield from self.batches(pinned, last)

    def of(self, connection: Connection, pinned: PinnedGallery, subject_ids: Sequence[int]) -> Batch:
        """The ids and vectors of some subjects' entries, within a transaction; a gallery with one for each."""
        found = [
            self._read(pinned, connection.execute(_by_entry(pinned).where(subject.c.id.in_(part))).all())
            for part in in_parts(subject_ids)
        ]
        ids = np.concatenate([np.empty(0, np.int64), *(one.ids for one in found)])
        return ids, np.concatenate([np.empty((0, pinned.dim), np.float32), *(one.vectors for one in found)])

    def held(self, pinned: PinnedGallery, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the (n,) int64 ids that the gallery holds."""
        column = entry_column(pinned)
        found = [self._ids(pinned, column.in_(part.tolist())) for part in in_parts(ids)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def page(self, pinned: PinnedGallery, after: int, most: int) -> NDArray[np.int64]:
        """The first (n,) int64 ids of a gallery's entries after this one, in order."""
        return self._ids(pinned, entry_column(pinned) > after, most)

    def named(self, pinned: PinnedGallery, uids: Sequence[str]) -> NDArray[np.int64]:
        """The (n,) int64 ids of the entries that hold the templates with these ids on the wire."""
        whose = template.c.subject_id if pinned.one_entry_a_subject else template.c.id
        column = subject.c.id if pinned.one_entry_a_subject else template.c.id
        named = select(whose).where(template.c.gallery_id == pinned.id, template.c.uid.in_(uids))
        return self._ids(pinned, column.in_(named))

    def count(self, pinned: PinnedGallery) -> int:
        """How many entries a gallery has; 0 also where it was erased."""
        with self._database.read() as connection:
            return _count(connection, pinned)

    def _ids(self, pinned: PinnedGallery, which: ColumnElement[bool], most: int | None = None) -> NDArray[np.int64]:
        column = entry_column(pinned)
        query = select(column).where(all_entries_of(pinned), which).order_by(column)
        with self._database.read() as connection:
            return np.fromiter(connection.scalars(query.limit(most)), np.int64)

    def _not_proposed(self, connection: Connection, pinned: PinnedGallery, lacking: Lacking) -> NDArray[np.int64]:
        mine = select(subject.c.entry_id).where(subject.c.gallery_id == pinned.id)
        newer = mine.where(subject.c.entry_id > lacking.after)
        found = [lacking.ids, np.fromiter(connection.scalars(newer), np.int64)]
        if pinned.max_age_seconds is not None:
            expired = template.c.created_at <= oldest_alive(pinned.max_age_seconds, self._clock.now())
            whose = (
                select(template.c.subject_id).where(template.c.gallery_id == pinned.id, expired).limit(_MOST_EXPIRED)
            )
            found.append(np.fromiter(connection.scalars(mine.where(subject.c.id.in_(whose))), np.int64))
        for part in in_parts(self._damage.of(pinned.id)):
            whose = select(template.c.subject_id).where(template.c.id.in_(part.tolist()))
            found.append(np.fromiter(connection.scalars(mine.where(subject.c.id.in_(whose))), np.int64))
        return np.unique(np.concatenate(found))

    def _stored(
        self,
        connection: Connection,
        pinned: PinnedGallery,
        ids: NDArray[np.int64],
        which: ColumnElement[bool] | None = None,
        *,
        for_all: bool = False,
    ) -> StoredEntries:
        query = _by_entry(pinned).where(entry_column(pinned).in_(ids.tolist()))
        if pinned.one_entry_a_subject:
            query = query.where(subject.c.gallery_id == pinned.id)
        else:
            # The sum keeps SQLite from looking through all of the gallery, by its index of ages, for a few of its ids.
            query = query.where(template.c.gallery_id + 0 == pinned.id)
        rows = connection.execute(query if which is None else query.where(which)).all()
        for row in rows[:1]:
            refuse_rekeyed(pinned, row)
        return self._read(pinned, rows, for_all=for_all)

    def _page(self, connection: Connection, pinned: PinnedGallery, after: int) -> tuple[Sequence[Any], int | None]:
        """The rows of some entries with larger ids, and after which id to go on; None: that was all."""
        most = max(1, BATCH_BYTES // (4 * pinned.dim))
        column = entry_column(pinned)
        under_key = and_(rekeyed.c.template_id == template.c.id, rekeyed.c.key_version == pinned.key_version)
        here = _by_entry(pinned, under_key).add_columns(rekeyed.c.id.label("staged")).where(all_entries_of(pinned))
        rows = connection.execute(here.where(column > after).limit(most)).all()
        if not rows:
            return rows, None
        coming = rows[0].key_version + 1 == pinned.key_version
        if not coming:
            refuse_rekeyed(pinned, rows[0])
        last: int | None = int(rows[-1].entry)
        if len(rows) < most:
            last = None
        elif pinned.one_entry_a_subject:
            if rows[0].entry == last:  # it may go on
                rows = connection.execute(here.where(column == last)).all()
            else:
                rows = [row for row in rows if row.entry != last]
                last = int(rows[-1].entry)
        missing = next((row.entry for row in rows if row.staged is None), None) if coming else None
        return (rows, last) if missing is None else ([row for row in rows if row.entry < missing], None)

    def _read(self, pinned: PinnedGallery, rows: Sequence[Any], *, for_all: bool = False) -> StoredEntries:
        """Entries of rows in the order of entries and templates; damaged templates are remembered."""
        weights = weights_of([row.weight for row in rows])
        names = [row.name for row in rows]
        blobs = [row.vector for row in rows]
        vectors, sound = from_blobs(blobs, weights, names, pinned.dim, pinned.id, pinned.key_version)
        ids = np.array([row.entry for row in rows], np.int64)
        if not sound.all():
            self._damage.found(pinned.id, [row.id for row, good in zip(rows, sound, strict=True) if not good])
        if not pinned.one_entry_a_subject:
            if sound.all():
                return StoredEntries(ids, names, vectors, np.empty(0, np.int64), for_all)
            kept = np.flatnonzero(sound)
            return StoredEntries(ids[kept], [names[at] for at in kept], vectors[kept], ids[~sound], for_all)
        first = np.flatnonzero(np.diff(ids, prepend=-1))
        counts = np.diff(np.append(0, np.cumsum(sound))[np.append(first, len(ids))])
        means = entry_vectors(vectors[sound], weights[sound], counts, pinned.score)
        return StoredEntries(ids[first], [names[at] for at in first], means, np.empty(0, np.int64), for_all)


def _by_entry(pinned: PinnedGallery, under_key: ColumnElement[bool] = UNDER_CURRENT_KEY) -> Select[Any]:
    entry = entry_column(pinned)
    query = TEMPLATES.add_columns(entry.label("entry")).outerjoin(rekeyed, under_key)
    return query.order_by(*dict.fromkeys((entry, template.c.id)))


def _count(connection: Connection, pinned: PinnedGallery) -> int:
    counter = gallery.c.subjects if pinned.one_entry_a_subject else gallery.c.templates
    return connection.scalar(select(counter).where(gallery.c.id == pinned.id)) or 0
