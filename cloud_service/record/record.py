"""The record: which galleries, subjects and templates there are.

Only the store calls what writes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, select, update

from cloud_service.audit.log import Action, append_for, marker
from cloud_service.clock import RecordClock
from cloud_service.record.checksums import KnownDamage, of_subject, to_blobs
from cloud_service.record.database import Database
from cloud_service.record.queries import (
    Added,
    PinnedGallery,
    Removed,
    find_subject,
    galleries_where,
    hold_gallery,
    in_parts,
    oldest_alive,
    pinned_from,
    pinned_where,
    refuse_rekeyed,
    renew_checksum,
)
from cloud_service.record.tables import gallery, rekeyed, subject, template
from cloud_service.record.template_queries import CURRENT_VECTOR, UNDER_CURRENT_KEY, Vectors
from shared.errors import Conflict, ContractMismatch, NotFound
from shared.logs import get_logger
from shared.wire.cloud import EnrolledTemplate, GallerySpec, IndexKind

_log = get_logger(__name__)


class Journal(Protocol):
    """What an index writes down with each change of templates, within its transaction.

    ``ids`` are the (n,) int64 ids of the templates, n at least 1.
    """

    def added(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Called when templates are added."""

    def removed(self, connection: Connection, pinned: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Called when templates are removed."""

    def dropped(self, connection: Connection, pinned: PinnedGallery) -> None:
        """Called when all templates under a gallery's key go: it is erased, or its key is changed."""


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
        # Numbers of the galleries whose rows were found damaged when all were last looked at.
        self.damaged_galleries: list[int] = []
        self.damaged_templates = KnownDamage()
        self.vectors = Vectors(database, clock, self.damaged_templates)
        self._max_templates_a_gallery = max_templates_a_gallery
        self._max_templates_a_subject = max_templates_a_subject

    def gallery(self, name: str) -> PinnedGallery:
        """The gallery of this name.

        Raises:
            NotFound: there is none.
        """
        with self.database.read() as connection:
            return pinned_where(connection, gallery.c.name == name)

    def require(self, pinned: PinnedGallery) -> None:
        """Checks that a gallery is still there, and under the same key.

        Raises:
            NotFound: it was erased meanwhile, whatever may bear its name now.
            ContractMismatch: its key was changed meanwhile.
        """
        with self.database.read() as connection:
            refuse_rekeyed(pinned, pinned_where(connection, gallery.c.id == pinned.id))

    def galleries(self) -> list[PinnedGallery]:
        """All galleries with a sound row, by id; the others are in ``damaged_galleries``."""
        with self.database.read() as connection:
            sound, damaged = galleries_where(connection)
        if damaged != self.damaged_galleries:
            self.damaged_galleries = damaged
            _log.error("galleries_damaged", rows=", ".join(map(str, damaged)))
        return sound

    def find(self, gallery_id: int) -> PinnedGallery | None:
        """The gallery of this id; None: it was erased.

        Raises:
            RecordDamaged: its row is not what was written.
        """
        try:
            with self.database.read() as connection:
                return pinned_where(connection, gallery.c.id == gallery_id)
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
                made = insert(gallery).values(
                    name=name,
                    contract=spec.contract.model_dump(mode="json"),
                    contract_digest=digest,
                    dim=spec.contract.dim,
                    threshold_cosine=spec.threshold.cosine,
                    threshold_fmr=spec.threshold.fmr,
                    created_at=self.clock.now(),
                )
                renew_checksum(connection, int(connection.scalars(made.returning(gallery.c.id)).one()))
            pinned = pinned_where(connection, gallery.c.name == name)
            if found is None:
                append_for(connection, pinned, Action.GALLERY_MADE, by, contract=digest)
        if pinned.contract_digest != digest:
            raise ContractMismatch(
                "The gallery exists under another profile, embedder or key; choose another name, or use its own edge.",
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
        templates: Mapping[str, NDArray[np.float32]],
        by: str | None,
    ) -> Added:
        """Stores templates of one subject, all or none.

        Those whose ids the subject has already are left as they are. One of them that has expired and was not erased
        yet is dated to now.

        Args:
            pinned: the gallery.
            name: of the subject; it is made with its first template.
            templates: (dim,) float32 unit vectors by their ids on the wire.
            by: the id of the caller's API key, for the audit log.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile.
            Conflict: another subject has a template with one of the ids, or the gallery or the subject is full.
            RecordDamaged: what is stored under one of the ids is damaged.
        """
        with self.database.write() as connection:
            held = hold_gallery(connection, pinned.id)
            refuse_rekeyed(pinned, pinned_from(held))
            known = self._known(connection, pinned, name, list(templates))
            new = [uid for uid in templates if uid not in known]
            vectors = np.array([templates[uid] for uid in new], dtype=np.float32).reshape(len(new), pinned.dim)
            now = self.clock.now()
            oldest = oldest_alive(pinned.max_age_seconds, now)
            renewed = [uid for uid, created_at in known.items() if created_at <= oldest]
            if renewed:
                which = (template.c.gallery_id == pinned.id) & template.c.uid.in_(renewed)
                connection.execute(update(template).where(which).values(created_at=now))
                known.update(dict.fromkeys(renewed, now))
            ids: list[int] = []
            if new:
                subject_id = _subject_id(connection, pinned.id, name, now)
                self._refuse_when_full(connection, subject_id, len(new), held.templates)
                shared = {"gallery_id": pinned.id, "subject_id": subject_id, "created_at": now}
                blobs = to_blobs(vectors, [name] * len(new), pinned.id, pinned.key_version)
                added = connection.scalars(
                    insert(template).returning(template.c.id, sort_by_parameter_order=True),
                    [{**shared, "uid": uid, "vector": blob} for uid, blob in zip(new, blobs, strict=True)],
                )
                ids = list(added)
                hold_gallery(connection, pinned.id, len(ids))
                self.journal.added(connection, pinned, np.array(ids, dtype=np.int64))
            if new or renewed:
                append_for(connection, pinned, Action.TEMPLATES_ENROLLED, by, templates=len(new) + len(renewed))
        return Added(
            answers=[
                EnrolledTemplate(id=uid, created_at=known.get(uid, now), stored="before" if uid in known else "now")
                for uid in templates
            ],
            ids=np.array(ids, dtype=np.int64),
            vectors=vectors,
        )

    def erase_gallery(self, pinned: PinnedGallery, by: str | None) -> tuple[PinnedGallery, Removed]:
        """Removes a gallery and all in it; returns the gallery as it was then.

        Raises:
            NotFound: it was erased meanwhile.
        """
        with self.database.write(long=True) as connection:
            pinned = pinned_from(hold_gallery(connection, pinned.id))
            subjects, templates = self.remove_gallery(connection, pinned)
            receipt = append_for(connection, pinned, Action.GALLERY_ERASED, by, subjects=subjects, templates=templates)
        return pinned, Removed(subjects, templates, receipt, np.empty(0, np.int64))

    def remove_gallery(self, connection: Connection, pinned: PinnedGallery) -> tuple[int, int]:
        """Removes a gallery within a transaction; returns how many subjects and templates.

        Raises:
            NotFound: it was erased meanwhile.
        """
        templates = int(hold_gallery(connection, pinned.id).templates)
        subjects = _count(connection, subject.c.gallery_id == pinned.id)
        self.journal.dropped(connection, pinned)
        connection.execute(delete(rekeyed).where(rekeyed.c.gallery_id == pinned.id))
        connection.execute(delete(template).where(template.c.gallery_id == pinned.id))
        connection.execute(delete(subject).where(subject.c.gallery_id == pinned.id))
        connection.execute(delete(gallery).where(gallery.c.id == pinned.id))
        return subjects, templates

    def erase_subject(self, pinned: PinnedGallery, name: str, by: str | None, uid: str | None = None) -> Removed:
        """Removes a subject and all of its templates, or one template and its subject with the last one.

        Args:
            pinned: the gallery.
            name: of the subject.
            by: the id of the caller's API key, for the audit log.
            uid: the id on the wire of the one template; None: all.

        Raises:
            NotFound: there is no such subject, or it has no such template.
        """
        details, action = {}, Action.SUBJECT_ERASED
        with self.database.write() as connection:
            hold_gallery(connection, pinned.id)
            subject_id = find_subject(connection, pinned.id, name)
            which = template.c.subject_id == subject_id
            if uid is not None:
                which, details, action = which & (template.c.uid == uid), {"template": uid}, Action.TEMPLATE_ERASED
            ids, gone = self.remove(connection, pinned, which, [subject_id])
            if uid is not None and not len(ids):
                raise NotFound("The subject has no template with this id.", reason="unknown_template")
            who = marker(connection)(pinned.id, name)
            receipt = append_for(
                connection, pinned, action, by, subject=who, **details, subjects=gone, templates=len(ids)
            )
        return Removed(gone, len(ids), receipt, ids)

    def remove(
        self, connection: Connection, pinned: PinnedGallery, which: ColumnElement[bool], subject_ids: Iterable[int]
    ) -> tuple[NDArray[np.int64], int]:
        """Removes templates, and those of the subjects that have none left.

        The transaction holds the gallery.

        Returns:
            the (n,) int64 ids of the templates, and how many subjects are gone.
        """
        ids = np.array(list(connection.scalars(delete(template).where(which).returning(template.c.id))), dtype=np.int64)
        bare = ~exists().where(template.c.subject_id == subject.c.id)
        gone = connection.execute(delete(subject).where(subject.c.id.in_(list(subject_ids)), bare)).rowcount
        if len(ids):
            hold_gallery(connection, pinned.id, -len(ids))
            self.journal.removed(connection, pinned, ids)
        return ids, gone

    def remove_rows(self, connection: Connection, pinned: PinnedGallery, rows: Sequence[Any]) -> int:
        """Removes templates as ``remove`` does, by rows with ``id`` and ``subject_id``.

        Returns:
            how many subjects are gone.
        """
        gone = 0
        for part in in_parts(rows):
            which = template.c.id.in_([row.id for row in part])
            gone += self.remove(connection, pinned, which, {row.subject_id for row in part})[1]
        return gone

    def pin_index(self, name: str, kind: IndexKind | None) -> PinnedGallery:
        """Writes down how a gallery shall be searched; None: by the number of its templates.

        Raises:
            NotFound: there is no such gallery.
        """
        with self.database.write() as connection:
            connection.execute(update(gallery).where(gallery.c.name == name).values(index_kind=kind))
            return pinned_where(connection, gallery.c.name == name)

    def _known(
        self, connection: Connection, pinned: PinnedGallery, name: str, uids: Sequence[str]
    ) -> dict[str, datetime]:
        """When the templates that the subject has already were stored, by their ids on the wire."""
        found = connection.execute(
            select(template.c.id, template.c.uid, CURRENT_VECTOR, template.c.created_at, subject.c.name)
            .join(subject, subject.c.id == template.c.subject_id)
            .join(gallery, gallery.c.id == template.c.gallery_id)
            .outerjoin(rekeyed, UNDER_CURRENT_KEY)
            .where(template.c.gallery_id == pinned.id, template.c.uid.in_(uids))
        ).all()
        if not found:
            return {}
        if any(row.name != name for row in found):
            raise Conflict(
                "Another subject of the gallery has a template with an id of the request; choose a new id.",
                reason="template_id_taken",
            )
        if len(self.vectors.read(pinned, found).damaged):
            raise of_subject()
        return {row.uid: row.created_at for row in found}

    def _refuse_when_full(self, connection: Connection, subject_id: int, new: int, held: int) -> None:
        if held + new > self._max_templates_a_gallery:
            raise Conflict("The gallery is full; erase templates, or use another gallery.", reason="gallery_full")
        if _count(connection, template.c.subject_id == subject_id) + new > self._max_templates_a_subject:
            raise Conflict("The subject has too many templates; erase some first.", reason="subject_full")


def _subject_id(connection: Connection, gallery_id: int, name: str, now: datetime) -> int:
    try:
        return find_subject(connection, gallery_id, name)
    except NotFound:
        made = insert(subject).values(gallery_id=gallery_id, name=name, created_at=now).returning(subject.c.id)
        return int(connection.scalars(made).one())


def _count(connection: Connection, which: ColumnElement[bool]) -> int:
    return int(connection.scalar(select(func.count()).where(which)) or 0)
