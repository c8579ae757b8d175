"""Puts the record and its indexes in Milvus together."""

from __future__ import annotations

from collections.abc import Callable

from cloud_service.gallery.database import Database
from cloud_service.gallery.milvus.client import Milvus
from cloud_service.gallery.milvus.indexes import MilvusIndexes
from cloud_service.gallery.milvus.keeper import Keeper, Patience
from cloud_service.gallery.milvus.names import Names
from cloud_service.gallery.milvus.outbox import Outbox, instance_of
from cloud_service.gallery.record import Journal, Record
from cloud_service.settings import MilvusSettings
from shared.metrics import Metrics


def in_milvus(
    url: str, settings: MilvusSettings, database: Database, record_with: Callable[[Journal], Record], metrics: Metrics
) -> tuple[Record, MilvusIndexes]:
    """The record with an outbox for its journal, and the indexes that the outbox is for.

    Raises:
        SetupError: a package that is needed is not installed, or milvus-lite's folder cannot be used.
    """
    milvus = Milvus(url, settings.token, settings.ca_file, settings.seconds)
    names = Names(instance_of(database))
    outbox = Outbox(database, names)
    record = record_with(outbox)
    patience = Patience(settings.behind_seconds, settings.keeps_hours * 3600)
    keeper = Keeper(record, outbox, milvus, names, patience)
    return record, MilvusIndexes(record, outbox, milvus, names, keeper, metrics)
