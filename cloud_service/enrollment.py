"""Enrollment in the record: templates of one subject are stored, and compared with the others of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, insert, select, update

from cloud_service.audit.log import Action, append_for
from cloud_service.entries.changes import entries_of, give_entries
from cloud_service.entries.vectors import agreements, entry_vectors
from cloud_service.record.checksums import of_subject, to_blobs
from cloud_service.record.queries import (
    Added,
    EntryChange,
    NewVector,
    PinnedGallery,
    Stored,
    find_subject,
    hold_gallery,
    no_change,
    oldest_alive,
    pinned_from,
    refuse_rekeyed,
)
from cloud_service.record.record import Record
from cloud_service.record.tables import gallery, rekeyed, subject, template
from cloud_service.record.template_queries import CURRENT_VECTOR, TEMPLATES, UNDER_CURRENT_KEY
from shared.errors import Conflict, NotFound
from shared.wire.cloud import EnrolledTemplate


class Enrollment:
    """Stores templates. Only the store calls it.

    Args:
        record: where they are stored.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def add(self, pinned: PinnedGallery, name: str, templates: Mapping[str, NewVector], by: str | None) -> Added:
        """Stores templates of one subject, all or none.

        Those whose ids the subject has already are left as they are. One of them that has expired and was not erased
        yet is dated to now.

        Args:
            pinned: the gallery.
            name: of the subject; it is made with its first template.
            templates: by their ids on the wire.
            by: the id of the caller's API key, for the audit log.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile. ScoreChanged: its rule was.
            Conflict: another subject has a template with one of the ids, or the gallery or the subject is full.
            RecordDamaged: what is stored under one of the ids is damaged.
        """
        with self._record.database.write() as connection:
            held = hold_gallery(connection, pinned.id)
            refuse_rekeyed(pinned, pinned_from(held))
            known = self._known(connection, pinned, name, list(templates))
            new = {uid: one for uid, one in templates.items() if uid not in known}
            now = self._record.clock.now()
            oldest = oldest_alive(pinned.max_age_seconds, now)
            renewed = [uid for uid, created_at in known.items() if created_at <= oldest]
            if renewed:
                which = (template.c.gallery_id == pinned.id) & template.c.uid.in_(renewed)
                connection.execute(update(template).where(which).values(created_at=now))
                known.update(dict.fromkeys(renewed, now))
            subject_id, made = _subject_id(connection, pinned.id, name, now)
            change = no_change(pinned.dim)
            if new:
                self._refuse_when_full(connection, subject_id, len(new), held.templates)
                change = self._insert(connection, pinned, (subject_id, name), new, now)
                hold_gallery(connection, pinned.id, len(new), subjects=int(made))
            rows = connection.execute(_OF_SUBJECT.where(template.c.subject_id == subject_id)).all()
            stored = self._record.vectors.read(pinned, rows)
            if new and pinned.one_entry_a_subject:
                before = np.array([*entries_of(connection, pinned, [subject_id]).values()], np.int64)
                ids = give_entries(connection, pinned, [subject_id])
                vectors = entry_vectors(stored.vectors, stored.weights, np.array([len(stored.ids)]), pinned.score)
                change = EntryChange(before, ids, vectors)
            self._record.note(connection, pinned, change)
            if new or renewed:
                count = len(new) + len(renewed)
                append_for(connection, pinned, Action.TEMPLATES_ENROLLED, by, templates=count)
        living = {row.id: row.uid for row in rows if row.created_at > oldest}
        agrees = _agreements(pinned, stored, living, set(templates))
        return Added(
            answers=[
                EnrolledTemplate(
                    id=uid,
                    created_at=known.get(uid, now),
                    stored="before" if uid in known else "now",
                    agrees=agrees.get(uid),
                )
                for uid in templates
            ],
            total=len(living),
            change=change,
        )

    def _known(
        self, connection: Connection, pinned: PinnedGallery, name: str, uids: Sequence[str]
    ) -> dict[str, datetime]:
        """When the templates that the subject has already were stored, by their ids on the wire."""
        found: Sequence[Any] = connection.execute(
            select(
                template.c.id, template.c.uid, template.c.weight, CURRENT_VECTOR, template.c.created_at, subject.c.name
            )
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
        if len(self._record.vectors.read(pinned, found).damaged):
            raise of_subject()
        return {row.uid: row.created_at for row in found}

    def _refuse_when_full(self, connection: Connection, subject_id: int, new: int, held: int) -> None:
        if held + new > self._record.max_templates_a_gallery:
            raise Conflict("The gallery is full; erase templates, or use another gallery.", reason="gallery_full")
        has = connection.scalar(select(func.count()).where(template.c.subject_id == subject_id)) or 0
        if has + new > self._record.max_templates_a_subject:
            raise Conflict("The subject has too many templates; erase some first.", reason="subject_full")

    @staticmethod
    def _insert(
        connection: Connection,
        pinned: PinnedGallery,
        whose: tuple[int, str],
        new: Mapping[str, NewVector],
        now: datetime,
    ) -> EntryChange:
        """Stores templates of the subject of this id and name; each as an entry."""
        vectors = np.array([one.vector for one in new.values()], np.float32)
        weights = np.array([one.weight for one in new.values()], np.float64)
        blobs = to_blobs(vectors, weights, [whose[1]] * len(new), pinned.id, pinned.key_version)
        shared = {"gallery_id": pinned.id, "subject_id": whose[0], "created_at": now}
        ids: NDArray[np.int64] = np.array(
            connection.scalars(
                insert(template).returning(template.c.id, sort_by_parameter_order=True),
                [
                    {**shared, "uid": uid, "vector": blob, "weight": one.weight}
                    for (uid, one), blob in zip(new.items(), blobs, strict=True)
                ],
            ).all(),
            np.int64,
        )
        return EntryChange(np.empty(0, np.int64), ids, vectors)


_OF_SUBJECT = (
    TEMPLATES.add_columns(template.c.uid, template.c.created_at)
    .outerjoin(rekeyed, UNDER_CURRENT_KEY)
    .order_by(template.c.id)
)


def _subject_id(connection: Connection, gallery_id: int, name: str, now: datetime) -> tuple[int, bool]:
    """The id of a subject, and whether it was made."""
    try:
        return find_subject(connection, gallery_id, name), False
    except NotFound:
        made = insert(subject).values(gallery_id=gallery_id, name=name, created_at=now).returning(subject.c.id)
        return int(connection.scalars(made).one()), True


def _agreements(pinned: PinnedGallery, stored: Stored, living: Mapping[int, str], uids: set[str]) -> dict[str, bool]:
    """Whether each of these templates would match the other living ones of its subject, by their ids on the wire.

    One that is alone is left out.
    """
    alive = np.flatnonzero(np.isin(stored.ids, list(living)))
    if len(alive) < 2:
        return {}
    names = [living[one] for one in stored.ids[alive].tolist()]
    asked = np.array([at for at, name in enumerate(names) if name in uids], np.int64)
    scores = agreements(stored.vectors[alive], stored.weights[alive], asked, pinned.score)
    reached = scores >= pinned.threshold.cosine.value
    return {names[at]: bool(yes) for at, yes in zip(asked, reached, strict=True)}
