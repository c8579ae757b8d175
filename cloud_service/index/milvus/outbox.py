"""The outbox: changes that Milvus lacks, and erasures of which it may hold bytes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, text, update

from cloud_service.index.milvus.names import Names
from cloud_service.record.database import Database
from cloud_service.record.queries import PinnedGallery, in_parts
from cloud_service.record.tables import outbox, record_value

# The actions of an entry in their order. "add" until the entry can be found. "remove" until it cannot, then "purge"
# until Milvus rewrote its files, then "kept" for as long as Milvus keeps the old ones. "drop", of a whole collection,
# then "kept".
ADD: Final = "add"
REMOVE: Final = "remove"
PURGE: Final = "purge"
DROP: Final = "drop"
KEPT: Final = "kept"
_UNSYNCED: Final = (ADD, REMOVE, DROP)
_ERASED: Final = (REMOVE, PURGE, DROP, KEPT)

_INSTANCE: Final = "instance"
_MAKE_UNLESS_THERE: Final = text("INSERT INTO record_value (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING")


@dataclass(frozen=True, slots=True)
class Unsynced:
    """Changes of a collection that Milvus lacks: (n,) int64 ids to add and to remove."""

    entry: str
    add: NDArray[np.int64]
    remove: NDArray[np.int64]


def instance_of(database: Database) -> str:
    """The random value by which this record's collections are named; made at first need."""
    query = select(record_value.c.value).where(record_value.c.name == _INSTANCE)
    with database.read() as connection:
        found = connection.scalar(query)
    if found is None:
        with database.write() as connection:
            connection.execute(_MAKE_UNLESS_THERE, {"name": _INSTANCE, "value": secrets.token_hex(4)})
            found = connection.scalar(query)  # ours, or that of a replica that was quicker
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
        """Entries are added."""
        self._note(connection, pinned, ADD, ids.tolist())

    def removed(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Entries are removed."""
        self._note(connection, pinned, REMOVE, ids.tolist())

    def dropped(self, connection: Connection, pinned: PinnedGallery) -> None:
        """All entries of a gallery go, and with them its collection."""
        self._note(connection, pinned, DROP, [None])

    def confirm_added(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Strikes out additions: these entries can be found now."""
        if not len(ids):
            return
        with self._database.write() as connection:
            for which in _each(self._names.entry(gallery), ADD, ids):
                connection.execute(delete(outbox).where(which))

    def confirm_removed(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Records that Milvus does not return these any more; their bytes are still in its files."""
        with self._database.write() as connection:
            for which in _each(self._names.entry(gallery), REMOVE, ids):
                connection.execute(update(outbox).where(which).values(action=PURGE))

    def confirm_dropped(self, entry: str) -> None:
        """Records that a collection is gone, and with it all other changes of it."""
        of_it = outbox.c.collection == entry
        with self._database.write() as connection:
            connection.execute(delete(outbox).where(of_it, outbox.c.action == ADD))
            kept = {"action": KEPT, "acknowledged_at": datetime.now(UTC)}
            connection.execute(update(outbox).where(of_it, outbox.c.action != KEPT).values(**kept))

    def not_yet_added(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the entries that Milvus does not have yet."""
        found: list[int] = []
        with self._database.read() as connection:
            for which in _each(self._names.entry(gallery), ADD, ids):
                found += [int(one) for one in connection.scalars(select(outbox.c.template_id).where(which))]
        return np.array(found, dtype=np.int64)

    def to_add(self, gallery: PinnedGallery) -> NDArray[np.int64]:
        """All (n,) int64 entries that Milvus does not have yet."""
        which = (outbox.c.collection == self._names.entry(gallery)) & (outbox.c.action == ADD)
        with self._database.read() as connection:
            return np.fromiter(connection.scalars(select(outbox.c.template_id).where(which)), np.int64)

    def unsynced(self, older_than: timedelta, most: int) -> list[Unsynced]:
        """What has been waiting for some time, the oldest first, by collection."""
        query = (
            select(outbox.c.collection, outbox.c.action, outbox.c.template_id)
            .where(outbox.c.action.in_(_UNSYNCED), outbox.c.created_at < datetime.now(UTC) - older_than)
            .order_by(outbox.c.id)
            .limit(most)
        )
        by_entry: dict[str, dict[str, list[int]]] = {}
        with self._database.read() as connection:
            for entry, action, template_id in connection.execute(query):
                by_entry.setdefault(entry, {}).setdefault(action, []).append(template_id or 0)
        return [
            Unsynced(entry, *(np.array(found.get(action, []), dtype=np.int64) for action in (ADD, REMOVE)))
            for entry, found in by_entry.items()
        ]

    def waiting_since(self) -> datetime | None:
        """When the oldest change that Milvus has not taken up was made; None: there is none."""
        return self._oldest(_UNSYNCED)

    def to_purge(self) -> dict[str, int]:
        """Collections with bytes of what was removed, and the last entry about each."""
        query = (
            select(outbox.c.collection, func.max(outbox.c.id))
            .where(outbox.c.action == PURGE)
            .group_by(outbox.c.collection)
        )
        with self._database.read() as connection:
            return {entry: int(last) for entry, last in connection.execute(query)}

    def confirm_purged(self, entry: str, last: int) -> None:
        """Records that Milvus rewrote a collection's files without removals up to this entry."""
        which = (outbox.c.collection == entry) & (outbox.c.action == PURGE) & (outbox.c.id <= last)
        with self._database.write() as connection:
            connection.execute(update(outbox).where(which).values(action=KEPT, acknowledged_at=datetime.now(UTC)))

    def forget(self, acknowledged_before: datetime) -> None:
        """Strikes out what Milvus by now has no bytes of."""
        which = (outbox.c.action == KEPT) & (outbox.c.acknowledged_at < acknowledged_before)
        with self._database.read() as connection:
            due = connection.scalar(select(func.count()).select_from(outbox).where(which))
        if due:
            with self._database.write() as connection:
                connection.execute(delete(outbox).where(which))

    def oldest_pending(self) -> datetime | None:
        """When the oldest erasure was made whose bytes Milvus may still hold; None: none."""
        return self._oldest(_ERASED)

    def _oldest(self, actions: Sequence[str]) -> datetime | None:
        with self._database.read() as connection:
            oldest: datetime | None = connection.scalar(
                select(func.min(outbox.c.created_at)).where(outbox.c.action.in_(actions))
            )
        return oldest

    def _note(self, connection: Connection, pinned: PinnedGallery, action: str, ids: Sequence[int | None]) -> None:
        shared = {"collection": self._names.entry(pinned), "action": action, "created_at": datetime.now(UTC)}
        connection.execute(insert(outbox), [{**shared, "template_id": one} for one in ids])


def _each(entry: str, action: str, ids: NDArray[np.int64]) -> list[ColumnElement[bool]]:
    """Conditions for what is noted of these entries, some hundred at a time."""
    return [
        (outbox.c.collection == entry) & (outbox.c.action == action) & outbox.c.template_id.in_(part.tolist())
        for part in in_parts(ids)
    ]
