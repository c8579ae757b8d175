"""The expiry of one subject: from then on it matches nobody, and is erased by the sweep."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select, update

from cloud_service.audit.log import Action, append_for
from cloud_service.record.queries import (
    PinnedGallery,
    hold_gallery,
    pinned_from,
    refuse_other,
    touch_subjects,
    unknown_subject,
)
from cloud_service.record.record import Record
from cloud_service.record.tables import subject
from cloud_service.record.template_queries import living_at
from shared.errors import Unprocessable
from shared.wire.common import MAX_AGE, moment_text


def set_expiry(
    record: Record, pinned: PinnedGallery, name: str, moment: datetime | None, by: str | None, contract: str | None
) -> None:
    """Sets when a subject expires; None: only by the gallery's age. One that has expired stays expired.

    Args:
        record: where it is.
        pinned: the gallery.
        name: of the subject.
        moment: from when on it matches nobody.
        by: the id of the caller's API key, for the audit log.
        contract: as ``refuse_other`` takes it.

    Raises:
        NotFound: there is no such gallery or subject.
        ContractMismatch: the gallery has another contract.
        Unprocessable: the moment is not in the next 100 years, or the name is not of the gallery's kind.
    """
    now = record.clock.now()
    if moment is not None and not now < moment <= now + timedelta(seconds=MAX_AGE):
        raise Unprocessable(
            "An expiry is a moment to come, within 100 years; to erase the subject now, delete it.",
            reason="wrong_moment",
        )
    with record.database.write() as connection:
        pinned = pinned_from(hold_gallery(connection, pinned.id))
        refuse_other(pinned, contract, name)
        mine = (subject.c.gallery_id == pinned.id) & (subject.c.name == name) & living_at(now)
        row = connection.execute(select(subject).where(mine)).first()
        if row is None:
            raise unknown_subject()
        if row.expires_at == moment:
            return
        connection.execute(update(subject).where(subject.c.id == row.id).values(expires_at=moment))
        touch_subjects(connection, pinned.id, [row.id], removed=False)
        text = None if moment is None else moment_text(moment)
        append_for(connection, pinned, Action.EXPIRY_CHANGED, by, subject=row.mark, expires_at=text)
