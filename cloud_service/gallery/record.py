"""The record: which galleries, subjects and templates there are. The truth; the index is derived from it.

Only the store calls what writes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, insert, select, update

from cloud_service.gallery.audit import Action, noted, subject_mark
from cloud_service.gallery.clock import RecordClock
from cloud_service.gallery.database import Database
from cloud_service.gallery.rows import Added, NewRow, PinnedGallery, Removed, Stored, to_bytes, to_rows
from cloud_service.gallery.tables import gallery, subject, template, turned
from shared.contract import Contract
from shared.errors import Conflict, ContractMismatch, NotFound
from shared.scores import CosineThreshold
from shared.wire.cloud import GallerySpec, IndexKind
from shared.wire.common import TemplateInfo

# How many ids one query names; under the least limit on a statement's parameters (SQLite's was 999).
IDS_A_QUERY = 500
# How far two float32 unit vectors may be apart that are one template, sealed by two ways: by the edge under a gallery's
# new key, or under its old key and then turned here. Both round some d times, by 6e-8 of what is at most 1.
_ROUNDING = 1e-5
# A template under the key of its gallery's turn: what was turned to it, until that is in the template's own row.
_NOW = func.coalesce(turned.c.vector, template.c.vector).label("vector")
_TURNED_NOW = and_(turned.c.template_id == template.c.id, turned.c.turn == gallery.c.turn)
_VECTORS = (
    select(subject.c.name, _NOW)
    .join(template, subject.c.id == template.c.subject_id)
    .join(gallery, gallery.c.id == subject.c.gallery_id)
    .outerjoin(turned, _TURNED_NOW)
    .where(subject.c.gallery_id == bindparam("gallery"), subject.c.name.in_(bindparam("subjects", expanding=True)))
    .where(template.c.created_at > bindparam("after"))
)
# How many bytes of vectors are read at a time when an index is rebuilt.
_BATCH_BYTES = 16 * 1024 * 1024
# Before all templates: where nothing expires, all are younger.
_EVER = datetime(1, 1, 1, tzinfo=UTC)


Batch = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Ids, (n,), and vectors, (n, dim), of some templates."""


class Journal(Protocol):
    """What an index has written down with each change of templates, within its transaction.

    Each is given the (n,) int64 ids of the templates, n at least 1.
    """

    def added(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates are added."""

    def removed(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates are removed."""

    def dropped(self, connection: Connection, pinned: PinnedGallery) -> None:
        """A gallery is removed with all of its templates."""

    def turned(self, connection: Connection, before: PinnedGallery, after: PinnedGallery) -> None:
        """A gallery's key is changed: every template of it is now what it is in the next turn."""


class Record:
    """Galleries, subjects and templates in SQL.

    Args:
        database: where they are.
        journal: what is written with each change.
        max_templates_a_gallery: the most that one gallery may hold.
        max_templates_a_subject: the most that one subject may have.
        clock: by what time templates age.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        max_templates_a_gallery: int,
        max_templates_a_subject: int,
        clock: RecordClock,
    ) -> None:
        self.database = database
        self.clock = clock
        self.journal = journal
        self._max_templates_a_gallery = max_templates_a_gallery
        self._max_templates_a_subject = max_templates_a_subject

    def gallery(self, name: str) -> PinnedGallery:
        """The gallery of this name.

        Raises:
            NotFound: there is none.
        """
        with self.database.read() as connection:
            return _pinned(connection, gallery.c.name == name)

    def require(self, pinned: PinnedGallery) -> None:
        """Checks that a gallery is still there, and under the same key.

        Raises:
            NotFound: it was erased meanwhile, whatever may bear its name now.
            ContractMismatch: its key was changed meanwhile.
        """
        with self.database.read() as connection:
            refuse_turned(pinned, _pinned(connection, gallery.c.id == pinned.id))

    def galleries(self) -> list[PinnedGallery]:
        """All galleries, in the order of their ids."""
        with self.database.read() as connection:
            return [pinned_from(row) for row in connection.execute(select(gallery).order_by(gallery.c.id))]

    def find(self, gallery_id: int) -> PinnedGallery | None:
        """The gallery of this id; None: it was erased."""
        try:
            with self.database.read() as connection:
                return _pinned(connection, gallery.c.id == gallery_id)
        except NotFound:
            return None

    def put_gallery(self, name: str, spec: GallerySpec, by: str | None) -> tuple[PinnedGallery, bool]:
        """Makes a gallery, or finds it made alike; says which: true when it is new.

        Raises:
            ContractMismatch: it exists with another contract.
            Conflict: it exists with another threshold.
        """
        digest = spec.contract.digest()
        with self.database.write() as connection:
            found = connection.execute(select(gallery).where(gallery.c.name == name)).first()
            if found is None:
                connection.execute(
                    insert(gallery).values(
                        name=name,
                        contract=spec.contract.model_dump(mode="json"),
                        contract_digest=digest,
                        dim=spec.contract.dim,
                        threshold_cosine=spec.threshold.cosine,
                        threshold_fmr=spec.threshold.fmr,
                        created_at=self.clock.now(),
                    )
                )
            pinned = _pinned(connection, gallery.c.name == name)
            if found is None:
                noted(connection, pinned, Action.GALLERY_MADE, by, contract=digest)
        if pinned.contract_digest != digest:
            raise ContractMismatch(
                "The gallery exists with another contract; use another name, or the edge it was made by.",
                expected=pinned.contract_digest,
                given=digest,
            )
        if (pinned.threshold.cosine.value, pinned.fmr) != (spec.threshold.cosine, spec.threshold.fmr):
            raise Conflict(
                "The gallery exists with another threshold; send the one it has, or use another name.",
                reason="threshold_differs",
            )
        return pinned, found is None

    def add_templates(
        self,
        pinned: PinnedGallery,
        name: str,
        rows: Sequence[NewRow],
        by: str | None,
        also: Callable[[Connection], None] = lambda _connection: None,
    ) -> Added:
        """Stores templates of one subject, all or none. Those stored before, alike, are answered as they were.

        One that has expired and was not erased yet begins anew.

        Args:
            pinned: the gallery.
            name: of the subject; it is made with its first template.
            rows: the templates, with distinct ids.
            by: the id of the caller's API key, for the audit log.
            also: writes what is to be stored with them or not at all.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile.
            Conflict: an id is taken by another template, or the gallery or the subject is full.
        """
        with self.database.write() as connection:
            held = counted(connection, pinned.id, 0)
            refuse_turned(pinned, _pinned(connection, gallery.c.id == pinned.id))
            also(connection)
            known = _known(connection, pinned.id, name, rows)
            new = [row for row in rows if row.uid not in known]
            now = self.clock.now()
            oldest = oldest_alive(pinned.max_age_seconds, now)
            renewed = [uid for uid, created_at in known.items() if created_at <= oldest]
            if renewed:
                which = (template.c.gallery_id == pinned.id) & template.c.uid.in_(renewed)
                connection.execute(update(template).where(which).values(created_at=now))
                known.update(dict.fromkeys(renewed, now))
            ids: list[int] = []
            if new:
                self._refuse_when_full(connection, pinned.id, name, len(new), held)
                subject_id = _subject_id(connection, pinned.id, name, now)
                shared = {"gallery_id": pinned.id, "subject_id": subject_id, "created_at": now}
                added = connection.scalars(
                    insert(template).returning(template.c.id, sort_by_parameter_order=True),
                    [{**shared, "uid": row.uid, "vector": to_bytes(row.vector)} for row in new],
                )
                ids = list(added)
                counted(connection, pinned.id, len(ids))
                self.journal.added(connection, pinned, np.array(ids, dtype=np.int64))
            if new or renewed:
                noted(connection, pinned, Action.TEMPLATES_ENROLLED, by, templates=len(new) + len(renewed))
        return Added(
            answers=[TemplateInfo(id=row.uid, created_at=known.get(row.uid, now)) for row in rows],
            ids=np.array(ids, dtype=np.int64),
            vectors=np.array([row.vector for row in new], dtype=np.float32).reshape(len(new), pinned.dim),
        )

    def erase_gallery(self, name: str, by: str | None) -> tuple[PinnedGallery, Removed]:
        """Removes a gallery and all in it.

        Raises:
            NotFound: there is none.
        """
        with self.database.write(long=True) as connection:
            pinned = _pinned(connection, gallery.c.name == name)
            templates = counted(connection, pinned.id, 0)
            subjects = _count(connection, subject.c.gallery_id == pinned.id)
            self.journal.dropped(connection, pinned)
            connection.execute(delete(turned).where(turned.c.gallery_id == pinned.id))
            connection.execute(delete(template).where(template.c.gallery_id == pinned.id))
            connection.execute(delete(subject).where(subject.c.gallery_id == pinned.id))
            connection.execute(delete(gallery).where(gallery.c.id == pinned.id))
            receipt = noted(connection, pinned, Action.GALLERY_ERASED, by, subjects=subjects, templates=templates)
        return pinned, Removed(subjects, templates, receipt, np.empty(0, np.int64))

    def erase_subject(self, pinned: PinnedGallery, name: str, by: str | None) -> Removed:
        """Removes a subject and all of its templates.

        Raises:
            NotFound: there is none.
        """
        with self.database.write() as connection:
            counted(connection, pinned.id, 0)
            subject_id = find_subject(connection, pinned.id, name)
            ids, gone = self.remove(connection, pinned, template.c.subject_id == subject_id, [subject_id])
            who = subject_mark(connection, pinned.id, name)
            receipt = noted(
                connection, pinned, Action.SUBJECT_ERASED, by, subject=who, subjects=gone, templates=len(ids)
            )
        return Removed(gone, len(ids), receipt, ids)

    def erase_template(self, pinned: PinnedGallery, name: str, uid: str, by: str | None) -> Removed:
        """Removes a template, and its subject with the last one.

        Raises:
            NotFound: there is no such subject, or it has no such template.
        """
        with self.database.write() as connection:
            counted(connection, pinned.id, 0)
            subject_id = find_subject(connection, pinned.id, name)
            which = (template.c.subject_id == subject_id) & (template.c.uid == uid)
            ids, gone = self.remove(connection, pinned, which, [subject_id])
            if not len(ids):
                raise NotFound("The subject has no template with this id.", reason="unknown_template")
            who = subject_mark(connection, pinned.id, name)
            receipt = noted(
                connection, pinned, Action.TEMPLATE_ERASED, by, subject=who, template=uid, subjects=gone, templates=1
            )
        return Removed(gone, 1, receipt, ids)

    def hold(self, connection: Connection, pinned: PinnedGallery) -> PinnedGallery:
        """A gallery as it is now, which nobody else changes until the transaction ends.

        Raises:
            NotFound: it was erased meanwhile.
        """
        counted(connection, pinned.id, 0)
        return _pinned(connection, gallery.c.id == pinned.id)

    def remove(
        self, connection: Connection, pinned: PinnedGallery, which: ColumnElement[bool], subject_ids: Iterable[int]
    ) -> tuple[NDArray[np.int64], int]:
        """Removes templates, in a transaction that holds the gallery, and those of the subjects that have none left.

        Returns:
            the (n,) int64 ids of the templates, and how many subjects are gone.
        """
        ids = np.array(list(connection.scalars(delete(template).where(which).returning(template.c.id))), dtype=np.int64)
        bare = ~exists().where(template.c.subject_id == subject.c.id)
        gone = connection.execute(delete(subject).where(subject.c.id.in_(list(subject_ids)), bare)).rowcount
        if len(ids):
            counted(connection, pinned.id, -len(ids))
            self.journal.removed(connection, pinned, ids)
        return ids, gone

    def subject_vectors(
        self, gallery_name: str, names: Iterable[str]
    ) -> tuple[PinnedGallery, dict[str, NDArray[np.float32]]]:
        """A gallery, and all templates of some of its subjects; all of it as it is at one moment. None has expired.

        Returns:
            the gallery, and by subject (n, dim) float32, n at least 1; subjects that are not there are left out.

        Raises:
            NotFound: there is no such gallery.
        """
        wanted = list(dict.fromkeys(names))
        blobs: dict[str, list[bytes]] = {}
        with self.database.read() as connection:
            pinned = _pinned(connection, gallery.c.name == gallery_name)
            after = oldest_alive(pinned.max_age_seconds, self.clock.now())
            for start in range(0, len(wanted), IDS_A_QUERY):
                asked = {"gallery": pinned.id, "subjects": wanted[start : start + IDS_A_QUERY], "after": after}
                for name, vector in connection.execute(_VECTORS, asked):
                    blobs.setdefault(name, []).append(vector)
        return pinned, {name: to_rows(found, pinned.dim) for name, found in blobs.items()}

    def stored(self, pinned: PinnedGallery, ids: NDArray[np.int64], *, expired: bool = False) -> Iterator[Stored]:
        """Those of the templates that are in the record now, some hundred at a time.

        Args:
            pinned: the gallery.
            ids: (n,) int64.
            expired: also those that match nobody any more, and are yet to be erased.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile.
        """
        for start in range(0, len(ids), IDS_A_QUERY):
            after = _EVER if expired else oldest_alive(pinned.max_age_seconds, self.clock.now())
            yield self._stored(pinned, ids[start : start + IDS_A_QUERY], after)

    def _stored(self, pinned: PinnedGallery, ids: NDArray[np.int64], after: datetime) -> Stored:
        query = (
            select(template.c.id, subject.c.name, _NOW, gallery.c.turn, gallery.c.contract_digest)
            .join(subject, subject.c.id == template.c.subject_id)
            .join(gallery, gallery.c.id == template.c.gallery_id)
            .outerjoin(turned, _TURNED_NOW)
        )
        wanted = template.c.id.in_([int(found) for found in ids])
        with self.database.read() as connection:
            rows = connection.execute(
                query.where(template.c.gallery_id == pinned.id, wanted, template.c.created_at > after)
            ).all()
        for row in rows[:1]:
            refuse_turned(pinned, row)
        return Stored(
            ids=np.array([row.id for row in rows], dtype=np.int64),
            subjects=[row.name for row in rows],
            vectors=to_rows([row.vector for row in rows], pinned.dim),
        )

    def batches(self, pinned: PinnedGallery, after: int = 0) -> Iterator[Batch]:
        """The templates of a gallery in the order of ids, a few MB at a time.

        Args:
            pinned: the gallery as it is; or as it will be in its next turn, and then those that were turned already.
            after: the id that they begin behind.

        Returns:
            (n,) int64 ids and (n, dim) float32 vectors.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile.
        """
        rows_a_batch = max(1, _BATCH_BYTES // (4 * pinned.dim))
        query = (
            select(template.c.id, _NOW, gallery.c.turn, gallery.c.contract_digest)
            .join(gallery, gallery.c.id == template.c.gallery_id)
            .outerjoin(turned, and_(turned.c.template_id == template.c.id, turned.c.turn == pinned.turn))
            .where(template.c.gallery_id == pinned.id, (gallery.c.turn == pinned.turn) | turned.c.id.is_not(None))
            .order_by(template.c.id)
            .limit(rows_a_batch)
        )
        last = after
        while True:
            with self.database.read() as connection:
                rows = connection.execute(query.where(template.c.id > last)).all()
            for row in rows[:1]:
                if row.turn + 1 != pinned.turn:
                    refuse_turned(pinned, row)
            if not rows:
                return
            last = rows[-1].id
            yield np.array([row.id for row in rows], dtype=np.int64), to_rows([row.vector for row in rows], pinned.dim)

    def batches_without(self, pinned: PinnedGallery, known: NDArray[np.int64]) -> Iterator[Batch]:
        """The templates of a gallery but for those whose ids are known already, as ``batches`` gives them.

        Args:
            pinned: the gallery.
            known: (k,) int64, ids that the record has.
        """
        last = int(known.max(initial=0))
        query = select(func.count()).where(template.c.gallery_id == pinned.id, template.c.id > last)
        with self.database.read() as connection:
            held = connection.scalar(select(gallery.c.templates).where(gallery.c.id == pinned.id)) or 0
            later = connection.scalar(query) or 0
            among = np.empty(0, np.int64)
            if held - later != len(known):
                mine = select(template.c.id).where(template.c.gallery_id == pinned.id, template.c.id <= last)
                among = np.setdiff1d(np.fromiter(connection.scalars(mine), np.int64), known)
        for start in range(0, len(among), IDS_A_QUERY):
            stored = self._stored(pinned, among[start : start + IDS_A_QUERY], _EVER)
            yield stored.ids, stored.vectors
        yield from self.batches(pinned, last)

    def pin_index(self, name: str, kind: IndexKind | None) -> PinnedGallery:
        """Writes down how a gallery shall be searched; None: by the number of its templates.

        Raises:
            NotFound: there is no such gallery.
        """
        with self.database.write() as connection:
            connection.execute(update(gallery).where(gallery.c.name == name).values(index_kind=kind))
            return _pinned(connection, gallery.c.name == name)

    def _refuse_when_full(self, connection: Connection, gallery_id: int, name: str, new: int, held: int) -> None:
        if held + new > self._max_templates_a_gallery:
            raise Conflict("The gallery is full; erase templates, or use another gallery.", reason="gallery_full")
        of_subject = connection.scalar(
            select(func.count())
            .select_from(template.join(subject, subject.c.id == template.c.subject_id))
            .where(subject.c.gallery_id == gallery_id, subject.c.name == name)
        )
        if (of_subject or 0) + new > self._max_templates_a_subject:
            raise Conflict("The subject has too many templates; erase some first.", reason="subject_full")


def oldest_alive(max_age_seconds: int | None, now: datetime) -> datetime:
    """The moment after which a template must have been stored to match now."""
    return _EVER if max_age_seconds is None else now - timedelta(seconds=max_age_seconds)


def refuse_turned(pinned: PinnedGallery, now: Any) -> None:
    """Refuses to go on with a gallery whose key was changed since it was read.

    Args:
        pinned: the gallery as it was read.
        now: what has its ``turn`` and ``contract_digest`` as they are.

    Raises:
        ContractMismatch: it is in another turn.
    """
    if now.turn != pinned.turn:
        raise ContractMismatch(
            "The gallery's key was changed a moment ago; make the templates anew under its new contract.",
            expected=now.contract_digest,
            given=pinned.contract_digest,
        )


def _pinned(connection: Connection, which: ColumnElement[bool]) -> PinnedGallery:
    row = connection.execute(select(gallery).where(which)).first()
    if row is None:
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")
    return pinned_from(row)


def pinned_from(row: Any) -> PinnedGallery:
    """A gallery, from its row."""
    return PinnedGallery(
        id=row.id,
        name=row.name,
        contract_digest=row.contract_digest,
        dim=row.dim,
        threshold=CosineThreshold.of(row.threshold_cosine),
        fmr=row.threshold_fmr,
        verify_only=Contract.model_validate(row.contract).verify_only,
        turn=row.turn,
        max_age_seconds=row.max_age_seconds,
        index_kind=row.index_kind,
    )


def find_subject(connection: Connection, gallery_id: int, name: str) -> int:
    """The id of a subject.

    Raises:
        NotFound: the gallery has no such subject.
    """
    query = select(subject.c.id).where(subject.c.gallery_id == gallery_id, subject.c.name == name)
    found = connection.scalar(query)
    if found is None:
        raise NotFound("The gallery has no subject of this name.", reason="unknown_subject")
    return int(found)


def _subject_id(connection: Connection, gallery_id: int, name: str, now: datetime) -> int:
    try:
        return find_subject(connection, gallery_id, name)
    except NotFound:
        made = insert(subject).values(gallery_id=gallery_id, name=name, created_at=now).returning(subject.c.id)
        return int(connection.scalars(made).one())


def _known(connection: Connection, gallery_id: int, name: str, rows: Sequence[NewRow]) -> dict[str, datetime]:
    """When those of the templates that are stored already were stored, by their ids on the wire."""
    sent = {row.uid: row.vector for row in rows}
    found = connection.execute(
        select(template.c.uid, _NOW, template.c.created_at, subject.c.name)
        .join(subject, subject.c.id == template.c.subject_id)
        .join(gallery, gallery.c.id == template.c.gallery_id)
        .outerjoin(turned, _TURNED_NOW)
        .where(template.c.gallery_id == gallery_id, template.c.uid.in_(list(sent)))
    ).all()
    if any(row.name != name or not _alike(row.vector, sent[row.uid]) for row in found):
        raise Conflict(
            "A template id of the request belongs to another template already; choose a new id.",
            reason="template_id_taken",
        )
    return {row.uid: row.created_at for row in found}


def _alike(stored: bytes, sent: NDArray[np.float32]) -> bool:
    [vector] = to_rows([stored], len(sent))
    return float(np.linalg.norm(vector.astype(np.float64) - sent)) <= _ROUNDING


def counted(connection: Connection, gallery_id: int, more: int) -> int:
    """Adds to the number of a gallery's templates and gives it; whoever else changes the gallery waits from here on.

    Raises:
        NotFound: the gallery was erased meanwhile.
    """
    change = update(gallery).where(gallery.c.id == gallery_id).values(templates=gallery.c.templates + more)
    held = connection.scalar(change.returning(gallery.c.templates))
    if held is None:
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")
    return int(held)


def _count(connection: Connection, which: ColumnElement[bool]) -> int:
    return int(connection.scalar(select(func.count()).where(which)) or 0)
