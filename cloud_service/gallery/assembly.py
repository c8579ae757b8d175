"""Puts record, index and store together from the settings, brings the tables up to date, and loads the indexes."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from cloud_service.gallery.database import Database, unusable
from cloud_service.gallery.indexes import LocalIndexes
from cloud_service.gallery.record import Record
from cloud_service.gallery.snapshots import Snapshots
from cloud_service.gallery.store import Store
from cloud_service.migrations import upgrade
from cloud_service.settings import Settings
from shared.metrics import Metrics


def open_store(settings: Settings, metrics: Metrics) -> Store:
    """The store, ready to be searched. Takes the time that reading the whole record takes.

    Raises:
        SetupError: the record cannot be opened, is in use, is damaged, or was written by a newer version.
    """
    # A connection for each request at work, and two for the readiness check and a start or end beside them.
    database = Database(settings.record_url, settings.record.busy_seconds, settings.work.at_once + 2)
    try:
        upgrade(database)
        limits = settings.record
        snapshots = Snapshots(database, settings.home.expanduser() / "index")
        record = Record(database, snapshots, limits.max_templates_a_gallery, limits.max_templates_a_subject)
        store = Store(record, LocalIndexes(record, snapshots, settings.index, metrics), metrics)
        store.load()
    except DBAPIError as error:
        database.close()
        raise unusable(database.engine.url.database or "", error.orig) from None
    except BaseException:
        database.close()
        raise
    return store
