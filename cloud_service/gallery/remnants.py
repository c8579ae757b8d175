"""Where the bytes of what was erased may linger after the record and every search have forgotten it."""

from __future__ import annotations

from typing import Protocol

from cloud_service.gallery.database import Database
from shared.errors import Overloaded
from shared.logs import get_logger, place_of
from shared.wire.common import Receipt

_log = get_logger(__name__)


class Remnant(Protocol):
    """One such place. The store tells it of each erasure after that is committed, one at a time."""

    @property
    def name(self) -> str:
        """What an erasure's status calls it."""

    def erased(self, receipt: Receipt) -> None:
        """An erasure was committed: overwrites what it can at once. Fails never: the rest is ``finish``'s."""

    def finish(self) -> None:
        """Does what can be done by now about what is left, without waiting. Called every few seconds."""

    def holds(self, receipt: Receipt) -> bool:
        """Whether bytes of what this erasure removed may still be there."""


class WriteAheadLog:
    """SQLite's log, which keeps old pages for as long as somebody reads the record as it was.

    The start of a service empties it, so that nothing needs to be remembered over one.
    """

    name = "write-ahead log"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._oldest_left: int | None = None

    def erased(self, receipt: Receipt) -> None:
        """Empties the log; waits for a short read to end, but not again while a long one goes on."""
        patient = self._oldest_left is None
        if self._oldest_left is None:
            self._oldest_left = receipt.id
        self._empty(patient=patient)

    def finish(self) -> None:
        """Empties the log if something erased may be in it, and nobody reads an old state just now."""
        if self._oldest_left is not None:
            self._empty(patient=False)

    def holds(self, receipt: Receipt) -> bool:
        """Whether the log was not emptied since."""
        left = self._oldest_left
        return left is not None and receipt.id >= left

    def _empty(self, *, patient: bool) -> None:
        try:
            self._database.scrub(patient=patient)
        except Overloaded:
            return
        except Exception as error:  # the erasure is committed: whatever is wrong here, it is not undone
            _log.error("log_not_emptied", **place_of(error))
            return
        self._oldest_left = None
