"""The record's values, and queries for galleries, subjects and the record as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, Select, select, update

from cloud_service.record.checksums import gallery_checksum
from cloud_service.record.tables import DAMAGED, gallery, record_value, subject
from shared.contract import Contract
from shared.errors import ContractMismatch, IndexUnavailable, NotFound, RecordDamaged, Unprocessable
from shared.names import SEALED
from shared.scores import CosineThreshold
from shared.wire.cloud import IndexKind
from shared.wire.common import BEST, Receipt, SubjectScore

# Far more than a gallery can hold or have had: a greater number is damage.
_MOST_COUNTED: Final = 10**15
_KINDS: Final = (None, *get_args(IndexKind))

# How many ids one query names; under the least limit on a statement's parameters (SQLite's was 999).
IDS_A_QUERY: Final = 500
Items = TypeVar("Items", bound=Sequence[Any] | NDArray[Any])
# Before all templates: where nothing expires, all are younger.
EVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PinnedGallery:
    """What every comparison in a gallery needs to know of it."""

    id: int
    name: str
    contract_digest: str
    dim: int
    threshold: CosineThreshold
    fmr: float
    verify_only: bool
    key_version: int
    max_age_seconds: int | None
    index_kind: IndexKind | None
    score: SubjectScore
    score_version: int
    last_entry: int
    templates: int
    subjects: int
    sealed_names: bool

    @property
    def one_entry_a_subject(self) -> bool:
        """Whether a subject's templates are one entry; otherwise each is an entry of its own."""
        return self.score.rule == "mean"

    @property
    def entries(self) -> int:
        """How many entries there were when the gallery was read."""
        return self.subjects if self.one_entry_a_subject else self.templates

    def rekeyed(self, contract: Contract) -> PinnedGallery:
        """The gallery as it will be under its next key, whose contract this is."""
        return replace(self, key_version=self.key_version + 1, contract_digest=contract.digest(), sealed_names=True)


@dataclass(frozen=True, slots=True)
class EntryChange:
    """What a change of templates changes in the index, by ids of entries.

    ``removed`` is (k,) int64, entries that are no more; ``ids`` (n,) int64 and ``vectors`` (n, dim) float32 are new
    ones. A subject whose mean changes has one in each.
    """

    removed: NDArray[np.int64]
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def __bool__(self) -> bool:
        return bool(len(self.removed) or len(self.ids))


def no_change(dim: int, removed: NDArray[np.int64] | None = None) -> EntryChange:
    """A change without new entries."""
    none = np.empty(0, np.int64)
    return EntryChange(none if removed is None else removed, none, np.empty((0, dim), np.float32))


def joined(changes: Sequence[EntryChange]) -> EntryChange:
    """One after the other, as one change. What one adds and a later one removes is in neither."""
    removed = np.concatenate([one.removed for one in changes])
    ids = np.concatenate([one.ids for one in changes])
    kept = ~np.isin(ids, removed)
    vectors = np.concatenate([one.vectors for one in changes])
    return EntryChange(removed[~np.isin(removed, ids)], ids[kept], vectors[kept])


@dataclass(frozen=True, slots=True)
class Removed:
    """What an erasure removed, its receipt, and what to change in the index.

    Of a gallery there is no change: its index is dropped.
    """

    subjects: int
    templates: int
    receipt: Receipt
    change: EntryChange


@dataclass(frozen=True, slots=True)
class Stored:
    """Templates of the record: (n,) int64 ids in order, subjects, (n, dim) float32 vectors, (n,) float64 weights.

    ``damaged`` is (k,) int64: ids of further templates whose bytes are not what was stored.
    """

    ids: NDArray[np.int64]
    subjects: list[str]
    vectors: NDArray[np.float32]
    weights: NDArray[np.float64]
    damaged: NDArray[np.int64]


def in_parts(items: Items) -> Iterator[Items]:
    """The items in parts that one query can name."""
    for start in range(0, len(items), IDS_A_QUERY):
        yield items[start : start + IDS_A_QUERY]  # type: ignore[misc]


def oldest_alive(max_age_seconds: int | None, now: datetime) -> datetime:
    """The moment after which a template must have been stored to match now."""
    return EVER if max_age_seconds is None else now - timedelta(seconds=max_age_seconds)


def refuse_rekeyed(pinned: PinnedGallery, now: Any) -> None:
    """Refuses to go on with a gallery whose key or rule was changed since it was read.

    Args:
        pinned: the gallery as it was read.
        now: has its ``key_version``, ``contract_digest`` and ``score_version`` as they are.

    Raises:
        ContractMismatch: it has another key version.
        ScoreChanged: its subjects are compared by another rule.
    """
    if now.key_version != pinned.key_version:
        raise ContractMismatch(
            "The gallery's key was changed a moment ago; make the templates again under its new contract.",
            expected=now.contract_digest,
            given=pinned.contract_digest,
        )
    if now.score_version != pinned.score_version:
        raise ScoreChanged("How the gallery compares subjects was changed a moment ago; send the same again.")


def refuse_other(pinned: PinnedGallery, contract: str | None, *names: str) -> None:
    """Refuses what does not fit the gallery as it is in this transaction: a late contract, or names of the other kind.

    Args:
        pinned: the gallery.
        contract: the digest of the contract under whose key the caller sealed the names; None: it does not say.
        names: of subjects, as the caller sent them.

    Raises:
        ContractMismatch: the gallery has another contract: nobody is found under these names.
        Unprocessable: a name is sealed where the gallery's names are plain, or the other way round.
    """
    if contract is not None and contract != pinned.contract_digest:
        raise ContractMismatch(
            "The names of subjects were sealed under another contract than the gallery's; seal them again under it.",
            expected=pinned.contract_digest,
            given=contract,
        )
    if any(name.startswith(SEALED) != pinned.sealed_names for name in names):
        if pinned.sealed_names:
            raise Unprocessable(
                "The names of this gallery's subjects are sealed; send the name as the edge seals it.",
                reason="name_not_sealed",
            )
        raise Unprocessable(
            "The names of this gallery's subjects are not sealed; send plain names, or change its key to seal them.",
            reason="name_sealed",
        )


class ScoreChanged(IndexUnavailable):
    """The rule by which a gallery compares subjects was changed while it was used."""

    retry_after_s = 1


def pinned_where(connection: Connection, which: ColumnElement[bool]) -> PinnedGallery:
    """The gallery for which this holds.

    Raises:
        NotFound: there is none.
        RecordDamaged: its row is not what was written.
    """
    return pinned_from(gallery_row(connection, select(gallery).where(which)))


def gallery_row(connection: Connection, query: Select[Any]) -> Row[Any]:
    """The row that a query finds of a gallery, unchecked.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(query).first()
    if row is None:
        raise unknown_gallery()
    return row


def unknown_gallery() -> NotFound:
    """The error where a gallery is not there."""
    return NotFound("There is no gallery of this name.", reason="unknown_gallery")


# By number: the values of a gallery's row when it was last checked, and what they are. Every request reads its
# gallery, and checking the row takes longer than reading it.
_checked: dict[int, tuple[tuple[Any, ...], PinnedGallery]] = {}
_MOST_CHECKED: Final = 1_024


def pinned_from(row: Any) -> PinnedGallery:
    """A gallery, from its row.

    A row that has not changed since it was last checked is not checked again.

    Raises:
        RecordDamaged: a value of it cannot be one of a gallery, or does not fit the others.
    """
    values = tuple(row)
    known = _checked.get(row.id)
    if known is not None and known[0] == values:
        return known[1]
    pinned = _check(row)
    if len(_checked) >= _MOST_CHECKED:
        _checked.clear()
    _checked[row.id] = values, pinned
    return pinned


def _check(row: Any) -> PinnedGallery:
    try:
        contract = Contract.model_validate(row.contract)
        fits = row.checksum == gallery_checksum(row) and contract.digest() == row.contract_digest
        fits = fits and contract.dim == row.dim and row.index_kind in _KINDS
        fits = fits and row.created_at is not DAMAGED and row.next_contract is not DAMAGED
        counters = row.templates, row.subjects, row.last_entry, row.subjects_version, row.removed_version
        if not fits or not all(isinstance(one, int) and 0 <= one <= _MOST_COUNTED for one in counters):
            raise damaged_gallery(row.id)
        threshold = CosineThreshold.of(row.threshold_cosine)
        score = BEST if row.score is None else SubjectScore.model_validate(row.score)
    except (TypeError, ValueError):
        raise damaged_gallery(row.id) from None
    return PinnedGallery(
        id=row.id,
        name=row.name,
        contract_digest=row.contract_digest,
        dim=row.dim,
        threshold=threshold,
        fmr=row.threshold_fmr,
        verify_only=contract.verify_only,
        key_version=row.key_version,
        max_age_seconds=row.max_age_seconds,
        index_kind=row.index_kind,
        score=score,
        score_version=row.score_version,
        last_entry=row.last_entry,
        templates=row.templates,
        subjects=row.subjects,
        sealed_names=row.sealed_names,
    )


def renew_checksum(connection: Connection, gallery_id: int) -> None:
    """Renews a gallery's checksum, in the transaction that wrote a covered value."""
    row = connection.execute(select(gallery).where(gallery.c.id == gallery_id)).one()
    connection.execute(update(gallery).where(gallery.c.id == gallery_id).values(checksum=gallery_checksum(row)))


def damaged_gallery(gallery_id: int) -> RecordDamaged:
    """Says that the row of a gallery is not what was written."""
    return RecordDamaged(
        f"The row {gallery_id} of the table gallery is damaged: this gallery is not answered for until the record is "
        "restored from a backup. Other galleries are."
    )


def galleries_where(
    connection: Connection, which: ColumnElement[bool] | None = None
) -> tuple[list[PinnedGallery], list[int]]:
    """The galleries for which this holds, by number; and the numbers of damaged ones."""
    query = select(gallery).order_by(gallery.c.id)
    query = query if which is None else query.where(which)
    sound: list[PinnedGallery] = []
    damaged: list[int] = []
    for row in connection.execute(query):
        try:
            sound.append(pinned_from(row))
        except RecordDamaged:
            damaged.append(row.id)
    return sound, damaged


def find_subject(connection: Connection, gallery_id: int, name: str) -> int:
    """The id of a subject.

    Raises:
        NotFound: the gallery has no such subject.
    """
    query = select(subject.c.id).where(subject.c.gallery_id == gallery_id, subject.c.name == name)
    found = connection.scalar(query)
    if found is None:
        raise unknown_subject()
    return int(found)


def unknown_subject() -> NotFound:
    """The error where a subject is not there."""
    return NotFound("The gallery has no subject of this name.", reason="unknown_subject")


def hold_gallery(
    connection: Connection, gallery_id: int, more: int = 0, *, subjects: int = 0, entries: int = 0
) -> Row[Any]:
    """Adds to a gallery's numbers, and returns its row, unchecked.

    Nobody else changes the gallery until the transaction ends.

    Args:
        connection: in a transaction that writes.
        gallery_id: which.
        more: templates.
        subjects: of them more.
        entries: so many new ids of entries, of which the row's ``last_entry`` is the last.

    Raises:
        NotFound: the gallery was erased meanwhile.
    """
    changed = {gallery.c.templates: gallery.c.templates + more}
    if subjects:
        changed[gallery.c.subjects] = gallery.c.subjects + subjects
    if entries:
        changed[gallery.c.last_entry] = gallery.c.last_entry + entries
    change = update(gallery).where(gallery.c.id == gallery_id).values(changed)
    row = connection.execute(change.returning(gallery)).first()
    if row is None:
        raise unknown_gallery()
    return row


def touch_subjects(connection: Connection, gallery_id: int, subject_ids: Sequence[int], *, removed: bool) -> None:
    """Raises the version of a gallery's list of subjects, in a transaction that holds the gallery.

    Args:
        connection: in that transaction.
        gallery_id: which.
        subject_ids: those that were made or changed.
        removed: whether others were removed: lists from before hold some that are gone.
    """
    version = gallery.c.subjects_version + 1
    values = {gallery.c.subjects_version: version} | ({gallery.c.removed_version: version} if removed else {})
    change = update(gallery).where(gallery.c.id == gallery_id).values(values).returning(gallery.c.subjects_version)
    now = connection.scalars(change).one()
    for part in in_parts(subject_ids):
        connection.execute(update(subject).where(subject.c.id.in_(part)).values(version=now))


def read_value(connection: Connection, name: str, *, for_update: bool = False) -> str:
    """The value of a name.

    Args:
        connection: to read with.
        name: of a value that every record has.
        for_update: keeps others from changing it until the transaction ends.

    Raises:
        RecordDamaged: there is none.
    """
    query = select(record_value.c.value).where(record_value.c.name == name)
    found = connection.scalar(query.with_for_update() if for_update else query)
    if found is None:
        raise damaged_value(name)
    return str(found)


def damaged_value(name: str) -> RecordDamaged:
    """Says that the value of a name is missing or none of its kind."""
    return RecordDamaged(f"The row {name} of the table record_value is missing or damaged.")
