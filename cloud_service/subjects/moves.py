"""Gives templates of a subject another name: renames it, merges it into another one, or moves some of its templates.

::

    rename    all templates, to a new name: the subject's row and mark stay
    merge     all templates, to a subject that is there: the other subject is erased
    move      some templates, to either; a subject is erased with its last one

Each is one transaction. Templates keep their ids on the wire and their dates. Their checksums are made anew, as they
cover the name. In a verify-only gallery the templates are rotated from the one subject's seal to the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, select, update

from cloud_service.audit.log import Action, append_for, new_mark
from cloud_service.entries.changes import entries_of, renewed
from cloud_service.entries.vectors import rotated
from cloud_service.record.checksums import of_subject, to_blobs
from cloud_service.record.queries import (
    EntryChange,
    PinnedGallery,
    hold_gallery,
    no_change,
    oldest_alive,
    pinned_from,
    refuse_other,
    touch_subjects,
    unknown_subject,
)
from cloud_service.record.record import Record
from cloud_service.record.tables import rekeyed, subject, template
from cloud_service.record.template_queries import TEMPLATES, UNDER_CURRENT_KEY, count_templates
from cloud_service.subjects.enrollment import subject_expired, subject_full
from shared.errors import Conflict, NotFound, Unprocessable
from shared.wire.cloud import MoveAnswer, MoveRequest


@dataclass(frozen=True, slots=True)
class _Moving:
    """What is moved: rows of n templates, and (n, dim) float32 vectors, (n,) float64 weights, under the other name."""

    pinned: PinnedGallery
    source: Row[Any]
    rows: Sequence[Row[Any]]
    vectors: NDArray[np.float32] = field(repr=False)
    weights: NDArray[np.float64]
    rotated: bool
    now: datetime
    by: str | None


class Moves:
    """Moves templates between subjects. Only the store calls it.

    Args:
        record: where they are.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def move(
        self, pinned: PinnedGallery, name: str, wanted: MoveRequest, by: str | None, contract: str | None
    ) -> tuple[MoveAnswer, EntryChange]:
        """Moves templates of a subject, all or none; returns the answer, and what to change in the index.

        Args:
            pinned: the gallery.
            name: of the subject that they are moved from.
            wanted: where to, and which.
            by: the id of the caller's API key, for the audit log.
            contract: as ``refuse_other`` takes it.

        Raises:
            NotFound: there is no such gallery, subject or template.
            ContractMismatch: the gallery has another contract.
            Conflict: a change of its key is under way; there is a subject of the new name; or it would have too many
                templates, or has expired.
            Unprocessable: the names are the same or not of the gallery's kind, or the rotation is missing, not wanted,
                or none of the gallery's length.
            RecordDamaged: a template to move is damaged.
        """
        with self._record.database.write() as connection:
            row = hold_gallery(connection, pinned.id)
            pinned = pinned_from(row)
            refuse_other(pinned, contract, name, wanted.to)
            matrix = _rotation(pinned, name, wanted)
            _refuse_while_rekeyed(connection, row)
            now = self._record.clock.now()
            source, target = (_subject(connection, pinned, one) for one in (name, wanted.to))
            if source is None or _expired(source, now):
                raise unknown_subject()
            if target is not None and _expired(target, now):
                raise subject_expired()
            _refuse_onto(target, wanted)
            moving = self._read(connection, pinned, source, wanted.templates, matrix, now, by)
            held = count_templates(connection, [one.id for one in (source, target) if one is not None])
            if target is not None:
                if held[target.id] + len(moving.rows) > self._record.max_templates_a_subject:
                    raise subject_full()
            elif len(moving.rows) == held[source.id]:
                return self._rename(connection, moving, wanted.to)
            return self._move(connection, moving, target, wanted)

    def _read(
        self,
        connection: Connection,
        pinned: PinnedGallery,
        source: Row[Any],
        wanted: Sequence[str] | None,
        matrix: NDArray[np.float64] | None,
        now: datetime,
        by: str | None,
    ) -> _Moving:
        rows = connection.execute(_ROWS.where(template.c.subject_id == source.id)).all()
        oldest = oldest_alive(pinned.max_age_seconds, now)
        living = {row.uid for row in rows if row.created_at > oldest}
        if not living:
            raise unknown_subject()
        if wanted is not None:
            if not living.issuperset(wanted):
                raise NotFound("The subject has no template with this id.", reason="unknown_template")
            rows = [row for row in rows if row.uid in set(wanted)]
        stored = self._record.vectors.read(pinned, rows)
        if len(stored.damaged):
            raise of_subject()
        vectors = stored.vectors if matrix is None else rotated(stored.vectors, matrix)
        return _Moving(pinned, source, rows, vectors, stored.weights, matrix is not None, now, by)

    def _rename(self, connection: Connection, moving: _Moving, name: str) -> tuple[MoveAnswer, EntryChange]:
        pinned, source = moving.pinned, moving.source
        connection.execute(update(subject).where(subject.c.id == source.id).values(name=name))
        change = _rewrite(connection, moving, source.id, name, came=False)
        if pinned.one_entry_a_subject and moving.rotated:  # otherwise its entry is what it was
            before = entries_of(connection, pinned, [source.id])
            change = renewed(connection, self._record.entries, pinned, before, [source.id])
        self._record.note(connection, pinned, change)
        touch_subjects(connection, pinned.id, [source.id], removed=False)
        details = {"subject": source.mark, "subjects": 0, "templates": len(moving.rows)}
        receipt = append_for(connection, pinned, Action.SUBJECT_RENAMED, moving.by, **details)
        total = _living(connection, moving, source.id)
        return MoveAnswer(templates=len(moving.rows), total=total, emptied=True, receipt=receipt), change

    def _move(
        self, connection: Connection, moving: _Moving, target: Row[Any] | None, wanted: MoveRequest
    ) -> tuple[MoveAnswer, EntryChange]:
        pinned, source = moving.pinned, moving.source
        into, mark = (target.id, target.mark) if target is not None else _made(connection, moving, wanted.to)
        before = entries_of(connection, pinned, [source.id, into])
        change = _rewrite(connection, moving, into, wanted.to, came=True)
        bare = ~exists().where(template.c.subject_id == subject.c.id)
        emptied = bool(connection.execute(delete(subject).where(subject.c.id == source.id, bare)).rowcount)
        hold_gallery(connection, pinned.id, subjects=int(target is None) - int(emptied))
        left = [into] if emptied else [source.id, into]
        if pinned.one_entry_a_subject:
            change = renewed(connection, self._record.entries, pinned, before, left)
        self._record.note(connection, pinned, change)
        touch_subjects(connection, pinned.id, left, removed=emptied)
        details = {"subject": source.mark, "into": mark, "subjects": int(emptied), "templates": len(moving.rows)}
        if wanted.templates is not None:
            details["template"] = " ".join(row.uid for row in moving.rows)
        receipt = append_for(connection, pinned, Action.TEMPLATES_MOVED, moving.by, **details)
        total = _living(connection, moving, into)
        return MoveAnswer(templates=len(moving.rows), total=total, emptied=emptied, receipt=receipt), change


_ROWS = (
    TEMPLATES.add_columns(template.c.uid, template.c.created_at, template.c.moved)
    .outerjoin(rekeyed, UNDER_CURRENT_KEY)
    .order_by(template.c.id)
)
_REWRITE = (
    update(template)
    .where(template.c.id == bindparam("row"))
    .values(subject_id=bindparam("into"), vector=bindparam("blob"), moved=template.c.moved | bindparam("came"))
)


def _rotation(pinned: PinnedGallery, name: str, wanted: MoveRequest) -> NDArray[np.float64] | None:
    if wanted.to == name:
        raise Unprocessable("The two names are the same; name another subject.", reason="same_subject")
    if wanted.rotation is None:
        if pinned.verify_only:
            raise Unprocessable(
                "In a verify-only gallery each subject has a seal of its own; send the rotation from the one to the "
                "other.",
                reason="no_matrix",
            )
        return None
    if not pinned.verify_only:
        raise Unprocessable("The gallery has one seal for all subjects; send no rotation.", reason="wrong_subject")
    if wanted.rotation.dim != pinned.dim:
        raise Unprocessable(
            f"The rotation is for templates of {wanted.rotation.dim} values; this gallery's have {pinned.dim}.",
            reason="wrong_dimension",
        )
    return wanted.rotation.open()


def _refuse_while_rekeyed(connection: Connection, row: Row[Any]) -> None:
    unsettled = select(exists().where(rekeyed.c.gallery_id == row.id))
    if row.next_contract is not None or connection.scalar(unsettled):
        raise Conflict(
            "A change of this gallery's key is under way; wait until it is settled, or abandon it.",
            reason="rekey_under_way",
        )


def _subject(connection: Connection, pinned: PinnedGallery, name: str) -> Row[Any] | None:
    return connection.execute(select(subject).where(subject.c.gallery_id == pinned.id, subject.c.name == name)).first()


def _expired(row: Row[Any], now: datetime) -> bool:
    return row.expires_at is not None and row.expires_at <= now


def _refuse_onto(target: Row[Any] | None, wanted: MoveRequest) -> None:
    if target is not None and wanted.onto == "new":
        raise Conflict(
            "The gallery has a subject of the new name; choose another name, or merge the two.", reason="subject_exists"
        )
    if target is None and wanted.onto == "existing":
        raise NotFound("The gallery has no subject of the other name to merge with.", reason="unknown_target")


def _made(connection: Connection, moving: _Moving, name: str) -> tuple[int, str]:
    """Makes a subject that expires with the one that its first templates come from; its id and mark."""
    mark, expires_at = new_mark(), moving.source.expires_at
    values = {"gallery_id": moving.pinned.id, "name": name, "created_at": moving.now, "mark": mark}
    made = insert(subject).values(**values, expires_at=expires_at).returning(subject.c.id)
    return connection.scalars(made).one(), mark


def _rewrite(connection: Connection, moving: _Moving, into: int, name: str, *, came: bool) -> EntryChange:
    """Writes the templates as those of the subject of this id and name; what changes where each is an entry."""
    pinned, rows = moving.pinned, moving.rows
    blobs = to_blobs(moving.vectors, moving.weights, [name] * len(rows), pinned.id, pinned.key_version)
    pairs = list(zip(rows, blobs, strict=True))
    if pinned.one_entry_a_subject or not moving.rotated:
        bound = [{"row": row.id, "into": into, "blob": blob, "came": came} for row, blob in pairs]
        connection.execute(_REWRITE, bound)
        return no_change(pinned.dim)
    # The vector under the id of an entry never changes, so these get new ids.
    ids = [row.id for row in rows]
    connection.execute(delete(template).where(template.c.id.in_(ids)))
    shared = {"gallery_id": pinned.id, "subject_id": into}
    kept = ("uid", "created_at", "weight")
    new = [
        {**shared, "vector": blob, "moved": came or row.moved, **{one: getattr(row, one) for one in kept}}
        for row, blob in pairs
    ]
    made = connection.scalars(insert(template).returning(template.c.id, sort_by_parameter_order=True), new).all()
    return EntryChange(np.array(ids, np.int64), np.array(made, np.int64), moving.vectors)


def _living(connection: Connection, moving: _Moving, subject_id: int) -> int:
    oldest = oldest_alive(moving.pinned.max_age_seconds, moving.now)
    dates = select(template.c.created_at).where(template.c.subject_id == subject_id)
    return sum(created_at > oldest for created_at in connection.scalars(dates))
