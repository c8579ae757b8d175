"""Opens the store: the record with its tables up to date, and the indexes, loaded."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from cloud_service.audit.log import Action, append, check_salt, head
from cloud_service.clock import RecordClock
from cloud_service.erasure.residue import OverwrittenAsWhole, Residue
from cloud_service.index.faiss_indexes import FaissIndexes
from cloud_service.index.protocol import Indexes
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.database import Database
from cloud_service.record.opening import closed_unless_ready, open_database
from cloud_service.record.record import Journal, Record
from cloud_service.record.sqlite import sqlite_file
from cloud_service.settings import RetentionSettings, Settings
from cloud_service.store import Store
from shared.errors import PatronusError, SetupError, place_of
from shared.home import patronus_version
from shared.logs import get_logger
from shared.metrics import Metrics

_log = get_logger(__name__)


def clock_of(settings: RetentionSettings) -> RecordClock:
    """Makes the clock of a record from the machine's."""
    return RecordClock(timedelta(seconds=settings.clock_jump_s), settings.clock_settle_s)


def open_store(settings: Settings, metrics: Metrics, clock: RecordClock | None = None) -> Store:
    """Opens the store, ready to be searched. This reads the whole record.

    Args:
        settings: of the service.
        metrics: where steps are timed.
        clock: the time by which templates expire; None: the machine's.

    Raises:
        SetupError: the record cannot be opened or reached, is in use, is damaged, or was written by a newer version; or
            a package for the index is missing.
    """
    # One for each request, verification and search that runs; five for readiness, the end, and the index's own thread.
    connections = settings.work.concurrency + 2 * settings.work.search_threads + 5
    limits = settings.record
    _refuse_lost_record(settings)
    database = open_database(settings.record_url, limits, connections, shared=_shared(settings))
    with closed_unless_ready(database):
        with database.read() as connection:  # each write goes to the audit log: refuse a record that cannot take one
            head(connection)
            check_salt(connection)
        clock = clock or clock_of(settings.retention)
        record, indexes, residue = _record_and_indexes(database, settings, clock, metrics)
        log = OverwrittenAsWhole(database.residue_name, lambda patient: database.scrub(patient=patient))
        if database.log_left:
            log.doubtful()
        write_timeout_s = settings.work.queue_timeout_s + limits.busy_timeout_s
        store = Store(record, indexes, [log, residue], metrics, write_timeout_s)
        if store.retention.limited():
            clock.begin(store.retention.time_seen())
        else:  # nothing expires, so no time was kept: the machine's is believed, unless it is behind
            clock.observe(store.retention.time_seen())
        indexes.load()
        _note_start(database)
    return store


def _note_start(database: Database) -> None:
    if not database.has_room():  # repeated starts must not use up the rest
        _log.error("start_not_noted", why="the disk is full")
        return
    try:
        with database.write() as connection:
            append(connection, Action.SERVICE_STARTED, by=None, details={"version": patronus_version()})
    except (PatronusError, SQLAlchemyError) as error:  # a full disk: matching works all the same
        _log.error("start_not_noted", **place_of(error))


def _refuse_lost_record(settings: Settings) -> None:
    """Refuses to make an empty record where a file of no bytes, or files of an index, show that one was lost."""
    record, index = sqlite_file(settings.record_url), settings.home.expanduser() / "index"
    if record is None:
        return
    if not record.exists() and any(index.glob("*.segment")):
        raise SetupError(
            f"The record {record} is missing, though files of its index are in {index}. Mount or restore the "
            "record; to start with an empty one, remove that folder first."
        )
    if record.is_file() and not record.stat().st_size:
        raise SetupError(
            f"The record {record} has no bytes, which no start leaves: its content was lost. Restore it from a backup; "
            "to begin a new record, delete the file."
        )


def _shared(settings: Settings) -> bool:
    """Whether other processes may use the record too: neither it nor the index is private."""
    url = settings.index.url
    return url is not None and not url.endswith(".db") and sqlite_file(settings.record_url) is None


def _record_and_indexes(
    database: Database, settings: Settings, clock: RecordClock, metrics: Metrics
) -> tuple[Record, Indexes, Residue]:
    limits = settings.record

    def record_with(journal: Journal) -> Record:
        return Record(database, journal, limits.max_templates_a_gallery, limits.max_templates_a_subject, clock)

    snapshots = Snapshots(database, settings.home.expanduser() / "index")
    if settings.index.url is None:
        record = record_with(snapshots)
        files = OverwrittenAsWhole("index files", lambda _patient: snapshots.sweep())
        return record, FaissIndexes(record, snapshots, settings.index, metrics), files
    # Loaded only where it is wanted: it brings gRPC and pandas, which are no part of the service otherwise.
    from cloud_service.index.milvus.indexes import in_milvus  # noqa: PLC0415

    record, indexes, kept = in_milvus(settings.index.url, settings.milvus, database, record_with, metrics)
    for gallery in record.galleries():
        if snapshots.info(gallery).files:
            snapshots.forget(gallery)  # from before Milvus: no erasure would reach them
    return record, indexes, kept
