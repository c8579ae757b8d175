"""The database under the record: transactions, and plain words where it fails.

What is particular to an engine stands in ``sqlite`` and ``postgresql``; the tables and queries elsewhere suit both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, delete, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from cloud_service.record.tables import record_value
from shared.errors import InsufficientStorage, OutcomeUnknown, Overloaded, PatronusError, RecordUnavailable, SetupError

# What is written to see whether a record that could not be written can be again.
_TRIED = "tried"


class Database(ABC):
    """One database that holds a record. Safe to use from several threads.

    Attributes:
        residue_name: where bytes of what was erased stay until ``scrub``, as an erasure's status names it.

    Args:
        engine: its connections.
        reader: the same, with what a reading transaction is to be.
        writer: the same, with what a writing transaction is to be.
    """

    residue_name: str

    def __init__(self, engine: Engine, reader: Engine, writer: Engine) -> None:
        self.engine = engine
        self._reader = reader
        self._writer = writer
        self._unwritable = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the record throughout.

        Raises:
            Overloaded: somebody else is in the way for longer than the busy time.
            RecordUnavailable: the record cannot be reached, or does not answer in time.
        """
        with self._translating():
            self._check_owner()
            with self._reader.connect() as connection:
                yield connection

    @contextmanager
    def write(self, *, long: bool = False) -> Iterator[Connection]:
        """A transaction that changes the record: durable at its end, undone by an error.

        Args:
            long: a statement of it may take minutes, as to erase a large gallery does.

        Raises:
            Overloaded: somebody else writes for longer than the busy time, or wrote the same at the same moment.
            InsufficientStorage: the disk is full.
            RecordUnavailable: the record cannot be reached, or not be written.
            OutcomeUnknown: it went away while it committed.
        """
        try:
            with self._translating():
                self._check_owner()
                with self._writer.connect() as connection:
                    transaction = connection.begin()
                    self._on_begin(connection, long)
                    yield connection
                    try:
                        transaction.commit()
                    except DBAPIError as error:
                        if error.connection_invalidated:
                            raise OutcomeUnknown from None
                        raise
        except (RecordUnavailable, InsufficientStorage):
            self._unwritable = True
            raise
        self._unwritable = False

    def ping(self) -> None:
        """Makes a real query; and a real write, if the last write failed.

        Raises:
            PatronusError: as ``read`` and ``write`` say.
            SQLAlchemyError: the record does not answer as it should.
        """
        if self._unwritable:
            with self.write() as connection:
                connection.execute(delete(record_value).where(record_value.c.name == _TRIED))
                connection.execute(insert(record_value).values(name=_TRIED, value=datetime.now(UTC).isoformat()))
        with self.read() as connection:
            connection.execute(text("SELECT count(*) FROM gallery"))

    def has_room(self) -> bool:
        """Whether there is room to write more, as far as this process can see."""
        return True

    @property
    def log_left(self) -> bool:
        """Whether the start left bytes of what was erased for a later ``scrub``, because it could not write."""
        return self._unwritable

    def migrating(self) -> AbstractContextManager[Connection]:
        """A writing transaction that may change the tables; one process at a time has one."""
        return self.write(long=True)

    def claim(self) -> None:  # noqa: B027 - a file's lock is not lost while the process lives
        """Ends the right to write of a process that used the record before.

        Called once the tables are up to date.
        """

    @abstractmethod
    def scrub(self, *, patient: bool = True, whole: bool = False) -> None:
        """Overwrites the bytes of what was erased, as far as the engine can.

        Args:
            patient: whether to wait for the busy time; else it is tried once, and holds up no writer.
            whole: whether to look for copies of rows in all of the file, where the engine leaves some.

        Raises:
            Overloaded: somebody reads an old state of the record for longer than the busy time.
            InsufficientStorage: the disk is full.
            RecordUnavailable: the record cannot be reached or written.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes all connections and lets others use the record."""

    @abstractmethod
    def translated(self, error: DBAPIError) -> PatronusError | None:
        """The error that callers get for an engine's; None: it is not foreseen."""

    @abstractmethod
    def unusable(self, error: DBAPIError) -> SetupError:
        """Why a start cannot use the record: one sentence, without a password."""

    def _check_owner(self) -> None:  # noqa: B027 - as for `claim`
        """Refuses to begin a transaction where the record is another process's by now."""

    def _on_begin(self, connection: Connection, long: bool) -> None:  # noqa: B027 - SQLite needs nothing
        """Prepares a transaction that was just begun."""

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except NoConnectionFree:
            raise Overloaded("More is asked of the record than it answers in time; try again.") from None
        except DBAPIError as error:
            translated = self.translated(error)
            if translated is None:
                raise
            raise translated from error
