"""The outbox: what Milvus has yet to be told of, or may still hold bytes of. Written with each change of the record."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from cloud_service.index.milvus.names import Names
from cloud_service.record.database import Database
from cloud_service.record.rows import PinnedGallery
from cloud_service.record.tables import note, outbox
from shared.errors import Overloaded

# An entry's way: "add" until the template can be found. "remove" until it cannot, then "purge" until Milvus wrote its
# files anew, then "kept" for as long as Milvus keeps the old ones. "drop", of a whole collection, then "kept".
ADD: Final = "add"
REMOVE: Final = "remove"
PURGE: Final = "purge"
DROP: Final = "drop"
KEPT: Final = "kept"
_UNTOLD: Final = (ADD, REMOVE, DROP)
_ERASED: Final = (REMOVE, PURGE, DROP, KEPT)

_IDS_A_QUERY: Final = 500
_INSTANCE: Final = "instance"


@dataclass(frozen=True, slots=True)
class Pending:
    """Erasures whose bytes Milvus may still hold: how many, and when the oldest of them was asked for."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Untold:
    """What Milvus has yet to be told of one collection: (n,) int64 ids each; ``drop``: that it is to go."""

    entry: str
    add: NDArray[np.int64]
    remove: NDArray[np.int64]
    drop: bool


def instance_of(database: Database) -> str:
    """The random value that this record's collections are named by; made at the first asking."""
    query = select(note.c.value).where(note.c.name == _INSTANCE)
    with database.read() as connection:
        found = connection.scalar(query)
    if found is not None:
        return str(found)
    try:
        with database.write() as connection:
            found = connection.scalar(query)
            if found is None:
                found = secrets.token_hex(4)
                connection.execute(insert(note).values(name=_INSTANCE, value=found))
    except Overloaded:  # another replica made it in the same moment
        with database.read() as connection:
            found = connection.scalar(query)
    return str(found)


class Outbox:
    """The journal of an index in Milvus.

    Args:
        database: of the record.
        names: of the collections.
    """

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._names = names

    def added(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates are added."""
        self._note(connection, pinned, ADD, ids.tolist())

    def removed(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates are removed."""
        self._note(connection, pinned, REMOVE, ids.tolist())

    def dropped(self, connection: Connection, pinned: PinnedGallery) -> None:
        """A gallery is removed with all of its templates."""
        self._note(connection, pinned, DROP, [None])

    def turned(self, connection: Connection, before: PinnedGallery, after: PinnedGallery) -> None:
        """A gallery's key was changed: its collection before that is to go."""
        self._note(connection, before, DROP, [None])

    def told_of_additions(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """These can be found now."""
        with self._database.write() as connection:
            for which in _each(self._names.entry(gallery), ADD, ids):
                connection.execute(delete(outbox).where(which))

    def told_of_removals(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Milvus took these out of its answers; their bytes are still in its files."""
        with self._database.write() as connection:
            for which in _each(self._names.entry(gallery), REMOVE, ids):
                connection.execute(update(outbox).where(which).values(action=PURGE))

    def told_of_drop(self, entry: str) -> None:
        """A collection is gone, and with it whatever else was to be told of it."""
        of_it = outbox.c.collection == entry
        with self._database.write() as connection:
            connection.execute(delete(outbox).where(of_it, outbox.c.action == ADD))
            kept = {"action": KEPT, "told_at": datetime.now(UTC)}
            connection.execute(update(outbox).where(of_it, outbox.c.action != KEPT).values(**kept))

    def not_yet_added(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the templates that Milvus was not told of."""
        found: list[int] = []
        with self._database.read() as connection:
            for which in _each(self._names.entry(gallery), ADD, ids):
                found += [int(one) for one in connection.scalars(select(outbox.c.template_id).where(which))]
        return np.array(found, dtype=np.int64)

    def untold(self, older_than: timedelta, most: int) -> list[Untold]:
        """What has been waiting for some time, the oldest first, by collection."""
        query = (
            select(outbox.c.collection, outbox.c.action, outbox.c.template_id)
            .where(outbox.c.action.in_(_UNTOLD), outbox.c.created_at < datetime.now(UTC) - older_than)
            .order_by(outbox.c.id)
            .limit(most)
        )
        by_entry: dict[str, dict[str, list[int]]] = {}
        with self._database.read() as connection:
            for entry, action, template_id in connection.execute(query):
                by_entry.setdefault(entry, {}).setdefault(action, []).append(template_id or 0)
        return [
            Untold(
                entry,
                np.array(found.get(ADD, []), dtype=np.int64),
                np.array(found.get(REMOVE, []), dtype=np.int64),
                DROP in found,
            )
            for entry, found in by_entry.items()
        ]

    def waiting_since(self) -> datetime | None:
        """When the oldest of what Milvus has yet to be told was written; None: it was told everything."""
        with self._database.read() as connection:
            return connection.scalar(
                select(outbox.c.created_at).where(outbox.c.action.in_(_UNTOLD)).order_by(outbox.c.id).limit(1)
            )

    def to_purge(self) -> dict[str, int]:
        """Collections with bytes of what was removed, and the last entry that tells of them."""
        query = (
            select(outbox.c.collection, func.max(outbox.c.id))
            .where(outbox.c.action == PURGE)
            .group_by(outbox.c.collection)
        )
        with self._database.read() as connection:
            return {entry: int(last) for entry, last in connection.execute(query)}

    def purged(self, entry: str, last: int) -> None:
        """Milvus wrote a collection's files anew, after what is noted up to this entry."""
        which = (outbox.c.collection == entry) & (outbox.c.action == PURGE) & (outbox.c.id <= last)
        with self._database.write() as connection:
            connection.execute(update(outbox).where(which).values(action=KEPT, told_at=datetime.now(UTC)))

    def forget(self, told_before: datetime) -> None:
        """Strikes out what Milvus by now has no bytes of."""
        which = (outbox.c.action == KEPT) & (outbox.c.told_at < told_before)
        with self._database.read() as connection:
            due = connection.scalar(select(func.count()).select_from(outbox).where(which))
        if due:
            with self._database.write() as connection:
                connection.execute(delete(outbox).where(which))

    def pending(self, gallery_id: int) -> Pending:
        """Erasures in a gallery, or of it, whose bytes Milvus may still hold."""
        query = select(func.count(), func.min(outbox.c.created_at)).where(
            outbox.c.collection.startswith(self._names.entries_of(gallery_id), autoescape=True),
            outbox.c.action.in_(_ERASED),
        )
        with self._database.read() as connection:
            count, oldest = connection.execute(query).one()
        return Pending(int(count), oldest)

    def oldest_pending(self) -> datetime | None:
        """When the oldest erasure whose bytes Milvus may still hold was asked for; None: there is none."""
        with self._database.read() as connection:
            oldest: datetime | None = connection.scalar(
                select(func.min(outbox.c.created_at)).where(outbox.c.action.in_(_ERASED))
            )
        return oldest

    def _note(self, connection: Connection, pinned: PinnedGallery, action: str, ids: Sequence[int | None]) -> None:
        shared = {"collection": self._names.entry(pinned), "action": action, "created_at": datetime.now(UTC)}
        connection.execute(insert(outbox), [{**shared, "template_id": one} for one in ids])


def _each(entry: str, action: str, ids: NDArray[np.int64]) -> list[ColumnElement[bool]]:
    """Conditions for the entries of these templates, some hundred at a time."""
    return [
        (outbox.c.collection == entry)
        & (outbox.c.action == action)
        & outbox.c.template_id.in_(ids[start : start + _IDS_A_QUERY].tolist())
        for start in range(0, len(ids), _IDS_A_QUERY)
    ]
