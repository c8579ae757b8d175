"""Pages of what the record holds, for those who manage it. Never a vector."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select, exists, func, select

from cloud_service.clock import RecordClock
from cloud_service.record.database import Database
from cloud_service.record.queries import find_subject, oldest_alive, pinned_from, pinned_where, unknown_gallery
from cloud_service.record.tables import gallery, subject, template
from shared.contract import Contract
from shared.errors import NotFound, RecordDamaged
from shared.names import SUBJECT_PATTERN, TEMPLATE_ID_PATTERN
from shared.wire.common import GalleryInfo, Page, SubjectDetail, SubjectInfo, TemplateInfo, Threshold

Item = TypeVar("Item")

_SUBJECT = re.compile(SUBJECT_PATTERN)
_TEMPLATE_ID = re.compile(TEMPLATE_ID_PATTERN)

_subjects = select(func.count()).where(subject.c.gallery_id == gallery.c.id).scalar_subquery()
_galleries = select(gallery, _subjects.label("subjects"))


class Listing:
    """Reads the record in the order of names.

    Args:
        database: where the record is.
        clock: by what time templates expire. Those that have are not shown, though they are counted until erased.
    """

    def __init__(self, database: Database, clock: RecordClock) -> None:
        self._database = database
        self._clock = clock

    def gallery(self, name: str) -> GalleryInfo:
        """One gallery.

        Raises:
            NotFound: there is none of this name.
        """
        with self._database.read() as connection:
            row = connection.execute(_galleries.where(gallery.c.name == name)).first()
        if row is None:
            raise unknown_gallery()
        return _gallery_info(row)

    def galleries(self, only: Collection[str] | None, after: str | None, limit: int) -> Page[GalleryInfo]:
        """A page of galleries. Those whose row is damaged are left out.

        Args:
            only: the names that the caller may know of; None: all.
            after: the name that the page begins behind; None: the first page.
            limit: the most on one page.
        """
        query = _galleries if only is None else _galleries.where(gallery.c.name.in_(sorted(only)))
        try:
            return self._page(query, gallery.c.name, after, limit, _gallery_info)
        except RecordDamaged:
            only_names = query.with_only_columns(gallery.c.name)
            names = self._page(only_names, gallery.c.name, after, limit, lambda row: str(row.name))
        return Page(items=[info for name in names.items if (info := self._sound(name)) is not None], next=names.next)

    def _sound(self, name: str) -> GalleryInfo | None:
        try:
            return self.gallery(name)
        except (NotFound, RecordDamaged):
            return None

    def subjects(self, gallery_name: str, after: str | None, limit: int) -> Page[SubjectInfo]:
        """A page of a gallery's subjects. Those whose row is damaged are left out.

        Raises:
            NotFound: there is no such gallery.
        """
        gallery_id, after_this = self._gallery(gallery_name)
        held = (template.c.subject_id == subject.c.id) & (template.c.created_at > after_this)
        counted = select(func.count()).where(held).scalar_subquery()
        query = select(subject.c.name, subject.c.created_at, counted.label("templates")).where(
            subject.c.gallery_id == gallery_id, exists().where(held)
        )
        page = self._page(query, subject.c.name, after, limit, _subject_info_if_sound)
        return Page(items=[info for info in page.items if info is not None], next=page.next)

    def subject(self, gallery_name: str, name: str) -> SubjectDetail:
        """A subject with its templates, oldest first.

        Raises:
            NotFound: there is no such gallery or subject.
            RecordDamaged: the id of a template of it is not what was written.
        """
        gallery_id, after_this = self._gallery(gallery_name)
        with self._database.read() as connection:
            subject_id = find_subject(connection, gallery_id, name)
            created_at = connection.scalars(select(subject.c.created_at).where(subject.c.id == subject_id)).one()
            rows = connection.execute(
                select(template.c.id, template.c.uid, template.c.created_at)
                .where(template.c.subject_id == subject_id, template.c.created_at > after_this)
                .order_by(template.c.id)
            ).all()
        if not rows:
            raise NotFound("The gallery has no subject of this name.", reason="unknown_subject")
        damaged = [row.id for row in rows if not isinstance(row.uid, str) or not _TEMPLATE_ID.fullmatch(row.uid)]
        if damaged:
            raise RecordDamaged(f"The row {damaged[0]} of the table template is damaged; restore it from a backup.")
        return SubjectDetail(
            subject=name,
            created_at=created_at,
            templates=[TemplateInfo(id=row.uid, created_at=row.created_at) for row in rows],
        )

    def _gallery(self, name: str) -> tuple[int, datetime]:
        """The number of a gallery, and the moment after which unexpired templates were stored."""
        with self._database.read() as connection:
            found = pinned_where(connection, gallery.c.name == name)
        return found.id, oldest_alive(found.max_age_seconds, self._clock.now())

    def _page(
        self,
        query: Select[Any],
        name: ColumnElement[str],
        after: str | None,
        limit: int,
        to_item: Callable[[Row[Any]], Item],
    ) -> Page[Item]:
        if after is not None:
            query = query.where(name > after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(name).limit(limit + 1)).all()
        more = len(rows) > limit
        rows = rows[:limit]
        if more and not _is_name(rows[-1].name):
            raise RecordDamaged("A name in this list is damaged: restore the record from a backup.")
        return Page(items=[to_item(row) for row in rows], next=rows[-1].name if more else None)


def _gallery_info(row: Row[Any]) -> GalleryInfo:
    pinned_from(row)  # refuses a row that is damaged
    return GalleryInfo(
        gallery=row.name,
        contract=Contract.model_validate(row.contract),
        contract_digest=row.contract_digest,
        threshold=Threshold(cosine=row.threshold_cosine, fmr=row.threshold_fmr),
        subjects=row.subjects,
        templates=row.templates,
        max_age_seconds=row.max_age_seconds,
        created_at=row.created_at,
    )


def _is_name(stored: object) -> bool:
    """Whether a stored value can be a subject's name; SQLite returns whatever was stored."""
    return isinstance(stored, str) and _SUBJECT.fullmatch(stored) is not None


def _subject_info_if_sound(row: Row[Any]) -> SubjectInfo | None:
    if not _is_name(row.name):
        return None
    return SubjectInfo(subject=row.name, templates=row.templates, created_at=row.created_at)
