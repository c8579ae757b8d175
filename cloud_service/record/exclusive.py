"""Exclusive use of a record: by one process, one writer, or readers of a full disk."""

from __future__ import annotations

import copy
import fcntl
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Connection, Engine, delete, func, insert
from sqlalchemy import select as select_from
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cloud_service.record.tables import record_value
from shared.errors import Overloaded, RecordUnavailable, SetupError, place_of
from shared.logs import get_logger

_log = get_logger(__name__)

# Of the advisory lock, which is the database's own: "patronus" in ASCII.
_LOCK: Final = 0x706174726F6E7573
_OWNER: Final = "owner"
_SHARED: Final = "shared"
# How long after a failed attempt to get the lock back nobody tries again: else every request would, one after another.
_PAUSE_S: Final = 1.0
_AWAY: Final = "The record cannot be reached now; nothing was changed. Send it again in a moment."
_TAKEN: Final = (
    "Another cloud service has taken the record over, so this one does not use it any more; "
    "call that one, or stop it and restart this one."
)


class WriteLock:
    """Held by one thread at a time, as a context.

    Args:
        patience_seconds: the longest that one waits for it.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._lock = threading.Lock()
        self._patience = patience_seconds

    def __enter__(self) -> Self:
        """Waits for it.

        Raises:
            Overloaded: others had it for too long.
        """
        if not self._lock.acquire(timeout=self._patience):
            raise Overloaded("Others are writing, and it takes long; try again in a moment.")
        return self

    def __exit__(self, *_ended: object) -> None:
        self._lock.release()

    @contextmanager
    def however_long(self) -> Iterator[None]:
        """Waits for it until it comes: for an end that must not be refused."""
        with self._lock:
            yield


@contextmanager
def exclusive_use(path: Path) -> Iterator[None]:
    """Keeps other processes from using a record; the system lets them when this process dies.

    The index lives in one process: a second writer would leave it behind the record without noticing.

    Args:
        path: the file of the record; missing folders are made with mode 0700.

    Raises:
        SetupError: another process uses it, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        raise SetupError(
            f"The folder {path.parent} cannot be written; name another with PATRONUS_CLOUD__HOME."
        ) from None
    with os.fdopen(descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SetupError(f"A cloud service is using the record {path}; stop it first.") from None
        yield


class Ownership:
    """An advisory lock on a connection of its own, and a token in the record.

    The server frees the lock when the connection ends, so that another process can take it. The token keeps out writes
    of a process that lost its connection unnoticed: the new owner writes another token, and every writing transaction
    reads it under a lock of its row, so that none of the old owner's can be committed.

    Args:
        engine: makes connections, without a pool, each statement a transaction of its own.
        shared: whether other processes that say so too may use the record at the same time.

    Raises:
        SetupError: somebody else uses the record.
        DBAPIError: it cannot be reached.
    """

    def __init__(self, engine: Engine, shared: bool) -> None:
        self._engine = engine
        self._lock = func.pg_try_advisory_lock_shared if shared else func.pg_try_advisory_lock
        self._token = _SHARED if shared else secrets.token_hex(16)
        self._claimed = False
        self._taken = False
        self._changing = threading.Lock()
        self._not_before = 0.0
        self._why_not = RecordUnavailable(_AWAY)
        self._connection: Connection | None = self._locked()
        if self._connection is None:
            raise SetupError("A cloud service is using the record of PATRONUS_CLOUD__RECORD__URL; stop it first.")

    def claim(self, connection: Connection) -> None:
        """Writes the token; waits for transactions under another token to end."""
        if connection.scalar(_token.with_for_update()) != self._token:
            connection.execute(delete(record_value).where(record_value.c.name == _OWNER))
            connection.execute(insert(record_value).values(name=_OWNER, value=self._token))
        self._claimed = True

    def keep(self, *, ask: bool = False) -> None:
        """Makes sure that the lock is held, and gets it back if its connection was lost.

        Asks the server only where something arrived on the connection.

        Args:
            ask: asks the server too. A network that fell silent is otherwise noticed after half a minute.

        Raises:
            RecordUnavailable: another process has the record by now, or had it meanwhile.
            DBAPIError: the record cannot be reached.
        """
        if not ask and not self._taken and _silent(self._connection):
            return
        with self._changing:
            if self._taken:
                raise RecordUnavailable(_TAKEN, reason="taken_over")
            if self._connection is not None and not _answers(self._connection):
                _log.error("record_lock_lost")
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._get_back()

    def check(self, connection: Connection) -> None:
        """Refuses a writing transaction where the record was taken over; it is not until its end.

        Raises:
            RecordUnavailable: it was.
        """
        if self._claimed and connection.scalar(_token.with_for_update(read=True)) != self._token:
            self._taken = True
            raise RecordUnavailable(_TAKEN, reason="taken_over")

    def release(self) -> None:
        """Lets other processes use the record."""
        with self._changing:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _get_back(self) -> None:
        if time.monotonic() < self._not_before:
            raise copy.copy(self._why_not)
        try:
            connection = self._locked()
        except DBAPIError:
            self._pause(RecordUnavailable(_AWAY))
            raise
        if connection is None:
            self._pause(RecordUnavailable(_TAKEN, reason="taken_over"))
            raise copy.copy(self._why_not)
        # Nobody has the record; but somebody may have had it, and what is in this process's memory is then outdated.
        if self._claimed and connection.scalar(_token) != self._token:
            connection.close()
            self._taken = True
            raise RecordUnavailable(_TAKEN, reason="taken_over")
        self._connection = connection
        _log.info("record_lock_back")

    def _pause(self, why: RecordUnavailable) -> None:
        self._why_not = why
        self._not_before = time.monotonic() + _PAUSE_S

    def _locked(self) -> Connection | None:
        """A connection with the lock; None where somebody else has it."""
        with ExitStack() as undo:
            connection = undo.enter_context(self._engine.connect())
            if not connection.scalar(select_from(self._lock(_LOCK))):
                return None
            undo.pop_all()
            return connection


_token = select_from(record_value.c.value).where(record_value.c.name == _OWNER)


def _silent(connection: Connection | None) -> bool:
    """Whether a connection stands and nothing has arrived on it, neither data nor its end."""
    if connection is None:
        return False
    poll = select.poll()
    try:
        driver: Any = connection.connection.driver_connection
        poll.register(driver.fileno(), select.POLLIN | select.POLLRDHUP)
    except (connection.dialect.loaded_dbapi.Error, SQLAlchemyError):  # closed, perhaps by another thread at this moment
        return False
    return not poll.poll(0)


def _answers(connection: Connection) -> bool:
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError as error:
        _log.warning("record_lock_unanswered", **place_of(error))
        return False
    return True


class ReadOnlyMode:
    """Whether a file is read by connections that take no lock, and the change from that to ordinary ones.

    Nobody may read by one while the file is changed, so the change waits until all of them are done.

    Args:
        patience_seconds: the longest that the change waits.
    """

    def __init__(self, patience_seconds: float) -> None:
        self.on = False
        self._patience = patience_seconds
        self._readers = 0
        self._leaving = 0
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
        with self._changed:
            self._leaving += 1
            try:
                if not self._changed.wait_for(lambda: self._readers == 0, self._patience):
                    raise Overloaded("Long reads of the record are under way; try again in a moment.")
                if self.on:  # else another thread has ended it just now
                    self.on = False
                    try:
                        prepare()
                    except BaseException:
                        self.on = True
                        raise
            finally:
                self._leaving -= 1
                self._changed.notify_all()
