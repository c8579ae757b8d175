"""Pages of a gallery's subjects by id, all or those that have changed since a version."""

from __future__ import annotations

from sqlalchemy import func, select

from cloud_service.clock import RecordClock
from cloud_service.record.database import Database
from cloud_service.record.listing import stored_subject
from cloud_service.record.queries import gallery_row, oldest_alive, pinned_from, refuse_other
from cloud_service.record.tables import gallery, subject, template
from cloud_service.record.template_queries import living_at
from shared.errors import RecordDamaged
from shared.wire.cloud import NamesPage, StoredSubject


class Names:
    """Reads lists of subjects.

    Args:
        database: where the record is.
        clock: by what time subjects and templates expire. Those that have are not listed.
    """

    def __init__(self, database: Database, clock: RecordClock) -> None:
        self._database = database
        self._clock = clock

    def page(self, gallery_name: str, since: int | None, after: int, limit: int, contract: str | None) -> NamesPage:
        """A page of a gallery's subjects. Those whose row is damaged are left out.

        Args:
            gallery_name: which gallery.
            since: the version of a list that the caller has; None: it has none.
            after: the id that the page begins behind; 0: the first page.
            limit: the most on one page.
            contract: as ``refuse_other`` takes it.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: the gallery has another contract.
        """
        now = self._clock.now()
        with self._database.read() as connection:
            row = gallery_row(connection, select(gallery).where(gallery.c.name == gallery_name))
            pinned = pinned_from(row)
            refuse_other(pinned, contract)
            version = row.subjects_version
            complete = since is None or since > version
            if since == version:
                return NamesPage(version=version, complete=False, ids=None, items=[], next=None)
            ids = None
            if since is not None and not complete and since < row.removed_version and not after:
                there = select(subject.c.id).where(subject.c.gallery_id == pinned.id).order_by(subject.c.id)
                ids = list(connection.scalars(there))
            living = template.c.created_at > oldest_alive(pinned.max_age_seconds, now)
            query = (
                select(
                    subject.c.id,
                    subject.c.name,
                    subject.c.created_at,
                    subject.c.expires_at,
                    func.count().label("templates"),
                )
                .join(template, template.c.subject_id == subject.c.id)
                .where(subject.c.gallery_id == pinned.id, subject.c.id > after, living_at(now), living)
                .group_by(subject.c.id)
                .order_by(subject.c.id)
                .limit(limit + 1)
            )
            if not complete:
                query = query.where(subject.c.version > since)
            rows = connection.execute(query).all()
        items: list[StoredSubject] = []
        for one in rows[:limit]:
            try:
                items.append(stored_subject(one))
            except RecordDamaged:
                continue
        following = rows[limit - 1].id if len(rows) > limit else None
        return NamesPage(version=version, complete=complete, ids=ids, items=items, next=following)
