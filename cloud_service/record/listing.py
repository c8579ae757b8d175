"""Galleries and subjects as the record holds them, for those who manage it. Never a vector."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select, select

from cloud_service.clock import RecordClock
from cloud_service.record.database import Database
from cloud_service.record.queries import (
    gallery_row,
    oldest_alive,
    pinned_from,
    pinned_where,
    refuse_other,
    unknown_subject,
)
from cloud_service.record.tables import gallery, subject, template
from cloud_service.record.template_queries import living_at
from shared.contract import Contract
from shared.errors import RecordDamaged
from shared.names import STORED_NAME_PATTERN, TEMPLATE_ID_PATTERN
from shared.wire.cloud import StoredSubject, StoredSubjectDetail
from shared.wire.common import GalleryInfo, Page, TemplateInfo, Threshold

Item = TypeVar("Item")

_NAME = re.compile(STORED_NAME_PATTERN)
_TEMPLATE_ID = re.compile(TEMPLATE_ID_PATTERN)

_galleries = select(gallery)


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
            return _gallery_info(gallery_row(connection, _galleries.where(gallery.c.name == name)))

    def galleries(self, only: Collection[str] | None, after: str | None, limit: int) -> Page[GalleryInfo]:
        """A page of galleries. Those whose row is damaged are left out.

        Args:
            only: the names that the caller may know of; None: all.
            after: the name that the page begins behind; None: the first page.
            limit: the most on one page.
        """
        query = _galleries if only is None else _galleries.where(gallery.c.name.in_(sorted(only)))
        return self._page(query, gallery.c.name, after, limit, _gallery_info)

    def subject(self, gallery_name: str, name: str, contract: str | None = None) -> StoredSubjectDetail:
        """A subject with its templates, oldest first.

        Args:
            gallery_name: which gallery.
            name: of the subject.
            contract: as ``refuse_other`` takes it.

        Raises:
            NotFound: there is no such gallery or subject.
            ContractMismatch: the gallery has another contract. Unprocessable: the name is not of its kind.
            RecordDamaged: the id of a template of it is not what was written.
        """
        now = self._clock.now()
        with self._database.read() as connection:
            found = pinned_where(connection, gallery.c.name == gallery_name)
            refuse_other(found, contract, name)
            rows = connection.execute(
                select(
                    template.c.id,
                    template.c.uid,
                    template.c.created_at,
                    subject.c.created_at.label("since"),
                    subject.c.expires_at,
                )
                .join(subject, subject.c.id == template.c.subject_id)
                .where(subject.c.gallery_id == found.id, subject.c.name == name, living_at(now))
                .where(template.c.created_at > oldest_alive(found.max_age_seconds, now))
                .order_by(template.c.id)
            ).all()
        if not rows:
            raise unknown_subject()
        return StoredSubjectDetail(
            subject=name, created_at=rows[0].since, expires_at=rows[0].expires_at, templates=template_infos(rows)
        )

    def _page(
        self,
        query: Select[Any],
        name: ColumnElement[str],
        after: str | None,
        limit: int,
        to_item: Callable[[Row[Any]], Item],
    ) -> Page[Item]:
        """A page in the order of a name, without the rows that are damaged."""
        if after is not None:
            query = query.where(name > after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(name).limit(limit + 1)).all()
        more = len(rows) > limit
        rows = rows[:limit]
        if more:
            _require_name(rows[-1].name)
        items = []
        for row in rows:
            with suppress(RecordDamaged):
                items.append(to_item(row))
        return Page(items=items, next=rows[-1].name if more else None)


def _gallery_info(row: Row[Any]) -> GalleryInfo:
    pinned = pinned_from(row)  # refuses a row that is damaged
    return GalleryInfo(
        gallery=row.name,
        contract=Contract.model_validate(row.contract),
        contract_digest=row.contract_digest,
        threshold=Threshold(cosine=row.threshold_cosine, fmr=row.threshold_fmr),
        score=pinned.score,
        sealed_names=pinned.sealed_names,
        subjects=row.subjects,
        templates=row.templates,
        max_age_seconds=row.max_age_seconds,
        created_at=row.created_at,
    )


def _require_name(stored: object) -> None:
    """Raises RecordDamaged where a stored value cannot be a name; SQLite returns whatever was stored."""
    if not isinstance(stored, str) or not _NAME.fullmatch(stored):
        raise RecordDamaged("A name in this list is damaged: restore the record from a backup.")


def stored_subject(row: Row[Any]) -> StoredSubject:
    """A subject from a row with ``id``, ``name``, ``templates``, ``created_at`` and ``expires_at``.

    Raises:
        RecordDamaged: its name is not one that was stored.
    """
    _require_name(row.name)
    return StoredSubject(
        id=row.id, subject=row.name, templates=row.templates, created_at=row.created_at, expires_at=row.expires_at
    )


def template_infos(rows: Sequence[Any]) -> list[TemplateInfo]:
    """Templates from rows with ``id``, ``uid`` and ``created_at``.

    Raises:
        RecordDamaged: the id on the wire of one is not what was written.
    """
    damaged = [row.id for row in rows if not isinstance(row.uid, str) or not _TEMPLATE_ID.fullmatch(row.uid)]
    if damaged:
        raise RecordDamaged(f"The row {damaged[0]} of the table template is damaged; restore it from a backup.")
    return [TemplateInfo(id=row.uid, created_at=row.created_at) for row in rows]
