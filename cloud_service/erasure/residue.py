"""Where the bytes of what was erased may linger after the record and every search have forgotten it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shared.errors import Overloaded
from shared.logs import get_logger, place_of
from shared.wire.common import Receipt

_log = get_logger(__name__)


class Remnant(Protocol):
    """One such place. The store tells it of each erasure after that is committed, one at a time."""

    name: str
    """What an erasure's status calls it."""

    def erased(self, receipt: Receipt) -> None:
        """An erasure was committed: overwrites what it can at once. Fails never: the rest is ``finish``'s."""

    def doubtful(self) -> None:
        """An erasure may have been committed or not: what it would have left is ``finish``'s."""

    def finish(self) -> None:
        """Does what can be done by now about what is left, without waiting. Called every few seconds."""

    def holds(self, receipt: Receipt) -> bool:
        """Whether bytes of what this erasure removed may still be there."""


class NotOverwritten:
    """A place that is overwritten as a whole, such as SQLite's log, once nobody reads an old state in it.

    The start of a service overwrites it, so that nothing needs to be remembered over one.

    Args:
        name: of the place.
        overwrite: does it, or raises an error; told whether it may wait for others who are in the way.
    """

    def __init__(self, name: str, overwrite: Callable[[bool], None]) -> None:
        self.name = name
        self._overwrite = overwrite
        self._oldest_left: int | None = None

    def erased(self, receipt: Receipt) -> None:
        """Overwrites; waits for a short read to end, but not again while a long one goes on."""
        patient = self._oldest_left is None
        if self._oldest_left is None:
            self._oldest_left = receipt.id
        self._try(patient=patient)

    def doubtful(self) -> None:
        """Has it overwritten at the next opportunity."""
        self._oldest_left = 0

    def finish(self) -> None:
        """Overwrites if something is left, and nobody is in the way just now."""
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
