"""The record in PostgreSQL: durable, with a limit on every wait.

It recovers by itself when the server is back.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from cloud_service.record.database import Database
from cloud_service.record.exclusive import Ownership
from shared.errors import InsufficientStorage, Overloaded, PatronusError, RecordUnavailable, SetupError
from shared.logs import get_logger

_log = get_logger(__name__)
Answer = TypeVar("Answer")

_READS: Final = "patronus_reads"
# What is asked of a session is in every one that is supported; PostgreSQL 14 is the oldest.
_OLDEST: Final = (14,)
# A server on the next rack answers within milliseconds. Longer than a lost packet's first two repetitions (1 s, 2 s).
_CONNECT_S: Final = 4
# The server gives up a statement first and says so; this much later it is taken for gone.
_MARGIN_S: Final = 2.0
# Erasing a gallery of a million, or a migration.
_LONG_S: Final = 600.0
# No transaction here waits for anything but the server; one that does belongs to a process that hangs.
_IDLE_S: Final = 60
# Of the advisory lock under which tables are changed: "migrate!" in ASCII.
_MIGRATING: Final = 0x6D69677261746521

# A network that fell silent is noticed by both sides within half a minute; their systems would take two hours.
_OPTIONS: Final[dict[str, Any]] = {
    "application_name": "patronus-cloud",
    "connect_timeout": _CONNECT_S,
    **{"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3},
}

_SETTINGS: Final = """
SELECT set_config('synchronous_commit',
           CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
       set_config('lock_timeout', %(busy)s, false),
       set_config('statement_timeout', %(answer)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle)s, false),
       set_config('idle_session_timeout', '0', false),
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false)
"""

_TRY_AGAIN: Final = {
    "40001": "The record was changed by somebody else at the same moment; try again.",
    "40P01": "The record was changed by somebody else at the same moment; try again.",
    "23505": "Somebody else wrote the same to the record at the same moment; try again.",
    "55P03": "Somebody else is writing to the record; try again.",
}
_DISK_FULL: Final = frozenset({"53100"})
_READ_ONLY: Final = frozenset({"25006"})
# No right to do it, or to look into the schema at all.
_NO_RIGHT: Final = frozenset({"42501", "3F000"})
# Too slow (57014), out of memory or connections, failures of its disk, going away, or not letting this service in.
_AWAY: Final = ("57", "53", "58", "08", "28", "3D", *_NO_RIGHT)


class PostgresqlDatabase(Database):
    """One database of a PostgreSQL server.

    Args:
        url: SQLAlchemy's URL of it; libpq's parameters, such as ``sslmode``, may stand in its query.
        busy_seconds: how long to wait for somebody else who writes to the same gallery.
        answer_seconds: the longest that a statement may take.
        connections: the most that are open at once.
        shared: whether other processes may use the record at the same time.

    Raises:
        SetupError: the server cannot be reached, does not let this service in, is too old, or the record is in use.
    """

    # The tables' room is not freed; once it is, the bytes stay there until it is used.
    residue_name = "dead rows"

    def __init__(self, url: str, busy_seconds: float, answer_seconds: float, connections: int, *, shared: bool) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")
        engine = create_engine(
            self._url,
            pool_size=connections,
            max_overflow=2,
            pool_timeout=busy_seconds,
            pool_pre_ping=True,  # a server that was restarted costs nobody an error
            isolation_level="READ COMMITTED",  # after it waited for the gallery's row, a writer sees what others wrote
            hide_parameters=True,
        )
        alone = create_engine(self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)
        for each in (engine, alone):
            _set_up(each, busy_seconds, answer_seconds)
        super().__init__(
            engine,
            reader=engine.execution_options(isolation_level="REPEATABLE READ", **{_READS: True}),
            writer=engine,
        )
        self._alone = alone
        try:
            _check_server(alone)
            self._ownership = Ownership(alone, shared)
        except DBAPIError as error:
            engine.dispose()
            raise self.unusable(error) from None

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A writing transaction that may change the tables; one process at a time has one."""
        with self.write(long=True) as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
            yield connection

    def claim(self) -> None:
        """Waits for transactions of a process that used the record before; it can begin no more."""
        with self.migrating() as connection:  # two that share the record and start at once claim it one by one
            self._ownership.claim(connection)

    def ping(self) -> None:
        """Makes a real query, and asks whether the record is still this process's.

        Raises:
            PatronusError: as ``read`` and ``write`` say.
            SQLAlchemyError: the record does not answer as it should.
        """
        with self._translating():
            self._ownership.keep(ask=True)
        super().ping()

    def scrub(self, *, patient: bool = True, whole: bool = False) -> None:
        """Frees the room of what was erased, to be overwritten by what comes next.

        PostgreSQL overwrites nothing: the bytes stay in that room, and in the write-ahead log, until they are reused
        (docs/operating.md).

        Raises:
            PatronusError: the server does not do it now; its own autovacuum will.
        """
        with self._translating(), self._alone.connect() as connection:
            connection.exec_driver_sql("VACUUM (SKIP_LOCKED) template, subject")

    def close(self) -> None:
        """Closes all connections and lets others use the record."""
        self.engine.dispose()
        self._ownership.release()

    def translated(self, error: DBAPIError) -> PatronusError | None:
        """The error that callers get for PostgreSQL's; None: it is not foreseen."""
        state = _state_of(error)
        if state in _TRY_AGAIN:
            return Overloaded(_TRY_AGAIN[state])
        if state in _DISK_FULL:
            return InsufficientStorage(
                "The disk of the record is full: nothing was changed. The operator must make room; then send it again."
            )
        if state in _READ_ONLY:
            return RecordUnavailable(
                "The record's server is read-only now: nothing was changed. Send it again when it can be written."
            )
        if state.startswith(_AWAY) or (not state and isinstance(error.orig, _CONNECTION_ERRORS)):
            return RecordUnavailable("The record does not answer now; nothing was changed. Send it again in a moment.")
        return None

    def unusable(self, error: DBAPIError) -> SetupError:
        """Why a start cannot use the record."""
        state = _state_of(error)
        return SetupError(_why(state, "" if state else str(error.orig)).format(where=_where(self._url)))

    def _check_owner(self) -> None:
        self._ownership.keep()

    def _on_begin(self, connection: Connection, long: bool) -> None:
        if long:
            connection.execute(select(func.set_config("statement_timeout", f"{_LONG_S:.0f}s", True)))
            _driver_of(connection).patience_s = _LONG_S + _MARGIN_S
        self._ownership.check(connection)


class _Bounded(psycopg.Connection[Any]):
    """A connection that waits for an answer for a limited time only."""

    patience_s = _CONNECT_S + _MARGIN_S

    def wait(self, gen: Generator[Any, Any, Answer], *args: Any, **options: Any) -> Answer:
        """Works with the server until it has answered.

        Raises:
            psycopg.OperationalError: it did not in time; the connection is closed.
        """
        return super().wait(self._in_time(gen), *args, **options)

    def _in_time(self, gen: Generator[Any, Any, Answer]) -> Generator[Any, Any, Answer]:
        deadline = time.monotonic() + self.patience_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted  # falsy every tenth of a second in which nothing came
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                wanted = gen.send(ready)
        except StopIteration as done:
            answer: Answer = done.value
            return answer


_CONNECTION_ERRORS: Final = (psycopg.OperationalError, psycopg.InterfaceError)


def _set_up(engine: Engine, busy_seconds: float, answer_seconds: float) -> None:
    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, args: list[Any], options: dict[str, Any]) -> _Bounded:
        return _Bounded.connect(*args, **(_OPTIONS | options))

    @event.listens_for(engine, "connect")
    def set_settings(connection: _Bounded, _record: Any) -> None:
        before = connection.autocommit
        connection.autocommit = True
        connection.execute(
            _SETTINGS,
            {
                "busy": f"{max(1, int(busy_seconds * 1000))}ms",  # 0 would be: without end
                "answer": f"{int(answer_seconds * 1000)}ms",
                "idle": f"{_IDLE_S}s",
            },
        ).close()
        connection.autocommit = before
        connection.patience_s = answer_seconds + _MARGIN_S

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # None and not False: a read-only server denies a request to write; the first write is refused instead.
        reads = connection.get_execution_options().get(_READS, False)
        _driver_of(connection).read_only = True if reads else None

    @event.listens_for(engine, "checkin")
    def forget(connection: _Bounded | None, _record: Any) -> None:
        if connection is not None:
            connection.patience_s = answer_seconds + _MARGIN_S


def _driver_of(connection: Connection) -> _Bounded:
    driver = connection.connection.driver_connection
    assert isinstance(driver, _Bounded)  # noqa: S101 - what `do_connect` makes
    return driver


def _check_server(engine: Engine) -> None:
    with engine.connect() as connection:
        version = engine.dialect.server_version_info or (0,)
        if version < _OLDEST:
            raise SetupError(f"The record's server is PostgreSQL {version[0]}; take {_OLDEST[0]} or a newer one.")
        for name in ("fsync", "full_page_writes"):
            if connection.exec_driver_sql(f"SHOW {name}").scalar() != "on":
                _log.warning("record_server_may_lose_data_in_a_crash", setting=name)


def _state_of(error: DBAPIError) -> str:
    """PostgreSQL's code of an error; empty where no server spoke."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def _why(state: str, said: str) -> str:
    """Why a start fails: by PostgreSQL's code, or by its words where it gave no code.

    The words are looked at and not shown. In another language than English the sentence is the more general one.
    """
    for found, sentence in (
        (state in _DISK_FULL, "The disk of the record's server at {where} is full; make room. Nothing in it is lost."),
        (state in _READ_ONLY, "The record's server at {where} is read-only; name the one that can be written."),
        (
            state in _NO_RIGHT,
            "The user of PATRONUS_CLOUD__RECORD__URL may not make or change tables at {where}; "
            "let it own the database: ALTER DATABASE … OWNER TO ….",
        ),
        (
            "authentication failed" in said or "no password supplied" in said,
            "The record's server at {where} does not accept the user or password of PATRONUS_CLOUD__RECORD__URL.",
        ),
        (
            "does not exist" in said and "FATAL" in said,
            "The record's server at {where} has no such database or user; make it: CREATE DATABASE … OWNER ….",
        ),
        (
            "FATAL" in said,
            "The record's server at {where} refuses the connection; its own log says why (pg_hba.conf, a limit).",
        ),
        (
            not state or state.startswith(_AWAY),
            "The record's server at {where} cannot be reached; see that it runs, and that "
            "PATRONUS_CLOUD__RECORD__URL names it.",
        ),
    ):
        if found:
            return sentence
    return (
        "The record at {where} is not one that this version of Patronus can use; restore it from a backup, or name "
        "another database."
    )


def _where(url: URL) -> str:
    host = url.host or url.query.get("host") or "the local socket"
    return f"{host}:{url.port}" if url.port else str(host)
