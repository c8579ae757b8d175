"""The indexes of all galleries, as the store and the matcher use them, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cloud_service.index.flat import VectorIndex
from cloud_service.record.queries import EntryChange, PinnedGallery
from shared.wire.cloud import IndexStats, SnapshotInfo


class Indexes(Protocol):
    """An index for each gallery of the record; the store calls it after every commit.

    What follows an erasure (``removed``, ``dropped``) or a doubtful commit never raises: it is repaired later.
    """

    @property
    def in_order(self) -> bool:
        """Whether changes must be passed on one at a time, in the order of their commits."""

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched now."""

    def load(self) -> None:
        """Makes every gallery searchable, at the start."""

    def of(self, gallery: PinnedGallery) -> VectorIndex:
        """The index of a gallery under its present key, rebuilt first if it was lost.

        It may be searched to the end though the gallery's key or rule is changed meanwhile: no index ever holds entries
        under two of either.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile. ScoreChanged: its rule was.
        """

    def made(self, gallery: PinnedGallery) -> None:
        """Makes the index of a new, empty gallery. Never raises; repaired later."""

    def added(self, gallery: PinnedGallery, change: EntryChange) -> None:
        """Adds entries, and removes those that they replace; they can be found when this returns."""

    def added_before(self, gallery: PinnedGallery, uids: Sequence[str]) -> None:
        """Makes sure that templates which are sent again, by their names on the wire, can be found."""

    def removed(self, gallery: PinnedGallery, change: EntryChange) -> None:
        """Removes entries, and adds those that take the place of some."""

    def regrouped(self, before: PinnedGallery, after: PinnedGallery) -> None:
        """Makes the index of a gallery anew whose rule was changed, and drops the one before.

        Raises:
            IndexUnavailable: it is not searched until that is done.
        """

    def dropped(self, gallery: PinnedGallery) -> None:
        """Drops the index of a gallery that was erased."""

    def stats(self, gallery: PinnedGallery) -> IndexStats:
        """How a gallery is searched.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """

    def pinned(self, gallery: PinnedGallery) -> None:
        """Makes a gallery's index one of the kind that an operator chose."""

    def snapshot(self, gallery: PinnedGallery) -> SnapshotInfo:
        """Writes a gallery's index to files now, where it is kept so.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """

    def doubtful(self, gallery: PinnedGallery) -> None:
        """Checks an index later whose last change may or may not be committed."""

    def prepare(self, after: PinnedGallery) -> None:
        """Makes an index of what is staged for a gallery's next key, beside the present one.

        May take long. Called again, it adds what was staged since.
        """

    def switch(self, after: PinnedGallery, commit: Callable[[], object]) -> None:
        """Runs the transaction that changes a gallery's key, then puts the prepared index in place.

        That index has all that was added and removed since. Raises what the transaction raises, and nothing after it.
        """

    def unprepare(self, gallery: PinnedGallery) -> None:
        """Drops what was prepared for a gallery's next key."""

    def close(self) -> None:
        """Frees all indexes."""
