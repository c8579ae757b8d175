"""The record in a SQLite file, which this process alone may open."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from cloud_service.erasure.sqlite_slack import SqliteSlack
from cloud_service.record.database import Database
from cloud_service.record.exclusive import ReadOnlyMode, exclusive_use
from shared.errors import InsufficientStorage, Overloaded, PatronusError, RecordUnavailable, SetupError
from shared.logs import get_logger

_log = get_logger(__name__)

_WRITES: Final = "patronus_writes"
# How often emptying the log is tried while others write between.
_SCRUBS: Final = 5

# Primary result codes of SQLite that speak of the disk and not of the file.
_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL})
_NO_WRITING: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})  # of the file
# A full disk has room again when a large request fits: the least one may succeed in what a log had left.
_ROOM: Final = 1 << 20
# Reads the file's first page, and so needs all that a read needs.
_ANYTHING: Final = "SELECT count(*) FROM sqlite_master"
_NOT_NOW: Final = "The record cannot be written now: nothing was changed. Send it again in a moment."
_SEE_TO_DISK: Final = (
    "The record's disk does not work: nothing was changed. Send it again when the operator has mended it."
)
_LONG_READ: Final = "A long read of the record, as by a backup, keeps erased bytes on disk; try again when it is over."
_FORMS: Final = "sqlite:////folder/record.db or postgresql://user:password@host/database"
_FULL: Final = "The disk of the record is full: nothing was changed. The operator must make room; then send it again."


class _Cursor(sqlite3.Cursor):
    def execute(self, *statement: Any) -> Self:
        """As ever; for a damaged schema, SQLite's message quotes bytes that the driver cannot decode."""
        try:
            return super().execute(*statement)
        except UnicodeDecodeError:
            damaged = sqlite3.DatabaseError("the schema is damaged")
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged from None


class _Connection(sqlite3.Connection):
    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, *statement: Any) -> Any:
        return self.cursor().execute(*statement)


class SqliteDatabase(Database):
    """One SQLite file.

    Args:
        url: SQLAlchemy's URL of it.
        path: where it is.
        busy_seconds: how long to wait for somebody else who reads or writes the file.
        connections: the most that are open at once.

    Raises:
        SetupError: a folder that cannot be written, or a file that is in use.
    """

    # With the log, SQLite's copies of moved rows are overwritten.
    residue_name = "write-ahead log"

    def __init__(self, url: str, path: Path, busy_seconds: float, connections: int) -> None:
        self._path = path
        self._log_file = path.with_name(f"{path.name}-wal")
        engine = create_engine(
            url, pool_size=connections, max_overflow=2, pool_timeout=busy_seconds, hide_parameters=True
        )
        super().__init__(engine, reader=engine, writer=engine.execution_options(**{_WRITES: True}))
        self._read_only = ReadOnlyMode(busy_seconds)
        _set_up(engine, busy_seconds, path, self._read_only)
        self._damaged = False
        with ExitStack() as opened:
            opened.enter_context(exclusive_use(path))
            _make_private(path.resolve())
            self._slack = SqliteSlack(path)
            opened.callback(self._slack.close)
            opened.callback(engine.dispose)
            # Whether all of the file is yet to be looked through, as after a crash.
            self._unscanned = self._log_file.exists()
            try:
                self._start()
            except sqlite3.DatabaseError as error:
                raise self.unusable(error) from None
            self._opened = opened.pop_all()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the record throughout.

        Raises:
            PatronusError: as any database's.
        """
        with self._read_only.reading(), super().read() as connection:
            yield connection

    @contextmanager
    def write(self, *, long: bool = False) -> Iterator[Connection]:
        """A transaction that changes the record: durable at its end, undone by an error.

        Raises:
            PatronusError: as any database's.
        """
        if self._read_only.on:
            self._make_writable()
        with super().write(long=long) as connection:
            yield connection
        self._slack.scan_log()

    def ping(self) -> None:
        """Makes a real query; if the last write failed, also checks for room and writes.

        Raises:
            PatronusError: as ``read`` and ``write`` say.
            SQLAlchemyError: the record does not answer as it should.
        """
        if self._damaged:
            raise RecordUnavailable("A page of the record is damaged; restore a backup.")
        if self._unwritable and not self.has_room():
            raise InsufficientStorage(_FULL)
        super().ping()

    def has_room(self) -> bool:
        """Whether the disk has room for more than the least request."""
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize >= _ROOM

    def scrub(self, *, patient: bool = True, whole: bool = False) -> None:
        """Overwrites erased bytes in the write-ahead log, and copies of rows that SQLite left.

        The pages themselves were overwritten when it was erased (``secure_delete``), but for copies of rows that SQLite
        had moved before (``SqliteSlack``).

        Args:
            patient: whether to wait for the busy time; else it is tried once, and holds up no writer.
            whole: whether to look for such copies in all of the file, and not only in what this process wrote.

        Raises:
            Overloaded: somebody reads an old state of the file for longer than the busy time.
            InsufficientStorage: the disk is full.
            RecordUnavailable: the file cannot be written.
        """
        self._unscanned |= whole
        try:
            if self._read_only.on:
                self._make_writable()
            self._clean(patient=patient)
        except sqlite3.DatabaseError as error:
            code = _code_of(error)
            if code in _NO_ROOM:
                raise InsufficientStorage(
                    "The erasure is recorded, but the disk has no room to overwrite its bytes; make room and ask again."
                ) from None
            if code in _NO_WRITING:
                raise RecordUnavailable(
                    "The erasure is recorded, but its bytes cannot be overwritten on the disk now; ask again."
                ) from None
            raise

    def close(self) -> None:
        """Overwrites copies of rows, of which nothing tells later; closes the file and lets others open it."""
        with suppress(PatronusError, sqlite3.DatabaseError, OSError):
            self.scrub(patient=False)
        self._opened.close()

    def translated(self, error: DBAPIError) -> PatronusError | None:
        """The error that callers get for SQLite's; None: it is not foreseen."""
        code = _code_of(error.orig)
        if is_damage(error.orig):
            self._damaged = True
            return RecordUnavailable(
                "The record is damaged: nothing was changed. The operator must restore a backup of it."
            )
        if code == sqlite3.SQLITE_BUSY:
            return Overloaded("Somebody else is writing to the record; try again.")
        if code in _NO_ROOM:
            return InsufficientStorage(_FULL)
        if code in _NO_WRITING:
            return RecordUnavailable(_SEE_TO_DISK)
        return None

    def unusable(self, error: DBAPIError | sqlite3.DatabaseError) -> SetupError:
        """Why a start cannot use the record: a full disk is not a damaged file, and needs no backup."""
        if _code_of(error.orig if isinstance(error, DBAPIError) else error) in _NO_ROOM | _NO_WRITING:
            return SetupError(
                f"The record {self._path} cannot be written: make room on its disk, and see that this user may write "
                "there. Nothing in it is lost."
            )
        return unsound(self._path)

    def _start(self) -> None:
        """Empties the log; on a full disk later, and reads what is there.

        Raises:
            sqlite3.DatabaseError: the file is damaged; or the disk is full, and the log holds what cannot be read.
        """
        try:
            self._clean()
            return
        except sqlite3.DatabaseError as error:
            if _code_of(error) not in _NO_ROOM | _NO_WRITING or self.has_room():
                raise
            full = error
        try:
            self._read_anything()
        except sqlite3.DatabaseError:
            # No room for SQLite's shared memory. Without it the file can be read, the log cannot.
            if self._log_file.exists() and self._log_file.stat().st_size:
                raise full from None
            self.engine.dispose()
            self._read_only.on = True
        self._unwritable = True
        _log.error("record_disk_full", read_only=self._read_only.on)

    def _make_writable(self) -> None:
        """Opens the file for writing after a start without room.

        Raises:
            InsufficientStorage: there still is none. Overloaded: long reads are under way.
        """
        if not self.has_room():
            raise InsufficientStorage(_FULL)
        try:
            self._read_only.leave(self._open_for_writing)
        except sqlite3.DatabaseError as error:
            raise (InsufficientStorage(_FULL) if _code_of(error) in _NO_ROOM else RecordUnavailable(_NOT_NOW)) from None

    def _open_for_writing(self) -> None:
        self.engine.dispose()
        self._read_anything()

    def _read_anything(self) -> None:
        with closing(self.engine.raw_connection()) as connection:
            cast(sqlite3.Connection, connection.driver_connection).execute(_ANYTHING).close()

    def _clean(self, *, patient: bool = True) -> None:
        self._empty_log(patient=patient)
        if self._unscanned:
            self._slack.scan_file()
            self._empty_log(patient=patient)
            self._unscanned = False

    def _empty_log(self, *, patient: bool) -> None:
        overwritten = False
        with closing(self.engine.raw_connection()) as connection:
            driver = cast(sqlite3.Connection, connection.driver_connection)
            (patience,) = driver.execute("PRAGMA busy_timeout").fetchone()
            if not patient:
                driver.execute("PRAGMA busy_timeout = 0").close()
            for _ in range(_SCRUBS):
                self._slack.scan_log()
                busy, _frames, _moved = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if busy:
                    break
                overwritten = self._slack.overwrite(driver) or overwritten
                if not self._slack.pending:
                    break
            driver.execute(f"PRAGMA busy_timeout = {int(patience)}").close()
        if overwritten:
            self.engine.dispose()  # pages that connections hold in memory are as they were
        if busy or self._slack.pending:
            raise Overloaded(_LONG_READ, retry_after_s=5)


def sqlite_file(url: str) -> Path | None:
    """The SQLite file that SQLAlchemy's URL of a record names; None: it names a PostgreSQL database.

    Raises:
        SetupError: it names neither.
    """
    backend, name = "", ""
    with suppress(ArgumentError):
        backend, name = (parsed := make_url(url)).get_backend_name(), parsed.database or ":memory:"
    if backend == "postgresql":
        return None
    if backend != "sqlite" or name == ":memory:" or name.startswith("file:"):
        raise SetupError(f"PATRONUS_CLOUD__RECORD__URL does not name a record; it looks like {_FORMS}.")
    return Path(name)


# What makes a record of an earlier revision readable under the present names: its first revision has none of these.
_PRESENT_NAMES: Final = (
    "CREATE TEMP VIEW gallery AS SELECT *, turn AS key_version, turning_to AS next_contract FROM main.gallery",
    "CREATE TEMP VIEW rekeyed_template AS SELECT *, turn AS key_version FROM turned",
    "CREATE TEMP VIEW record_value AS SELECT * FROM note",
)


def unsound(path: Path) -> SetupError:
    """The error for a record whose file is damaged."""
    return SetupError(f"The record {path} is not a sound SQLite file; restore it from a backup.")


def is_damage(error: BaseException | None) -> bool:
    """Whether an error of the driver says that the file is damaged."""
    return _code_of(error) in _DAMAGED


def open_read_only(path: Path, *, begun: bool = False) -> sqlite3.Connection:
    """A connection that reads a record of any revision, also while a service uses it.

    Args:
        path: the file.
        begun: whether it sees one state of the record throughout; nobody waits for it.

    Raises:
        sqlite3.DatabaseError: the file is not there, or is none of SQLite's.
    """
    file = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, factory=_Connection)
    try:
        file.text_factory = _decode_text
        if any(column[1] == "turn" for column in file.execute("PRAGMA table_info(gallery)")):
            for view in _PRESENT_NAMES:
                file.execute(view).close()
        if begun:
            file.execute("BEGIN").close()
    except BaseException:
        file.close()
        raise
    return file


def _decode_text(stored: bytes) -> str:
    """Text from a column, with U+FFFD for what is no UTF-8: one damaged value must not fail the query of all."""
    return stored.decode("utf-8", "replace")


def _code_of(error: BaseException | None) -> int:
    """SQLite's primary result code; 0 where the driver gave none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _make_private(path: Path) -> None:
    """Makes the file with mode 0600, which SQLite gives to the files beside it, too."""
    try:
        if not path.exists():  # its first page is written before it is there: a record of no bytes was lost
            new = path.with_name(f".{path.name}.new")
            os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(new)) as file:
                file.execute("PRAGMA journal_mode = WAL").close()
            new.replace(path)
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if name.exists():
                name.chmod(0o600)
    except (OSError, sqlite3.Error):
        raise SetupError(
            f"The record {path} cannot be opened: make room on its disk, and see to this user's rights."
        ) from None


def _set_up(engine: Engine, busy_seconds: float, path: Path, read_only: ReadOnlyMode) -> None:
    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, _url: Any, options: dict[str, Any]) -> sqlite3.Connection | None:
        options["factory"] = _Connection
        if not read_only.on:
            return None  # as ever
        # Reads the file alone, and makes none beside it: SQLite takes no lock and does not look at the log.
        uri = f"file:{quote(str(path))}?immutable=1"
        return sqlite3.connect(uri, uri=True, check_same_thread=False, factory=_Connection)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own; `begin` below does
        connection.text_factory = _decode_text
        for pragma in (
            f"busy_timeout = {int(busy_seconds * 1000)}",
            *(() if read_only.on else ("journal_mode = WAL",)),  # readers do not wait for the writer
            "synchronous = FULL",  # a commit is on the disk before it is acknowledged
            # On macOS a plain fsync leaves it in the disk's own cache; elsewhere these two change nothing.
            "fullfsync = ON",
            "checkpoint_fullfsync = ON",
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
