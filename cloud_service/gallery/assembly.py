"""Puts record, index and store together from the settings, brings the tables up to date, and loads the indexes."""

from __future__ import annotations

from datetime import timedelta

from cloud_service.gallery.answers import Answers
from cloud_service.gallery.indexes import LocalIndexes
from cloud_service.gallery.opening import closed_unless_ready, open_database
from cloud_service.gallery.record import Record
from cloud_service.gallery.snapshots import Snapshots
from cloud_service.gallery.store import Store
from cloud_service.settings import Settings
from shared.metrics import Metrics


def open_store(settings: Settings, metrics: Metrics) -> Store:
    """The store, ready to be searched. Takes the time that reading the whole record takes.

    Raises:
        SetupError: the record cannot be opened or reached, is in use, is damaged, or was written by a newer version.
    """
    # One for each request, verification and search at work, and four for the readiness check and an end beside them.
    connections = settings.work.at_once + 2 * settings.work.searches + 4
    database = open_database(settings.record_url, settings.record, connections)
    with closed_unless_ready(database):
        limits = settings.record
        snapshots = Snapshots(database, settings.home.expanduser() / "index")
        record = Record(database, snapshots, limits.max_templates_a_gallery, limits.max_templates_a_subject)
        store = Store(
            record,
            LocalIndexes(record, snapshots, settings.index, metrics),
            metrics,
            answers=Answers(database, timedelta(hours=limits.answers_kept_hours)),
            patience_seconds=settings.work.patience_seconds + limits.busy_seconds,
        )
        store.load()
    return store
