"""Retention: how long a gallery keeps templates, and removal of expired ones.

That none of them matches is the record's matter, at every comparison; here they are taken away. Only the store calls
what writes here.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, exists, select, update

from cloud_service.audit.log import Action, append_for
from cloud_service.record.queries import (
    PinnedGallery,
    Removed,
    damaged_value,
    hold_gallery,
    in_parts,
    joined,
    oldest_alive,
    pinned_from,
    read_value,
    renew_checksum,
)
from cloud_service.record.record import Record, marked
from cloud_service.record.tables import gallery, record_value, subject, template
from cloud_service.record.template_queries import count_templates
from shared.wire.common import moment_text

_TIME_SEEN = "time_seen"


class Retention:
    """What the record holds too long.

    Args:
        record: the truth; its clock says what time it is.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._database = record.database
        self._clock = record.clock

    def limited(self) -> list[PinnedGallery]:
        """The galleries whose templates expire, by their age or with a subject of an expiry of its own."""
        galleries = self._record.galleries()
        with self._database.read() as connection:
            return [
                pinned
                for pinned in galleries
                if pinned.max_age_seconds is not None or _any(connection, _expiring(pinned))
            ]

    def change(
        self, pinned: PinnedGallery, max_age_seconds: int | None, by: str | None
    ) -> tuple[PinnedGallery, Removed | None]:
        """Changes how long templates are kept.

        First removes those that have expired by the old rule: they stay expired.

        Returns:
            the gallery as it is now, and what was removed if anything was.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        with self._database.write() as connection:
            before = pinned_from(hold_gallery(connection, pinned.id))
            if before.max_age_seconds == max_age_seconds:
                return before, None
            removed = self._remove_expired(connection, before, None)
            changed = update(gallery).where(gallery.c.id == pinned.id).values(max_age_seconds=max_age_seconds)
            connection.execute(changed)
            renew_checksum(connection, pinned.id)
            append_for(connection, before, Action.RETENTION_CHANGED, by, max_age_seconds=max_age_seconds)
            return pinned_from(hold_gallery(connection, pinned.id)), removed

    def overdue(self, pinned: PinnedGallery) -> bool:
        """Whether templates or subjects are there that have expired, by the settled time."""
        settled = self._clock.settled()
        with self._database.read() as connection:
            aged = _stored_until(pinned, oldest_alive(pinned.max_age_seconds, settled))
            return _any(connection, _expired_at(pinned, settled)) or _any(connection, aged)

    def erase_expired(self, pinned: PinnedGallery, at_most: int) -> Removed | None:
        """Removes subjects that have expired, else the oldest templates that have, by the settled time; None: none has.

        Args:
            pinned: the gallery.
            at_most: so many, so that other writers need not wait long.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        with self._database.write() as connection:
            held = pinned_from(hold_gallery(connection, pinned.id))
            some = self._remove_expired_subjects(connection, held, at_most)
            return some or self._remove_expired(connection, held, at_most)

    def redate(self, pinned: PinnedGallery) -> int:
        """Dates templates to now that a wrong clock dated to the future.

        Returns:
            how many there were.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """
        now = self._clock.now()
        wrong = (template.c.gallery_id == pinned.id) & (template.c.created_at > now + self._clock.jump)
        with self._database.read() as connection:
            if not _any(connection, wrong):
                return 0
        with self._database.write() as connection:
            hold_gallery(connection, pinned.id)
            redated = connection.execute(update(template).where(wrong).values(created_at=now)).rowcount
            append_for(connection, pinned, Action.TEMPLATES_REDATED, None, templates=redated)
        return redated

    def time_seen(self) -> datetime:
        """The latest time that was recorded.

        Raises:
            RecordDamaged: the stored value is no moment.
        """
        with self._database.read() as connection:
            text = read_value(connection, _TIME_SEEN)
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (OverflowError, ValueError):
            raise damaged_value(_TIME_SEEN) from None

    def keep_time(self) -> None:
        """Keeps the time for the next start, and for other processes; it does not go back."""
        text = moment_text(self._clock.latest())
        with self._database.write() as connection:
            later = (record_value.c.name == _TIME_SEEN) & (record_value.c.value < text)
            connection.execute(update(record_value).where(later).values(value=text))

    def _remove_expired_subjects(self, connection: Connection, pinned: PinnedGallery, at_most: int) -> Removed | None:
        """Removes subjects that have expired, at most so many; the receipt is that of the first."""
        query = select(subject.c.id).where(_expired_at(pinned, self._clock.settled())).order_by(subject.c.expires_at)
        ids = list(connection.scalars(query.limit(at_most)))
        if not ids:
            return None
        held = count_templates(connection, ids)
        said = [marked(connection, one) | {"subjects": 1, "templates": held.get(one, 0)} for one in ids]
        changes = [
            self._record.remove(connection, pinned, template.c.subject_id.in_(part), part)[2] for part in in_parts(ids)
        ]
        receipts = [append_for(connection, pinned, Action.TEMPLATES_EXPIRED, None, **details) for details in said]
        return Removed(len(ids), sum(held.values()), receipts[0], joined(changes))

    def _remove_expired(self, connection: Connection, pinned: PinnedGallery, at_most: int | None) -> Removed | None:
        if pinned.max_age_seconds is None:
            return None
        cutoff = oldest_alive(pinned.max_age_seconds, self._clock.settled())
        expired = _stored_until(pinned, cutoff)
        oldest = select(template.c.id, template.c.subject_id).where(expired).order_by(template.c.created_at)
        found = connection.execute(oldest.limit(at_most)).all()
        if not found:
            return None
        gone, change = self._record.remove_rows(connection, pinned, found)
        receipt = append_for(
            connection,
            pinned,
            Action.TEMPLATES_EXPIRED,
            None,
            stored_until=moment_text(cutoff),
            none_left=not _any(connection, expired),
            subjects=gone,
            templates=len(found),
        )
        return Removed(gone, len(found), receipt, change)


def _expiring(pinned: PinnedGallery) -> ColumnElement[bool]:
    return (subject.c.gallery_id == pinned.id) & subject.c.expires_at.is_not(None)


def _expired_at(pinned: PinnedGallery, moment: datetime) -> ColumnElement[bool]:
    return _expiring(pinned) & (subject.c.expires_at <= moment)


def _stored_until(pinned: PinnedGallery, cutoff: datetime) -> ColumnElement[bool]:
    return (template.c.gallery_id == pinned.id) & (template.c.created_at <= cutoff)


def _any(connection: Connection, which: ColumnElement[bool]) -> bool:
    return bool(connection.scalar(select(exists().where(which))))
