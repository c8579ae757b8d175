"""How galleries and subjects are found in the record, and held while they are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update

from cloud_service.gallery.rows import PinnedGallery
from cloud_service.gallery.tables import gallery, subject
from shared.contract import Contract
from shared.errors import ContractMismatch, NotFound
from shared.scores import CosineThreshold

# How many ids one query names; under the least limit on a statement's parameters (SQLite's was 999).
IDS_A_QUERY = 500
# Before all templates: where nothing expires, all are younger.
EVER = datetime(1, 1, 1, tzinfo=UTC)


def oldest_alive(max_age_seconds: int | None, now: datetime) -> datetime:
    """The moment after which a template must have been stored to match now."""
    return EVER if max_age_seconds is None else now - timedelta(seconds=max_age_seconds)


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


def pinned_where(connection: Connection, which: ColumnElement[bool]) -> PinnedGallery:
    """The gallery for which this holds.

    Raises:
        NotFound: there is none.
    """
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
