"""Who may use a record in PostgreSQL: one process, or several none of which holds an index of its own."""

from __future__ import annotations

import copy
import secrets
import select
import threading
import time
from typing import Final

import psycopg
from sqlalchemy import Connection, Engine, delete, func, insert
from sqlalchemy import select as select_from
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cloud_service.record.tables import note
from shared.errors import RecordUnavailable, SetupError
from shared.logs import get_logger, place_of

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


class Ownership:
    """An advisory lock on a connection of its own, and a token in the record.

    The lock is let go by the server when the connection ends, and so tells who *may* own the record. What a process
    writes after it lost the connection unnoticed is kept out by the token: whoever takes the record over writes
    another one, and every writing transaction reads it under a lock of its row, so that none can be committed behind
    the new owner's back.

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
        """Writes the token, within a transaction; waits until those who write under another one are done."""
        if connection.scalar(_token.with_for_update()) != self._token:
            connection.execute(delete(note).where(note.c.name == _OWNER))
            connection.execute(insert(note).values(name=_OWNER, value=self._token))
        self._claimed = True

    def keep(self, *, ask: bool = False) -> None:
        """Makes sure that the lock is held, and gets it back if its connection was lost. Costs no way to the server.

        Args:
            ask: asks the server too. Where a network fell silent, only that or half a minute tells.

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
        """Makes sure, within a writing transaction, that the record was not taken over, and is not until its end.

        Raises:
            RecordUnavailable: it was.
        """
        if self._claimed and connection.scalar(_token.with_for_update(read=True)) != self._token:
            self._taken = True
            raise RecordUnavailable(_TAKEN, reason="taken_over")

    def release(self) -> None:
        """Lets go of the record."""
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
        connection = self._engine.connect()
        try:
            if connection.scalar(select_from(self._lock(_LOCK))):
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None


_token = select_from(note.c.value).where(note.c.name == _OWNER)


def _silent(connection: Connection | None) -> bool:
    """Whether a connection stands and nothing has arrived on it: neither its end nor a word of the server's."""
    if connection is None:
        return False
    poll = select.poll()
    try:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)  # noqa: S101 - the dialect's
        poll.register(driver.fileno(), select.POLLIN | select.POLLRDHUP)
    except (psycopg.Error, SQLAlchemyError):  # closed, perhaps by another thread at this moment
        return False
    return not poll.poll(0)


def _answers(connection: Connection) -> bool:
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError as error:
        _log.warning("record_lock_unanswered", **place_of(error))
        return False
    return True
