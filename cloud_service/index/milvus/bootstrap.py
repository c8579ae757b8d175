"""Puts the record and its indexes in Milvus together."""

from __future__ import annotations

from collections.abc import Callable

from cloud_service.erasure.residue import Remnant
from cloud_service.index.milvus.client import Milvus
from cloud_service.index.milvus.indexes import MilvusIndexes
from cloud_service.index.milvus.names import Names
from cloud_service.index.milvus.outbox import Outbox, instance_of
from cloud_service.index.milvus.sync import Keeper, Patience
from cloud_service.record.database import Database
from cloud_service.record.record import Journal, Record
from cloud_service.settings import MilvusSettings
from shared.errors import Overloaded, RecordUnavailable
from shared.metrics import Metrics
from shared.wire.common import Receipt


def in_milvus(
    url: str, settings: MilvusSettings, database: Database, record_with: Callable[[Journal], Record], metrics: Metrics
) -> tuple[Record, MilvusIndexes, Remnant]:
    """The record with an outbox for its journal, the indexes that the outbox is for, and what Milvus keeps of erasures.

    Raises:
        SetupError: a package that is needed is not installed, or milvus-lite's folder cannot be used.
    """
    milvus = Milvus(url, settings.token, settings.ca_file, settings.timeout_s)
    names = Names(instance_of(database))
    outbox = Outbox(database, names)
    record = record_with(outbox)
    patience = Patience(settings.max_lag_s, settings.keeps_hours * 3600)
    keeper = Keeper(record, outbox, milvus, names, patience)
    return record, MilvusIndexes(record, outbox, milvus, names, keeper, metrics), InMilvus(outbox)


class InMilvus:
    """What Milvus may still hold of what was erased: its keeper has it rewritten, and the outbox has account of it.

    Args:
        outbox: of all galleries.
    """

    name = "index"

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def erased(self, receipt: Receipt) -> None:
        """The keeper sees to it."""

    def doubtful(self) -> None:
        """What was committed stands in the outbox."""

    def finish(self) -> None:
        """The keeper sees to it."""

    def holds(self, receipt: Receipt) -> bool:
        """Whether an erasure as old as this one, or older, is not done; also where that cannot be read now."""
        try:
            oldest = self._outbox.oldest_pending()
        except (RecordUnavailable, Overloaded):
            return True
        return oldest is not None and oldest <= receipt.at
