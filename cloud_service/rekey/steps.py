"""A change of a gallery's key in the record, step by step; each step is a short transaction of its own.

::

    gallery.turn = t, next_contract null     each template: its vector, under the key of turn t
    begin                                 next_contract = the contract of turn t + 1
    stage, batch by batch                 + a row of turned, turn t + 1; matching takes the template's own vector
    flip, one transaction                 gallery.turn = t + 1, its contract the new one; matching takes turned
    settle, batch by batch                the vector is overwritten with that of turned, whose row goes

Who is killed between two steps has lost nothing: what was staged is found staged, and until the flip is committed all
of the gallery is under the old key, and from then on under the new one. Who calls what writes here holds the store's
right to write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, Select, delete, func, insert, select, update

from cloud_service.audit.log import Action, noted
from cloud_service.record.checksums import from_blobs, to_blobs
from cloud_service.record.damage import KnownDamage, stops_rekey
from cloud_service.record.database import Database
from cloud_service.record.queries import (
    IDS_A_QUERY,
    counted,
    damaged_gallery,
    galleries_where,
    pinned_from,
    refuse_turned,
    renew_checksum,
)
from cloud_service.record.record import Journal
from cloud_service.record.rows import PinnedGallery
from cloud_service.record.tables import gallery, subject, template, turned
from shared.contract import Contract
from shared.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class UnderWay:
    """How far a change of key is: the gallery, its contract, the one to come if any, and how many templates there are.

    ``staged`` are written under the key to come, ``unsettled`` not yet overwritten under the one that is.
    """

    pinned: PinnedGallery
    contract: Contract
    next_contract: Contract | None
    templates: int
    staged: int
    unsettled: int


@dataclass(frozen=True, slots=True)
class Unstaged:
    """Templates that are yet to be turned: (n,) int64 ids in their order, their subjects, and (n, dim) float32 rows."""

    ids: NDArray[np.int64]
    subjects: list[str]
    vectors: NDArray[np.float32] = field(repr=False)


Rotate = Callable[[Unstaged], NDArray[np.float32]]
"""Gives the (n, dim) float32 templates under the new key."""


class RekeySteps:
    """The steps.

    Args:
        database: where the record is.
        journal: what is written with the flip.
        damage: where templates that are found damaged are noted.
    """

    def __init__(self, database: Database, journal: Journal, damage: KnownDamage) -> None:
        self._database = database
        self._journal = journal
        self._damage = damage

    def look(self, name: str) -> UnderWay:
        """How far a gallery is.

        Raises:
            NotFound: there is none of this name.
        """
        with self._database.read() as connection:
            row = _row(connection, gallery.c.name == name)
            pinned = pinned_from(row)
            staged = _count(connection, pinned, pinned.turn + 1)
            unsettled = _count(connection, pinned, pinned.turn)
        next_contract = _contract(row)
        return UnderWay(pinned, Contract.model_validate(row.contract), next_contract, row.templates, staged, unsettled)

    def unsettled(self) -> list[PinnedGallery]:
        """The galleries whose key was changed, and that still hold what the old one sealed."""
        left = select(turned.c.id).where(turned.c.gallery_id == gallery.c.id, turned.c.turn == gallery.c.turn)
        with self._database.read() as connection:
            return galleries_where(connection, left.exists())[0]

    def begin(self, pinned: PinnedGallery, contract: Contract, by: str | None) -> None:
        """Notes what is staged from here on; ``by`` is the id of the caller's API key, for the audit log.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
            Conflict: another change is under way.
        """
        with self._database.write() as connection:
            row = _locked(connection, pinned)
            under_way = _contract(row)
            if under_way not in (None, contract):
                raise Conflict("Another change of this gallery's key is under way.", reason="rekey_under_way")
            connection.execute(
                update(gallery).where(gallery.c.id == pinned.id).values(next_contract=contract.model_dump(mode="json"))
            )
            if under_way is None:
                noted(connection, pinned, Action.REKEY_BEGUN, by, contract=contract.digest())

    def unstaged(self, pinned: PinnedGallery, beyond: int, limit: int, of_subject: str | None = None) -> Unstaged:
        """The next templates that are yet to be turned.

        Args:
            pinned: the gallery.
            beyond: an id; templates up to it are left out.
            limit: the most of them.
            of_subject: only this one's.

        Raises:
            RecordDamaged: one of them is damaged.
        """
        with self._database.read() as connection:
            return self._opened(pinned, _unstaged(connection, pinned, beyond, limit, of_subject))

    def lacking(self, pinned: PinnedGallery, beyond: int, limit: int) -> tuple[list[int], list[str]]:
        """The ids of the next templates that are yet to be turned, and their subjects; they are not read.

        Args:
            pinned: the gallery.
            beyond: an id; templates up to it are left out.
            limit: the most of them.
        """
        with self._database.read() as connection:
            rows = _unstaged(connection, pinned, beyond, limit, None)
        return [row.id for row in rows], [row.name for row in rows]

    def stage(self, pinned: PinnedGallery, contract: Contract, some: Unstaged, vectors: NDArray[np.float32]) -> None:
        """Writes templates under the new key beside the old ones; those that were erased meanwhile are passed over.

        Args:
            pinned: the gallery.
            contract: of its next turn.
            some: n templates under the present key, n over 0.
            vectors: (n, dim) float32, the same under the new key: unit rows.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
            Conflict: this change was abandoned meanwhile.
        """
        with self._database.write() as connection:
            _refuse_abandoned(_locked(connection, pinned), contract)
            _write(connection, pinned, some, vectors)

    def flip(
        self, pinned: PinnedGallery, contract: Contract, turn: Rotate, beyond: int, by: str | None
    ) -> PinnedGallery:
        """Makes the new key the gallery's: all of it or nothing.

        Args:
            pinned: the gallery.
            contract: of its next turn.
            turn: turns those that were enrolled since they were staged.
            beyond: an id up to which all were staged.
            by: the id of the API key of who asked for it, for the audit log.

        Returns:
            The gallery as it is then.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
            Conflict: this change was abandoned meanwhile.
            RecordDamaged: one of those that were enrolled since is damaged; nothing is changed then.
            Exception: whatever ``turn`` raises; nothing is changed then.
        """
        with self._database.write() as connection:
            row = _locked(connection, pinned)
            _refuse_abandoned(row, contract)
            late = self._opened(pinned, _unstaged(connection, pinned, beyond, None, None))
            if len(late.ids):
                _write(connection, pinned, late, turn(late))
            if _count(connection, pinned, pinned.turn + 1) != row.templates:
                raise RuntimeError("A template was not turned; nothing was changed.")
            after = replace(pinned, turn=pinned.turn + 1, contract_digest=contract.digest())
            connection.execute(
                update(gallery)
                .where(gallery.c.id == pinned.id)
                .values(
                    turn=after.turn,
                    contract=contract.model_dump(mode="json"),
                    contract_digest=after.contract_digest,
                    next_contract=None,
                )
            )
            renew_checksum(connection, pinned.id)
            self._journal.turned(connection, pinned, after)
            noted(connection, pinned, Action.REKEY_FLIPPED, by, contract=after.contract_digest)
        return after

    def settle(self, pinned: PinnedGallery, limit: int) -> bool:
        """Overwrites some templates under the old key with those under the new one; false when none is left.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed once more meanwhile.
        """
        with self._database.write() as connection:
            _locked(connection, pinned)
            rows = _some(pinned, pinned.turn, limit).subquery()
            new = select(turned.c.vector).where(turned.c.template_id == template.c.id).scalar_subquery()
            change = update(template).where(template.c.id.in_(select(rows.c.template_id))).values(vector=new)
            connection.execute(change)
            done = connection.execute(delete(turned).where(turned.c.id.in_(select(rows.c.id))))
            return bool(done.rowcount)

    def discard(self, pinned: PinnedGallery, limit: int) -> bool:
        """Removes some of what was staged, and with the last of it the note of a change; false when nothing is left.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
        """
        with self._database.write() as connection:
            _locked(connection, pinned)
            rows = _some(pinned, pinned.turn + 1, limit).subquery()
            if connection.execute(delete(turned).where(turned.c.id.in_(select(rows.c.id)))).rowcount:
                return True
            connection.execute(update(gallery).where(gallery.c.id == pinned.id).values(next_contract=None))
            return False

    def _opened(self, pinned: PinnedGallery, rows: Sequence[Any]) -> Unstaged:
        ids = np.array([row.id for row in rows], dtype=np.int64)
        subjects = [row.name for row in rows]
        vectors, sound = from_blobs([row.vector for row in rows], subjects, pinned.dim, pinned.id, pinned.turn)
        if not sound.all():
            self._damage.found(pinned, ids[~sound].tolist())
            raise stops_rekey()
        return Unstaged(ids, subjects, vectors)


def _row(connection: Connection, which: ColumnElement[bool]) -> Row[Any]:
    row = connection.execute(select(gallery).where(which)).first()
    if row is None:
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")
    return row


def _locked(connection: Connection, pinned: PinnedGallery) -> Row[Any]:
    """The gallery's row; whoever else changes the gallery waits from here on."""
    counted(connection, pinned.id, 0)
    row = _row(connection, gallery.c.id == pinned.id)
    refuse_turned(pinned, row)
    return row


def _contract(row: Row[Any]) -> Contract | None:
    try:
        return None if row.next_contract is None else Contract.model_validate(row.next_contract)
    except ValueError:
        raise damaged_gallery(row.id) from None


def _refuse_abandoned(row: Row[Any], contract: Contract) -> None:
    if _contract(row) != contract:
        raise Conflict("This change of the gallery's key was abandoned meanwhile.", reason="rekey_abandoned")


def _unstaged(
    connection: Connection, pinned: PinnedGallery, beyond: int, limit: int | None, of_subject: str | None
) -> Sequence[Any]:
    whose = template.c.gallery_id == pinned.id
    if of_subject is not None:
        one = select(subject.c.id).where(subject.c.gallery_id == pinned.id, subject.c.name == of_subject)
        whose = template.c.subject_id == one.scalar_subquery()
    query = (
        select(template.c.id, subject.c.name, template.c.vector)
        .join(subject, subject.c.id == template.c.subject_id)
        .outerjoin(turned, turned.c.template_id == template.c.id)
        .where(whose, template.c.id > beyond, turned.c.id.is_(None))
        .order_by(template.c.id)
        .limit(limit)
    )
    return connection.execute(query).all()


def _write(connection: Connection, pinned: PinnedGallery, some: Unstaged, vectors: NDArray[np.float32]) -> None:
    there: set[int] = set()
    for start in range(0, len(some.ids), IDS_A_QUERY):
        asked = some.ids[start : start + IDS_A_QUERY].tolist()
        there.update(connection.scalars(select(template.c.id).where(template.c.id.in_(asked))))
        there.difference_update(connection.scalars(select(turned.c.template_id).where(turned.c.template_id.in_(asked))))
    shared = {"gallery_id": pinned.id, "turn": pinned.turn + 1}
    blobs = to_blobs(vectors, some.subjects, pinned.id, pinned.turn + 1)
    rows = [
        {**shared, "template_id": one, "vector": blob}
        for one, blob in zip(some.ids.tolist(), blobs, strict=True)
        if one in there
    ]
    if rows:
        connection.execute(insert(turned), rows)


def _some(pinned: PinnedGallery, turn: int, limit: int) -> Select[Any]:
    query = select(turned.c.id, turned.c.template_id)
    return query.where(turned.c.gallery_id == pinned.id, turned.c.turn == turn).order_by(turned.c.id).limit(limit)


def _count(connection: Connection, pinned: PinnedGallery, turn: int) -> int:
    query = select(func.count()).where(turned.c.gallery_id == pinned.id, turned.c.turn == turn)
    return int(connection.scalar(query) or 0)
