"""The record: which galleries, subjects and templates there are. The truth; the index is derived from it.

Only the store calls what writes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update

from cloud_service.gallery.database import Database
from cloud_service.gallery.rows import Added, NewRow, PinnedGallery, Removed, Stored, to_bytes, to_rows
from cloud_service.gallery.tables import gallery, subject, template, turned
from shared.contract import Contract
from shared.errors import Conflict, ContractMismatch, NotFound
from shared.scores import CosineThreshold
from shared.wire.cloud import GallerySpec
from shared.wire.common import Erased, TemplateInfo

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
)
# How many bytes of vectors are read at a time when an index is rebuilt.
_BATCH_BYTES = 16 * 1024 * 1024


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
    """

    def __init__(
        self, database: Database, journal: Journal, max_templates_a_gallery: int, max_templates_a_subject: int
    ) -> None:
        self.database = database
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

    def put_gallery(self, name: str, spec: GallerySpec) -> tuple[PinnedGallery, bool]:
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
                        created_at=datetime.now(UTC),
                    )
                )
            pinned = _pinned(connection, gallery.c.name == name)
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

    def add_templates(self, pinned: PinnedGallery, name: str, rows: Sequence[NewRow]) -> Added:
        """Stores templates of one subject, all or none. Those stored before, alike, are answered as they were.

        Args:
            pinned: the gallery.
            name: of the subject; it is made with its first template.
            rows: the templates, with distinct ids.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile.
            Conflict: an id is taken by another template, or the gallery or the subject is full.
        """
        with self.database.write() as connection:
            held = counted(connection, pinned.id, 0)
            refuse_turned(pinned, _pinned(connection, gallery.c.id == pinned.id))
            known = _known(connection, pinned.id, name, rows)
            new = [row for row in rows if row.uid not in known]
            now = datetime.now(UTC)
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
        return Added(
            answers=[TemplateInfo(id=row.uid, created_at=known.get(row.uid, now)) for row in rows],
            ids=np.array(ids, dtype=np.int64),
            vectors=np.array([row.vector for row in new], dtype=np.float32).reshape(len(new), pinned.dim),
        )

    def erase_gallery(self, name: str) -> tuple[PinnedGallery, Erased]:
        """Removes a gallery and all in it.

        Raises:
            NotFound: there is none.
        """
        with self.database.write() as connection:
            pinned = _pinned(connection, gallery.c.name == name)
            templates = counted(connection, pinned.id, 0)
            subjects = _count(connection, subject.c.gallery_id == pinned.id)
            self.journal.dropped(connection, pinned)
            connection.execute(delete(turned).where(turned.c.gallery_id == pinned.id))
            connection.execute(delete(template).where(template.c.gallery_id == pinned.id))
            connection.execute(delete(subject).where(subject.c.gallery_id == pinned.id))
            connection.execute(delete(gallery).where(gallery.c.id == pinned.id))
        return pinned, Erased(subjects=subjects, templates=templates)

    def erase_subject(self, pinned: PinnedGallery, name: str) -> Removed:
        """Removes a subject and all of its templates.

        Raises:
            NotFound: there is none.
        """
        with self.database.write() as connection:
            counted(connection, pinned.id, 0)
            subject_id = find_subject(connection, pinned.id, name)
            return self._remove(connection, pinned, subject_id, template.c.subject_id == subject_id)

    def erase_template(self, pinned: PinnedGallery, name: str, uid: str) -> Removed:
        """Removes a template, and its subject with the last one.

        Raises:
            NotFound: there is no such subject, or it has no such template.
        """
        with self.database.write() as connection:
            counted(connection, pinned.id, 0)
            subject_id = find_subject(connection, pinned.id, name)
            which = (template.c.subject_id == subject_id) & (template.c.uid == uid)
            removed = self._remove(connection, pinned, subject_id, which)
            if not removed.erased.templates:
                raise NotFound("The subject has no template with this id.", reason="unknown_template")
            return removed

    def subject_vectors(
        self, gallery_name: str, names: Iterable[str]
    ) -> tuple[PinnedGallery, dict[str, NDArray[np.float32]]]:
        """A gallery, and all templates of some of its subjects; all of it as it is at one moment.

        Returns:
            the gallery, and by subject (n, dim) float32, n at least 1; subjects that are not there are left out.

        Raises:
            NotFound: there is no such gallery.
        """
        wanted = list(dict.fromkeys(names))
        blobs: dict[str, list[bytes]] = {}
        with self.database.read() as connection:
            pinned = _pinned(connection, gallery.c.name == gallery_name)
            for start in range(0, len(wanted), IDS_A_QUERY):
                asked = {"gallery": pinned.id, "subjects": wanted[start : start + IDS_A_QUERY]}
                for name, vector in connection.execute(_VECTORS, asked):
                    blobs.setdefault(name, []).append(vector)
        return pinned, {name: to_rows(found, pinned.dim) for name, found in blobs.items()}

    def stored(self, pinned: PinnedGallery, ids: NDArray[np.int64]) -> Iterator[Stored]:
        """Those of the templates that are in the record now, some hundred at a time.

        Raises:
            ContractMismatch: the gallery's key was changed meanwhile.
        """
        query = (
            select(template.c.id, subject.c.name, _NOW, gallery.c.turn, gallery.c.contract_digest)
            .join(subject, subject.c.id == template.c.subject_id)
            .join(gallery, gallery.c.id == template.c.gallery_id)
            .outerjoin(turned, _TURNED_NOW)
        )
        for start in range(0, len(ids), IDS_A_QUERY):
            asked = [int(found) for found in ids[start : start + IDS_A_QUERY]]
            with self.database.read() as connection:
                rows = connection.execute(
                    query.where(template.c.gallery_id == pinned.id, template.c.id.in_(asked))
                ).all()
            for row in rows[:1]:
                refuse_turned(pinned, row)
            yield Stored(
                ids=np.array([row.id for row in rows], dtype=np.int64),
                subjects=[row.name for row in rows],
                vectors=to_rows([row.vector for row in rows], pinned.dim),
            )

    def batches(
        self, pinned: PinnedGallery, beyond: int = 0
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All templates of a gallery in the order of ids, as (n,) int64 and (n, dim) float32, a few MB at a time.

        Args:
            pinned: the gallery as it is; or as it will be in its next turn, and then those that were turned already.
            beyond: an id; templates up to it are left out.

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
        last = beyond
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

    def _remove(
        self, connection: Connection, pinned: PinnedGallery, subject_id: int, which: ColumnElement[bool]
    ) -> Removed:
        ids = np.array(list(connection.scalars(delete(template).where(which).returning(template.c.id))), dtype=np.int64)
        gone = not _count(connection, template.c.subject_id == subject_id)
        if gone:
            connection.execute(delete(subject).where(subject.c.id == subject_id))
        if len(ids):
            counted(connection, pinned.id, -len(ids))
            self.journal.removed(connection, pinned, ids)
        return Removed(Erased(subjects=int(gone), templates=len(ids)), ids)

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
