"""Reading a SQLite file where the disk has no room for SQLite's own files beside it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from shared.errors import Overloaded


def connect_unchanging(path: Path) -> sqlite3.Connection:
    """A connection that reads the file alone, and makes none beside it.

    Only for a file that nobody changes meanwhile, and whose write-ahead log is empty: SQLite takes no lock and does not
    look at the log.
    """
    return sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True, check_same_thread=False)


class ReadOnlyMode:
    """Whether a file is read by such connections, and the change from that to ordinary ones.

    Nobody may read by one while the file is changed, so the change waits until all of them are done.

    Args:
        patience_seconds: the longest that the change waits.
    """

    def __init__(self, patience_seconds: float) -> None:
        self.on = False
        self._patience = patience_seconds
        self._readers = 0
        self._leaving = False
        self._changed = threading.Condition()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around every read."""
        if not self.on:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._leaving)
            counted = self.on
            self._readers += counted
        try:
            yield
        finally:
            with self._changed:
                self._readers -= counted
                self._changed.notify_all()

    def leave(self, prepare: Callable[[], None]) -> None:
        """Ends the mode, once nobody reads.

        Args:
            prepare: makes ordinary connections possible; where it raises an error, the mode stays on.

        Raises:
            Overloaded: a read goes on for longer than the patience.
        """
        until = time.monotonic() + self._patience
        with self._changed:
            if not self._changed.wait_for(lambda: not self._leaving, self._patience) or not self.on:
                return
            self._leaving = True
            try:
                if not self._changed.wait_for(lambda: self._readers == 0, max(0.0, until - time.monotonic())):
                    raise Overloaded("Long reads of the record are under way; try again in a moment.")
                self.on = False
                try:
                    prepare()
                except BaseException:
                    self.on = True
                    raise
            finally:
                self._leaving = False
                self._changed.notify_all()
