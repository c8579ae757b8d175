"""What changes of entries a change of templates brings with it, and the change of a gallery's rule."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, func, select, update

from cloud_service.entries.queries import Entries
from cloud_service.record.queries import EntryChange, PinnedGallery, damaged_gallery, hold_gallery, in_parts, no_change
from cloud_service.record.tables import gallery, subject

# Two to the 20. Sums of as many ids as a segment holds stay within 64 bits.
_SKIPPED: Final = 1 << 20
_NEW_ID = update(subject).where(subject.c.id == bindparam("which")).values(entry_id=bindparam("entry"))


def entries_of(connection: Connection, pinned: PinnedGallery, subject_ids: Collection[int]) -> dict[int, int]:
    """The entries of some subjects, where each has one; by the subject's id."""
    if not pinned.one_entry_a_subject:
        return {}
    found: dict[int, int] = {}
    for part in in_parts(list(subject_ids)):
        query = select(subject.c.id, subject.c.entry_id).where(subject.c.id.in_(part), subject.c.entry_id.is_not(None))
        found.update((row.id, row.entry_id) for row in connection.execute(query))
    return found


def renewed(
    connection: Connection, entries: Entries, pinned: PinnedGallery, before: dict[int, int], left: Collection[int]
) -> EntryChange:
    """Gives subjects whose templates have changed new entries, in a transaction that holds the gallery.

    Args:
        connection: in that transaction.
        entries: reads them.
        pinned: a gallery with one entry for each subject.
        before: the entries that the subjects had, by the subject's id.
        left: the ids of those that have templates now.
    """
    removed = np.array(sorted(before.values()), np.int64)
    if not left:
        return no_change(pinned.dim, removed)
    give_entries(connection, pinned, sorted(left))
    ids, vectors = entries.of(connection, pinned, sorted(left))
    return EntryChange(removed, ids, vectors)


def give_entries(connection: Connection, pinned: PinnedGallery, subject_ids: Sequence[int]) -> NDArray[np.int64]:
    """Gives each of n subjects a new entry, in a transaction that holds the gallery; (n,) int64 ids.

    Raises:
        RecordDamaged: an entry has an id that none was given yet: an index would take the new ones for old ones.
    """
    last = int(hold_gallery(connection, pinned.id, entries=len(subject_ids)).last_entry)
    _refuse_damaged_ids(connection, pinned.id, last - len(subject_ids))
    ids = range(last - len(subject_ids) + 1, last + 1)
    connection.execute(
        _NEW_ID, [{"which": which, "entry": entry} for which, entry in zip(subject_ids, ids, strict=True)]
    )
    return np.array(ids, np.int64)


def _refuse_damaged_ids(connection: Connection, gallery_id: int, last: int) -> None:
    largest = connection.scalar(select(func.max(subject.c.entry_id)).where(subject.c.gallery_id == gallery_id))
    if largest is not None and not 0 < largest <= last:
        raise damaged_gallery(gallery_id)


def regroup(connection: Connection, row: Any, *, one_a_subject: bool) -> None:
    """Gives each subject of a gallery a new entry, or takes away all, in a transaction that holds the gallery.

    Args:
        connection: in that transaction.
        row: of the gallery, as it is now.
        one_a_subject: whether each subject is to have one.
    """
    mine = subject.c.gallery_id == row.id
    _refuse_damaged_ids(connection, row.id, row.last_entry)
    if not one_a_subject:
        connection.execute(update(subject).where(mine).values(entry_id=None))
        return
    first, last = connection.execute(select(func.min(subject.c.id), func.max(subject.c.id)).where(mine)).one()
    if first is None:
        return
    # All are larger than any that there was, so that no two are alike meanwhile.
    connection.execute(update(subject).where(mine).values(entry_id=subject.c.id + (row.last_entry + 1 - first)))
    connection.execute(
        update(gallery).where(gallery.c.id == row.id).values(last_entry=row.last_entry + 1 + last - first)
    )


def skip_used_ids(connection: Connection) -> None:
    """Has new entries of a restored record get ids that none had in the record that it replaces.

    An index in Milvus may still hold those: other vectors under the same ids. And edges may hold lists of subjects of
    later versions: to them, all subjects have changed. The step is random, for a backup may be restored more than once.
    """
    step = _SKIPPED * (1 + secrets.randbelow(_SKIPPED))
    version = gallery.c.subjects_version + step
    connection.execute(
        update(gallery).values(
            last_entry=gallery.c.last_entry + step, subjects_version=version, removed_version=version
        )
    )
    now = select(gallery.c.subjects_version).where(gallery.c.id == subject.c.gallery_id).scalar_subquery()
    connection.execute(update(subject).values(version=now))
