"""Puts record, index and store together from the settings, brings the tables up to date, and loads the indexes."""

from __future__ import annotations

from datetime import timedelta

from cloud_service.gallery.answers import Answers
from cloud_service.gallery.database import Database
from cloud_service.gallery.indexes import Indexes, LocalIndexes
from cloud_service.gallery.opening import closed_unless_ready, is_sqlite, open_database
from cloud_service.gallery.record import Journal, Record
from cloud_service.gallery.snapshots import Snapshots
from cloud_service.gallery.store import Store
from cloud_service.settings import Settings
from shared.metrics import Metrics


def open_store(settings: Settings, metrics: Metrics) -> Store:
    """The store, ready to be searched. Takes the time that reading the whole record takes.

    Raises:
        SetupError: the record cannot be opened or reached, is in use, is damaged, or was written by a newer version; or
            the index needs a package that is not installed.
    """
    # One for each request, verification and search at work, and five for the readiness check, an end, and the index's
    # keeper beside them.
    connections = settings.work.at_once + 2 * settings.work.searches + 5
    limits = settings.record
    database = open_database(settings.record_url, limits, connections, shared=_shared(settings))
    with closed_unless_ready(database):
        record, indexes = _record_and_indexes(database, settings, metrics)
        store = Store(
            record,
            indexes,
            metrics,
            answers=Answers(database, timedelta(hours=limits.answers_kept_hours)),
            patience_seconds=settings.work.patience_seconds + limits.busy_seconds,
        )
        store.load()
    return store


def _shared(settings: Settings) -> bool:
    """Whether other processes may use the record at the same time: where none holds an index or a file of its own."""
    url = settings.index.url
    return url is not None and not url.endswith(".db") and not is_sqlite(settings.record_url)


def _record_and_indexes(database: Database, settings: Settings, metrics: Metrics) -> tuple[Record, Indexes]:
    limits = settings.record

    def record_with(journal: Journal) -> Record:
        return Record(database, journal, limits.max_templates_a_gallery, limits.max_templates_a_subject)

    snapshots = Snapshots(database, settings.home.expanduser() / "index")
    if settings.index.url is None:
        record = record_with(snapshots)
        return record, LocalIndexes(record, snapshots, settings.index, metrics)
    # Loaded only where it is wanted: it brings gRPC and pandas, which are no part of the service otherwise.
    from cloud_service.gallery.milvus.assembly import in_milvus  # noqa: PLC0415

    record, indexes = in_milvus(settings.index.url, settings.milvus, database, record_with, metrics)
    for gallery in record.galleries():
        snapshots.forget(gallery)  # of a time without Milvus: no erasure would reach them
    return record, indexes
