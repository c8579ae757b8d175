"""Enrollment in the record: templates of subjects are stored; those of one are compared with the others of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, select, update

from cloud_service.audit.log import Action, append_for, new_mark
from cloud_service.entries.changes import entries_of, renewed
from cloud_service.entries.vectors import agreements
from cloud_service.record.checksums import of_subject, to_blobs
from cloud_service.record.queries import (
    IDS_A_QUERY,
    EntryChange,
    PinnedGallery,
    Stored,
    hold_gallery,
    in_parts,
    no_change,
    oldest_alive,
    pinned_from,
    refuse_other,
    refuse_rekeyed,
    touch_subjects,
)
from cloud_service.record.record import Record
from cloud_service.record.tables import gallery, rekeyed, subject, template
from cloud_service.record.template_queries import CURRENT_VECTOR, TEMPLATES, UNDER_CURRENT_KEY, count_templates
from shared.errors import Conflict
from shared.wire.cloud import EnrollAnswer, EnrolledTemplate


@dataclass(frozen=True, slots=True)
class NewVector:
    """A template to store: (dim,) float32, a unit vector, and its weight."""

    vector: NDArray[np.float32] = field(repr=False)
    weight: float = 1.0


# Templates of subjects that are read together, to say which agree.
_ROWS_TO_READ: Final = 10_000
# Of each subject by its name: the templates to store, by their ids on the wire.
BySubject = Mapping[str, Mapping[str, NewVector]]


@dataclass(frozen=True, slots=True)
class Added:
    """What an enrollment stored: an answer for each subject, in the order of the request."""

    answers: list[EnrollAnswer]
    change: EntryChange


@dataclass(frozen=True, slots=True)
class _Written:
    """What a transaction wrote.

    ``known`` says when the templates that were there before were stored, by their ids on the wire.
    """

    subject_ids: dict[str, int]
    known: dict[str, datetime]
    now: datetime
    change: EntryChange


class Enrollment:
    """Stores templates. Only the store calls it.

    Args:
        record: where they are stored.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def add(self, pinned: PinnedGallery, templates: BySubject, by: str | None) -> Added:
        """Stores templates of subjects, all or none.

        Those whose ids a subject has already are left as they are. One of them that has expired and was not erased yet
        is dated to now.

        Args:
            pinned: the gallery.
            templates: of each subject, by their ids on the wire; a subject is made with its first template.
            by: the id of the caller's API key, for the audit log.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile. ScoreChanged: its rule was.
            Unprocessable: a name is not of the gallery's kind.
            Conflict: another subject has a template with one of the ids, the gallery or a subject is full, or a subject
                has expired.
            RecordDamaged: what is stored under one of the ids is damaged.
        """
        with self._record.database.write() as connection:
            written = self._write(connection, pinned, templates, by)
            totals, agrees = self._held(connection, pinned, templates, written)
        answers = [
            EnrollAnswer(
                subject=name,
                templates=[
                    EnrolledTemplate(
                        id=uid,
                        created_at=written.known.get(uid, written.now),
                        stored="before" if uid in written.known else "now",
                        agrees=agrees.get(uid),
                    )
                    for uid in some
                ],
                total=totals[written.subject_ids[name]],
            )
            for name, some in templates.items()
        ]
        return Added(answers, written.change)

    def _write(self, connection: Connection, pinned: PinnedGallery, templates: BySubject, by: str | None) -> _Written:
        held = hold_gallery(connection, pinned.id)
        refuse_rekeyed(pinned, pinned_from(held))
        refuse_other(pinned, None, *templates)
        now = self._record.clock.now()
        known, redated = self._known(connection, pinned, templates, now)
        ids, made = _subjects(connection, pinned.id, list(templates), now)
        new = [
            (ids[name], name, uid, one)
            for name, some in templates.items()
            for uid, one in some.items()
            if uid not in known
        ]
        change = no_change(pinned.dim)
        if new:
            more = Counter(subject_id for subject_id, *_ in new)
            self._refuse_when_full(connection, more, made, held.templates, {uid: name for name, uid in ids.items()})
            hold_gallery(connection, pinned.id, len(new), subjects=len(made))
            before = entries_of(connection, pinned, more.keys() - made)
            change = self._insert(connection, pinned, new, now)
            if pinned.one_entry_a_subject:
                change = renewed(connection, self._record.entries, pinned, before, more)
        self._record.note(connection, pinned, change)
        changed = {row.subject_id for row in redated} | {subject_id for subject_id, *_ in new}
        if changed:
            touch_subjects(connection, pinned.id, sorted(changed), removed=False)
            details = {"templates": len(new) + len(redated)}
            details |= {} if len(templates) == 1 else {"subjects": len(changed)}
            append_for(connection, pinned, Action.TEMPLATES_ENROLLED, by, **details)
        return _Written(ids, known, now, change)

    def _known(
        self, connection: Connection, pinned: PinnedGallery, templates: BySubject, now: datetime
    ) -> tuple[dict[str, datetime], list[Any]]:
        """When the templates that the subjects have already were stored, by their ids on the wire.

        Those that have expired are dated to now; their rows.
        """
        owners = {uid: name for name, some in templates.items() for uid in some}
        found: list[Any] = []
        for part in in_parts(list(owners)):
            found += connection.execute(_KNOWN.where(template.c.gallery_id == pinned.id, template.c.uid.in_(part)))
        if not found:
            return {}, []
        taken = sorted(row.uid for row in found if row.name != owners[row.uid])
        if taken:
            raise Conflict(
                "Another subject of the gallery has a template with an id of the request; choose a new id.",
                reason="template_id_taken",
                templates=taken,
            )
        if len(self._record.vectors.read(pinned, found).damaged):
            raise of_subject()
        oldest = oldest_alive(pinned.max_age_seconds, now)
        expired = [row for row in found if row.created_at <= oldest]
        for part in in_parts([row.id for row in expired]):
            which = template.c.id.in_(part)
            connection.execute(update(template).where(which).values(created_at=now))
        known = {row.uid: row.created_at for row in found} | {row.uid: now for row in expired}
        return known, expired

    def _held(
        self, connection: Connection, pinned: PinnedGallery, templates: BySubject, written: _Written
    ) -> tuple[Counter[int], dict[str, bool]]:
        """How many living templates each subject has now, by its id, and which of those that were sent agree."""
        sent = {uid for some in templates.values() for uid in some}
        oldest = oldest_alive(pinned.max_age_seconds, written.now)
        totals: Counter[int] = Counter()
        agrees: dict[str, bool] = {}
        for part in _parts_to_read(count_templates(connection, written.subject_ids.values())):
            rows = connection.execute(_OF_SUBJECTS.where(template.c.subject_id.in_(part))).all()
            stored = self._record.vectors.read(pinned, rows)
            living = {row.id: row for row in rows if row.created_at > oldest}
            totals.update(row.subject_id for row in living.values())
            positions: dict[int, list[int]] = {}
            for at, one in enumerate(stored.ids.tolist()):
                if one in living:
                    positions.setdefault(living[one].subject_id, []).append(at)
            for alive in positions.values():
                agrees |= _agreements(pinned, stored, alive, [living[int(stored.ids[at])].uid for at in alive], sent)
        return totals, agrees

    def _refuse_when_full(
        self,
        connection: Connection,
        more: Mapping[int, int],
        made: Collection[int],
        held: int,
        names: Mapping[int, str],
    ) -> None:
        if held + sum(more.values()) > self._record.max_templates_a_gallery:
            raise Conflict("The gallery is full; erase templates, or use another gallery.", reason="gallery_full")
        has = count_templates(connection, more.keys() - set(made))
        most = self._record.max_templates_a_subject
        full = [names[one] for one, count in more.items() if has.get(one, 0) + count > most]
        if full:
            raise subject_full(subjects=full)

    @staticmethod
    def _insert(
        connection: Connection, pinned: PinnedGallery, new: Sequence[tuple[int, str, str, NewVector]], now: datetime
    ) -> EntryChange:
        """Stores templates, each as an entry: by the subject's id and name, and their own id on the wire."""
        vectors = np.array([one.vector for *_, one in new], np.float32)
        weights = np.array([one.weight for *_, one in new], np.float64)
        blobs = to_blobs(vectors, weights, [name for _, name, *_ in new], pinned.id, pinned.key_version)
        rows = [
            {
                "gallery_id": pinned.id,
                "subject_id": subject_id,
                "created_at": now,
                "uid": uid,
                "vector": blob,
                "weight": one.weight,
            }
            for (subject_id, _, uid, one), blob in zip(new, blobs, strict=True)
        ]
        stored = connection.scalars(insert(template).returning(template.c.id, sort_by_parameter_order=True), rows)
        return EntryChange(np.empty(0, np.int64), np.array(stored.all(), np.int64), vectors)


_KNOWN = (
    select(
        template.c.id,
        template.c.uid,
        template.c.subject_id,
        template.c.weight,
        CURRENT_VECTOR,
        template.c.created_at,
        subject.c.name,
    )
    .join(subject, subject.c.id == template.c.subject_id)
    .join(gallery, gallery.c.id == template.c.gallery_id)
    .outerjoin(rekeyed, UNDER_CURRENT_KEY)
)
_OF_SUBJECTS = (
    TEMPLATES.add_columns(template.c.uid, template.c.subject_id, template.c.created_at)
    .outerjoin(rekeyed, UNDER_CURRENT_KEY)
    .order_by(template.c.id)
)


def subject_full(**named: list[str]) -> Conflict:
    """The error where subjects would have too many templates."""
    return Conflict("The subject has too many templates; erase some first.", reason="subject_full", **named)


def subject_expired(**named: list[str]) -> Conflict:
    """The error where subjects have expired and are not erased yet."""
    return Conflict(
        "A subject of this name has expired and is about to be erased; try again in a minute.",
        reason="subject_expired",
        **named,
    )


def _subjects(
    connection: Connection, gallery_id: int, names: Sequence[str], now: datetime
) -> tuple[dict[str, int], set[int]]:
    """The ids of subjects by their names, and of those that were made."""
    ids: dict[str, int] = {}
    expired: list[str] = []
    for part in in_parts(names):
        query = select(subject.c.id, subject.c.name, subject.c.expires_at)
        for row in connection.execute(query.where(subject.c.gallery_id == gallery_id, subject.c.name.in_(part))):
            if row.expires_at is not None and row.expires_at <= now:
                expired.append(row.name)
            ids[row.name] = row.id
    if expired:
        raise subject_expired(subjects=expired)
    missing = [name for name in names if name not in ids]
    if not missing:
        return ids, set()
    rows = [{"gallery_id": gallery_id, "name": name, "created_at": now, "mark": new_mark()} for name in missing]
    made = connection.scalars(insert(subject).returning(subject.c.id, sort_by_parameter_order=True), rows).all()
    return ids | dict(zip(missing, made, strict=True)), set(made)


def _parts_to_read(counts: Mapping[int, int]) -> Iterator[list[int]]:
    """Subjects by how many templates they have, in parts whose templates are read together."""
    part: list[int] = []
    rows = 0
    for subject_id, count in counts.items():
        if part and (rows + count > _ROWS_TO_READ or len(part) == IDS_A_QUERY):
            yield part
            part, rows = [], 0
        part.append(subject_id)
        rows += count
    if part:
        yield part


def _agreements(
    pinned: PinnedGallery, stored: Stored, alive: list[int], uids: list[str], sent: Collection[str]
) -> dict[str, bool]:
    """Whether each template that was sent would match the other living ones of its subject, by their ids on the wire.

    Args:
        pinned: the gallery.
        stored: templates.
        alive: the positions of the subject's living ones there.
        uids: their ids on the wire.
        sent: the ids of those that are asked for. One that is alone is left out.
    """
    asked = [at for at, uid in enumerate(uids) if uid in sent]
    if len(alive) < 2 or not asked:
        return {}
    scores = agreements(stored.vectors[alive], stored.weights[alive], np.array(asked, np.int64), pinned.score)
    reached = scores >= pinned.threshold.cosine.value
    return {uids[at]: bool(yes) for at, yes in zip(asked, reached, strict=True)}
