"""Opens the database that a URL names, and brings its tables up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from cloud_service import migrations
from cloud_service.record.database import Database
from cloud_service.record.sqlite import SqliteDatabase, is_damage, open_read_only, sqlite_file, unsound
from cloud_service.settings import RecordSettings
from shared.errors import InsufficientStorage, NotFound, Overloaded, RecordDamaged, RecordUnavailable, SetupError


def open_database(url: str, settings: RecordSettings, connections: int, *, shared: bool = False) -> Database:
    """Opens the database for exclusive use, and brings its tables up to date.

    Args:
        url: SQLAlchemy's URL of a SQLite file or of a PostgreSQL database.
        settings: how patient to be.
        connections: the most that are open at once.
        shared: whether other processes may use the record at the same time: only where none of them holds an index of
            its own, and only on PostgreSQL.

    Raises:
        SetupError: the URL names no such database, it cannot be reached or written, it is in use, it is damaged, or it
            was written by a newer version.
    """
    database = _connected(url, settings, connections, shared)
    with closed_unless_ready(database):
        upgraded = upgrade(database)
        database.claim()
        if upgraded:  # rows that grew left copies of themselves, which no later erasure would find
            database.scrub(whole=True)
    return database


def upgrade(database: Database) -> bool:
    """Runs the revisions that the record does not have yet, all or none.

    Returns:
        whether a record of an earlier version was changed: rows may have been rewritten, and bytes left behind.

    Raises:
        SetupError: the record was written by a newer version, or does not say by which one.
    """
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0].replace("%", "%%"))
    with database.read() as connection:
        heads = MigrationContext.configure(connection).get_current_heads()
    if heads == tuple(ScriptDirectory.from_config(config).get_heads()):
        return False
    if len(heads) > 1 or not all(isinstance(head, str) for head in heads):
        raise SetupError("The table alembic_version of the record is damaged: restore the record from a backup.")
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        before = MigrationContext.configure(connection).get_current_revision()
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise SetupError("The record was written by a newer version of Patronus; run that one.") from None
        after = MigrationContext.configure(connection).get_current_revision()
    return before is not None and before != after


@contextmanager
def closed_unless_ready(database: Database) -> Iterator[None]:
    """Closes the database where what a start does with it fails, and says why in one sentence.

    Raises:
        SetupError: the record cannot be reached, written or used.
    """
    with ExitStack() as undo:
        undo.callback(database.close)
        try:
            yield
        except (Overloaded, RecordUnavailable, RecordDamaged, InsufficientStorage) as error:
            if isinstance(error.__cause__, DBAPIError):
                raise database.unusable(error.__cause__) from None
            raise SetupError(error.detail) from None
        except DBAPIError as error:
            raise database.unusable(error) from None
        undo.pop_all()


@contextmanager
def read_only(url: str, unreadable: str) -> Iterator[Engine]:
    """Connections to a record that is only read; each sees one state of it. A service may use it meanwhile.

    Args:
        url: SQLAlchemy's URL of the record.
        unreadable: the sentence that says why it cannot be read.

    Raises:
        NotFound: there is no record.
        SetupError: it cannot be read.
    """
    path = sqlite_file(url)
    if path is None:
        engine = create_engine(url, isolation_level="REPEATABLE READ", poolclass=NullPool)
    elif path.is_file():
        engine = create_engine("sqlite://", creator=lambda: open_read_only(path, begun=True), poolclass=NullPool)
    else:
        raise NotFound(f"There is no record {path}.")
    try:
        yield engine
    except SQLAlchemyError as error:
        if path is not None and isinstance(error, DBAPIError) and is_damage(error.orig):
            raise unsound(path) from None
        raise SetupError(unreadable) from None
    finally:
        engine.dispose()


def _connected(url: str, settings: RecordSettings, connections: int, shared: bool) -> Database:
    path = sqlite_file(url)
    if path is not None:
        if shared:
            raise SetupError("A SQLite file is for one cloud service; keep a record that several use in PostgreSQL.")
        return SqliteDatabase(url, path, settings.busy_timeout_s, connections)
    try:
        from cloud_service.record.postgresql import PostgresqlDatabase  # noqa: PLC0415 - an extra: psycopg may be missing
    except ImportError:
        raise SetupError("A record in PostgreSQL needs psycopg: pip install 'patronus-face[postgresql]'.") from None
    return PostgresqlDatabase(url, settings.busy_timeout_s, settings.statement_timeout_s, connections, shared=shared)
