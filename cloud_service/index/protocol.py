"""The indexes of all galleries, as the store and the matcher know them, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_service.index.flat import VectorIndex
from cloud_service.record.rows import PinnedGallery
from shared.logs import get_logger
from shared.wire.cloud import IndexStats, SnapshotInfo

_log = get_logger(__name__)


class Indexes(Protocol):
    """An index for each gallery of the record. The store tells it of every change, after that is committed."""

    @property
    def in_order(self) -> bool:
        """Whether it is to be told of one change at a time, in the order of their commits."""

    @property
    def sound(self) -> bool:
        """Whether every gallery can be searched now."""

    def load(self) -> None:
        """Makes every gallery searchable, at the start."""

    def of(self, gallery: PinnedGallery) -> VectorIndex:
        """The index of a gallery in its turn, made anew first if it was lost. Whoever was given one may search it to
        the end, though the gallery's key is changed meanwhile: no index ever holds templates of two turns.

        Raises:
            NotFound: the gallery was erased meanwhile.
            ContractMismatch: its key was changed meanwhile.
        """

    def made(self, gallery: PinnedGallery) -> None:
        """A gallery is new, and empty. Never raises: what is left behind is mended later."""

    def added(self, gallery: PinnedGallery, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Templates were added, (n,) int64 and (n, dim) float32; they can be found when this returns."""

    def added_before(self, gallery: PinnedGallery, uids: Sequence[str]) -> None:
        """Templates are sent again, by their names on the wire; they can be found when this returns."""

    def removed(self, gallery: PinnedGallery, ids: NDArray[np.int64]) -> None:
        """Templates were removed, (n,) int64. Fails never: what is left behind is mended later."""

    def dropped(self, gallery: PinnedGallery) -> None:
        """A gallery was removed. Fails never: what is left behind is mended later."""

    def stats(self, gallery: PinnedGallery) -> IndexStats:
        """How a gallery is searched.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """

    def pinned(self, gallery: PinnedGallery) -> None:
        """An operator chose the kind of a gallery's index."""

    def snapshot(self, gallery: PinnedGallery) -> SnapshotInfo:
        """Writes a gallery's index to files now, where it is kept so.

        Raises:
            NotFound: the gallery was erased meanwhile.
        """

    def doubtful(self, gallery: PinnedGallery) -> None:
        """Whether the last change of a gallery was committed cannot be told. Fails never: it is looked up later."""

    def prepare(self, after: PinnedGallery) -> None:
        """Makes an index of what is staged for a gallery's next turn, beside the one that is searched. May take long;
        said again, it takes in what was staged since.
        """

    def turn(self, after: PinnedGallery, flip: Callable[[], object]) -> None:
        """Runs the transaction that begins a gallery's next turn, and then gives out the index that was prepared, with
        all that was added and removed since. Fails as the transaction does, and never after it.
        """

    def unprepare(self, after: PinnedGallery) -> None:
        """That turn will not come; what was prepared for it is let go of."""

    def close(self) -> None:
        """Lets go of all."""
