"""The database under the record: opening, transactions, and overwriting what was erased.

Everything that is particular to SQLite stands here; the tables and queries elsewhere suit any engine.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError

from cloud_service.gallery.folder_lock import FolderLock
from shared.errors import Overloaded, SetupError

_WRITES = "patronus_writes"

# Primary result codes of SQLite that speak of the disk and not of the file.
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})


class Database:
    """One SQLite file that this process alone may open.

    Args:
        url: SQLAlchemy's URL of a SQLite file.
        busy_seconds: how long to wait for somebody else who reads or writes the file.
        connections: the most that are open at once.

    Raises:
        SetupError: not the URL of a SQLite file, a folder that cannot be written, or a file that is in use.
    """

    def __init__(self, url: str, busy_seconds: float, connections: int) -> None:
        path = file_of(url)
        self._lock = FolderLock(path)
        self.engine = create_engine(url, pool_size=connections, max_overflow=2)
        _set_up_sqlite(self.engine, busy_seconds)
        self._writer = self.engine.execution_options(**{_WRITES: True})
        try:
            _make_private(path)
            self.scrub()
        except sqlite3.DatabaseError as error:
            self.close()
            raise unusable(str(path), error) from None
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the record throughout."""
        with _told_as_busy(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the only right to write from its first moment; committed at its end.

        Raises:
            Overloaded: somebody else writes to the file for longer than the busy time.
        """
        with _told_as_busy(), self._writer.begin() as connection:
            yield connection

    def ping(self) -> None:
        """Makes a real query.

        Raises:
            SQLAlchemyError: the record does not answer.
        """
        with self.engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM gallery"))

    def scrub(self, *, patient: bool = True) -> None:
        """Empties the write-ahead log, which may still hold the bytes of what was erased.

        The pages themselves were overwritten when it was erased (``secure_delete``).

        Args:
            patient: whether to wait for the busy time; else it is tried once, and holds up no writer.

        Raises:
            Overloaded: somebody reads an old state of the file for longer than the busy time.
        """
        connection = self.engine.raw_connection()
        try:
            cursor = connection.cursor()
            (patience,) = cursor.execute("PRAGMA busy_timeout").fetchone()
            if not patient:
                cursor.execute("PRAGMA busy_timeout = 0")
            try:
                busy, _frames, _moved = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {int(patience)}")
                cursor.close()
        finally:
            connection.close()
        if busy:
            raise Overloaded(
                "A long read of the record, such as a backup, keeps erased bytes on disk; try again when it is over.",
                retry_after_s=5,
            )

    def close(self) -> None:
        """Closes the file and lets others open it."""
        self.engine.dispose()
        self._lock.release()


def file_of(url: str) -> Path:
    """The file of a record, by SQLAlchemy's URL of it.

    Raises:
        SetupError: it is not the URL of a SQLite file.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SetupError("The record's URL is not one; it looks like sqlite:////folder/record.db.") from None
    name = parsed.database
    if parsed.get_backend_name() != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        raise SetupError("The record is kept in a SQLite file; give its URL as sqlite:////folder/record.db.")
    return Path(name)


def _make_private(path: Path) -> None:
    """Makes the file with mode 0600; SQLite gives its companions (log, shared memory) the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if name.exists():
                name.chmod(0o600)
    except OSError:
        raise SetupError(f"The record {path} cannot be opened by this user for reading and writing.") from None


def _set_up_sqlite(engine: Engine, busy_seconds: float) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own; `begin` below does
        for pragma in (
            f"busy_timeout = {int(busy_seconds * 1000)}",
            "journal_mode = WAL",  # readers do not wait for the writer
            "synchronous = FULL",  # a commit is on the disk before it is acknowledged
            "foreign_keys = ON",
            "secure_delete = ON",  # overwrite what is deleted
            "temp_store = MEMORY",  # no vector in a temporary file
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE: a transaction that reads first and then writes would otherwise fail instead of waiting.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _told_as_busy() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        code = getattr(error.orig, "sqlite_errorcode", 0) or 0
        if code & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        raise Overloaded("Somebody else is writing to the record; try again.") from None


def unusable(record: str, error: BaseException | None) -> SetupError:
    """Why a record cannot be used, as a start tells it: a full disk is not a damaged file, and needs no backup."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_ROOM:
        return SetupError(
            f"The record {record} cannot be written: make room on its disk, and see that this user may write there. "
            "Nothing in it is lost."
        )
    return SetupError(f"The record {record} is not a sound SQLite file; restore it from a backup.")
