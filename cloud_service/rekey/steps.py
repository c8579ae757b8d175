"""The steps of a change of key in the record; each is one short transaction.

::

    gallery.key_version = v, next_contract null   each template: its vector, under key version v
    begin                                         next_contract = the contract of key version v + 1
    name, request by request                      + subject.next_name, sealed under the next key
    stage, batch by batch                         + rows of rekeyed_template, version v + 1, under the next names;
                                                  matching reads template
    switch, one transaction                       gallery.key_version = v + 1 and its contract, next names are the
                                                  names; matching reads rekeyed_template
    settle, batch by batch                        rows of rekeyed_template are moved over the vectors in template

A crash between two steps loses nothing. What was staged is found staged. Until the switch is committed, all of the
gallery is under the old key; from then on, under the new one. Callers of what writes here hold the store's write lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, delete, func, insert, select, update

from cloud_service.audit.log import Action, append_for
from cloud_service.record.checksums import to_blobs
from cloud_service.record.queries import (
    PinnedGallery,
    Stored,
    damaged_gallery,
    galleries_where,
    gallery_row,
    hold_gallery,
    in_parts,
    pinned_from,
    refuse_rekeyed,
    renew_checksum,
    touch_subjects,
)
from cloud_service.record.record import Record
from cloud_service.record.tables import gallery, rekeyed, subject, template
from shared.contract import Contract
from shared.errors import Conflict, RecordDamaged


class StillNeeded(Exception):
    """A name or a matrix of a subject is not here yet; the status asks for it."""


@dataclass(frozen=True, slots=True)
class RekeyProgress:
    """How far a change of key is.

    ``staged`` are written under the next key, ``unsettled`` not yet overwritten under the present one.
    """

    pinned: PinnedGallery
    contract: Contract
    next_contract: Contract | None
    templates: int
    staged: int
    unsettled: int


# Returns the (n, dim) float32 templates under the new key.
Rotate = Callable[[Stored], NDArray[np.float32]]


class RekeySteps:
    """The steps of a change of key.

    Args:
        record: where the galleries are.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._database = record.database

    def progress(self, name: str) -> RekeyProgress:
        """How far a gallery is.

        Raises:
            NotFound: there is none of this name.
        """
        with self._database.read() as connection:
            row = gallery_row(connection, select(gallery).where(gallery.c.name == name))
            pinned = pinned_from(row)
            staged, unsettled = (_count(connection, pinned, pinned.key_version + ahead) for ahead in (1, 0))
        contract = Contract.model_validate(row.contract)
        return RekeyProgress(pinned, contract, _next_contract(row), row.templates, staged, unsettled)

    def unsettled(self) -> list[PinnedGallery]:
        """The galleries that still hold templates under the key before the present one."""
        left = select(rekeyed.c.id).where(
            rekeyed.c.gallery_id == gallery.c.id, rekeyed.c.key_version == gallery.c.key_version
        )
        with self._database.read() as connection:
            return galleries_where(connection, left.exists())[0]

    def begin(self, pinned: PinnedGallery, contract: Contract, by: str | None) -> None:
        """Writes down the next contract; ``by`` is the id of the caller's API key.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
            Conflict: another change is under way.
        """
        with self._database.write() as connection:
            under_way = _next_contract(_locked(connection, pinned))
            if under_way not in (None, contract):
                raise Conflict(
                    "Another change of this gallery's key is under way; wait, or abandon it.", reason="rekey_under_way"
                )
            _change(connection, pinned, next_contract=contract.model_dump(mode="json"))
            if under_way is None:
                append_for(connection, pinned, Action.REKEY_BEGUN, by, contract=contract.digest())

    def name(self, pinned: PinnedGallery, contract: Contract, names: Mapping[str, str]) -> None:
        """Writes down what subjects are called under the next key; leaves those that have a next name as they are.

        Args:
            pinned: the gallery.
            contract: of its next key version.
            names: sealed ones, by the present ones; those of subjects that are not there are left out.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
            Conflict: this change was abandoned meanwhile.
        """
        with self._database.write() as connection:
            _refuse_abandoned(_locked(connection, pinned), contract)
            bound = [{"gallery": pinned.id, "now": now, "then": then} for now, then in names.items()]
            connection.execute(_NAME, bound)

    def unnamed(self, pinned: PinnedGallery, limit: int) -> list[str]:
        """Some subjects, by their present names, that have no name under the next key."""
        query = _unnamed(pinned, subject.c.name).order_by(subject.c.id).limit(limit)
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def unstaged(self, pinned: PinnedGallery, beyond: int, limit: int, of_subject: str | None = None) -> Stored:
        """The next templates that are not under the new key yet.

        Args:
            pinned: the gallery.
            beyond: an id; templates up to it are left out.
            limit: the most of them.
            of_subject: only this one's.

        Raises:
            RecordDamaged: one of them is damaged.
        """
        with self._database.read() as connection:
            return self._read(pinned, _unstaged(connection, pinned, beyond, limit, of_subject))

    def without_matrix(self, pinned: PinnedGallery, beyond: int, limit: int) -> Sequence[Any]:
        """Rows, with ``id`` and ``name``, of the next templates that are not under the new key, unchecked."""
        with self._database.read() as connection:
            return _unstaged(connection, pinned, beyond, limit)

    def stage(self, pinned: PinnedGallery, contract: Contract, some: Stored, vectors: NDArray[np.float32]) -> None:
        """Writes templates under the new key beside the old ones; skips erased ones.

        Args:
            pinned: the gallery.
            contract: of its next key version.
            some: n templates under the present key, n over 0.
            vectors: (n, dim) float32, the same under the new key: unit rows.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
            Conflict: this change was abandoned meanwhile.
            StillNeeded: a subject has no next name; nothing is changed then.
        """
        with self._database.write() as connection:
            _refuse_abandoned(_locked(connection, pinned), contract)
            _write(connection, pinned, some, vectors)

    def switch(self, pinned: PinnedGallery, contract: Contract, rotate: Rotate, beyond: int, by: str | None) -> None:
        """Makes the new key the gallery's, for all templates and names or for none.

        Args:
            pinned: the gallery.
            contract: of its next key version.
            rotate: for templates that were enrolled since the others were staged.
            beyond: an id up to which all were staged.
            by: the id of the caller's API key, for the audit log.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
            Conflict: this change was abandoned meanwhile, or two subjects would have one name.
            StillNeeded: a subject has no next name; nothing is changed then.
            RecordDamaged: one of those that were enrolled since is damaged; nothing is changed then.
            Exception: whatever ``rotate`` raises; nothing is changed then.
        """
        with self._database.write() as connection:
            row = _locked(connection, pinned)
            _refuse_abandoned(row, contract)
            late = self._read(pinned, _unstaged(connection, pinned, beyond))
            if len(late.ids):
                _write(connection, pinned, late, rotate(late))
            if _count(connection, pinned, pinned.key_version + 1) != row.templates:
                raise RuntimeError("A template is not under the new key; nothing was changed.")
            after = pinned.rekeyed(contract)
            _rename_all(connection, pinned)
            _change(
                connection,
                pinned,
                sealed_names=after.sealed_names,
                key_version=after.key_version,
                contract=contract.model_dump(mode="json"),
                contract_digest=after.contract_digest,
                next_contract=None,
            )
            renew_checksum(connection, pinned.id)
            self._record.journal.dropped(connection, pinned)
            append_for(connection, pinned, Action.REKEY_FLIPPED, by, contract=after.contract_digest)

    def settle(self, pinned: PinnedGallery, limit: int) -> bool:
        """Overwrites some templates under the old key; false when none is left.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed once more meanwhile.
        """
        with self._database.write() as connection:
            _locked(connection, pinned)
            rows = _some(pinned, pinned.key_version, limit)
            new = select(rekeyed.c.vector).where(rekeyed.c.template_id == template.c.id).scalar_subquery()
            which = template.c.id.in_(rows.with_only_columns(rekeyed.c.template_id).subquery().select())
            connection.execute(update(template).where(which).values(vector=new))
            return _delete(connection, rows)

    def discard(self, pinned: PinnedGallery, limit: int) -> bool:
        """Removes some staged templates and next names, at last the next contract; false when none is left.

        Raises:
            NotFound: the gallery was erased meanwhile. ContractMismatch: its key was changed meanwhile.
        """
        with self._database.write() as connection:
            _locked(connection, pinned)
            some = _delete(connection, _some(pinned, pinned.key_version + 1, limit))
            named = select(subject.c.id).where(subject.c.gallery_id == pinned.id, subject.c.next_name.is_not(None))
            which = subject.c.id.in_(named.order_by(subject.c.id).limit(limit).subquery().select())
            some |= bool(connection.execute(update(subject).where(which).values(next_name=None)).rowcount)
            if not some:
                _change(connection, pinned, next_contract=None)
            return some

    def _read(self, pinned: PinnedGallery, rows: Sequence[Any]) -> Stored:
        found = self._record.vectors.read(pinned, rows)
        if len(found.damaged):
            raise RecordDamaged(
                "A stored template of this gallery is damaged, so the change of its key has stopped. The operator "
                "finds it with `patronus cloud check`, and must erase its subject first.",
                reason="template_damaged",
            )
        return found


def _locked(connection: Connection, pinned: PinnedGallery) -> Row[Any]:
    """The gallery's row, which nobody else changes until the transaction ends."""
    row = hold_gallery(connection, pinned.id)
    refuse_rekeyed(pinned, row)
    return row


def _change(connection: Connection, pinned: PinnedGallery, **values: Any) -> None:
    connection.execute(update(gallery).where(gallery.c.id == pinned.id).values(values))


def _next_contract(row: Row[Any]) -> Contract | None:
    try:
        return None if row.next_contract is None else Contract.model_validate(row.next_contract)
    except ValueError:
        raise damaged_gallery(row.id) from None


def _refuse_abandoned(row: Row[Any], contract: Contract) -> None:
    if _next_contract(row) != contract:
        raise Conflict(
            "This change of the gallery's key was abandoned meanwhile; begin it again.", reason="rekey_abandoned"
        )


def _unstaged(
    connection: Connection,
    pinned: PinnedGallery,
    beyond: int,
    limit: int | None = None,
    of_subject: str | None = None,
) -> Sequence[Any]:
    whose = template.c.gallery_id == pinned.id
    if of_subject is not None:
        one = select(subject.c.id).where(subject.c.gallery_id == pinned.id, subject.c.name == of_subject)
        whose = template.c.subject_id == one.scalar_subquery()
    query = (
        select(template.c.id, subject.c.name, template.c.weight, template.c.vector)
        .join(subject, subject.c.id == template.c.subject_id)
        .outerjoin(rekeyed, rekeyed.c.template_id == template.c.id)
        .where(whose, template.c.id > beyond, rekeyed.c.id.is_(None))
        .order_by(template.c.id)
        .limit(limit)
    )
    return connection.execute(query).all()


# Where a next name is, templates may be staged under it.
_NAME = (
    update(subject)
    .where(subject.c.gallery_id == bindparam("gallery"), subject.c.name == bindparam("now"))
    .where(subject.c.next_name.is_(None))
    .values(next_name=bindparam("then"))
)


def _unnamed(pinned: PinnedGallery, *columns: Any) -> Select[Any]:
    return select(*columns).where(subject.c.gallery_id == pinned.id, subject.c.next_name.is_(None))


def _rename_all(connection: Connection, pinned: PinnedGallery) -> None:
    """Gives all subjects their next names."""
    if connection.execute(_unnamed(pinned, subject.c.id).limit(1)).first() is not None:
        raise StillNeeded
    mine, other = subject.c.gallery_id == pinned.id, subject.alias()
    names = select(func.count(), func.count(subject.c.next_name.distinct())).where(mine)
    taken = select(other.c.id).where(other.c.gallery_id == subject.c.gallery_id, other.c.name == subject.c.next_name)
    subjects, different = connection.execute(names).one()
    if subjects != different or connection.scalar(select(subject.c.id).where(mine, taken.exists()).limit(1)):
        raise Conflict(
            "Two subjects would have one name under the gallery's new key, so nothing was changed. Abandon the change "
            "(DELETE .../rekey), and begin it again with a name of its own for each.",
            reason="name_taken",
        )
    touch_subjects(connection, pinned.id, [], removed=True)
    version = select(gallery.c.subjects_version).where(gallery.c.id == pinned.id).scalar_subquery()
    changed = {"name": subject.c.next_name, "next_name": None, "version": version}
    connection.execute(update(subject).where(mine).values(changed))


def _write(connection: Connection, pinned: PinnedGallery, some: Stored, vectors: NDArray[np.float32]) -> None:
    wanted = (
        select(template.c.id, subject.c.next_name)
        .join(subject, subject.c.id == template.c.subject_id)
        .outerjoin(rekeyed, rekeyed.c.template_id == template.c.id)
    )
    next_names: dict[int, str] = {}
    for part in in_parts(some.ids):
        here = wanted.where(template.c.id.in_(part.tolist()), rekeyed.c.id.is_(None))
        next_names.update((row.id, row.next_name) for row in connection.execute(here))
    if None in next_names.values():
        raise StillNeeded
    there = [at for at, one in enumerate(some.ids.tolist()) if one in next_names]
    if not there:
        return
    ids = some.ids[there].tolist()
    owners = [next_names[one] for one in ids]
    blobs = to_blobs(vectors[there], some.weights[there], owners, pinned.id, pinned.key_version + 1)
    shared = {"gallery_id": pinned.id, "key_version": pinned.key_version + 1}
    rows = [{**shared, "template_id": one, "vector": blob} for one, blob in zip(ids, blobs, strict=True)]
    connection.execute(insert(rekeyed), rows)


def _some(pinned: PinnedGallery, key_version: int, limit: int) -> Select[Any]:
    which = (rekeyed.c.gallery_id == pinned.id) & (rekeyed.c.key_version == key_version)
    return select(rekeyed.c.id).where(which).order_by(rekeyed.c.id).limit(limit)


def _delete(connection: Connection, rows: Select[Any]) -> bool:
    return bool(connection.execute(delete(rekeyed).where(rekeyed.c.id.in_(rows.subquery().select()))).rowcount)


def _count(connection: Connection, pinned: PinnedGallery, key_version: int) -> int:
    which: ColumnElement[bool] = (rekeyed.c.gallery_id == pinned.id) & (rekeyed.c.key_version == key_version)
    return int(connection.scalar(select(func.count()).select_from(rekeyed).where(which)) or 0)
