"""Residue: bytes of erased templates that may stay on disk for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shared.errors import Overloaded, place_of
from shared.logs import get_logger
from shared.wire.common import Receipt

_log = get_logger(__name__)


class Residue(Protocol):
    """One place of residue; the store calls it after each erasure's commit, in order."""

    # The place, as an erasure's status names it.
    name: str

    def erased(self, receipt: Receipt) -> None:
        """Overwrites what it can at once. Never raises; ``finish`` does the rest."""

    def doubtful(self) -> None:
        """Has ``finish`` overwrite what an erasure of unknown outcome may have left."""

    def finish(self) -> None:
        """Overwrites what can be overwritten by now, without waiting. Called every few seconds."""

    def holds(self, receipt: Receipt) -> bool:
        """Whether bytes of what this erasure removed may still be there."""


class OverwrittenAsWhole:
    """Residue that is overwritten as a whole, such as SQLite's log, when nobody reads it.

    The start of a service overwrites it, so that nothing needs to be remembered over a restart.

    Args:
        name: of the place.
        overwrite: does it, or raises an error; its argument is whether it may wait for readers.
    """

    def __init__(self, name: str, overwrite: Callable[[bool], None]) -> None:
        self.name = name
        self._overwrite = overwrite
        self._oldest_left: int | None = None

    def erased(self, receipt: Receipt) -> None:
        """Overwrites; waits for a short read to end, but not again while a long one goes on."""
        patient = self._oldest_left is None
        if patient:
            self._oldest_left = receipt.id
        self._try(patient=patient)

    def doubtful(self) -> None:
        """Has it overwritten at the next opportunity."""
        self._oldest_left = 0

    def finish(self) -> None:
        """Overwrites if something is left and nobody reads just now."""
        if self._oldest_left is not None:
            self._try(patient=False)

    def holds(self, receipt: Receipt) -> bool:
        """Whether it was not overwritten since."""
        left = self._oldest_left
        return left is not None and receipt.id >= left

    def _try(self, *, patient: bool) -> None:
        try:
            self._overwrite(patient)
        except Overloaded:
            return
        except Exception as error:  # the erasure is committed: whatever is wrong here, it is not undone
            _log.error("not_overwritten", where=self.name, **place_of(error))
            return
        self._oldest_left = None
