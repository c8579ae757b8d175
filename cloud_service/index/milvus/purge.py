"""Has Milvus rewrite its files without what was removed, and records when that is done."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from cloud_service.index.milvus.client import Milvus
from cloud_service.index.milvus.names import Names
from cloud_service.index.milvus.outbox import Outbox
from cloud_service.record.record import Record
from shared.errors import IndexUnavailable

# Milvus takes a flush of one collection every ten seconds at most, and each makes a file.
_PURGE_SECONDS: Final = 60.0
# A job that is not done by then was lost, as with a restart of Milvus; another is begun.
_JOB_SECONDS: Final = 600.0


class Purge:
    """Compacts collections with erased templates, and strikes out what is long gone.

    Args:
        record: the truth.
        outbox: holds what was removed.
        milvus: the connection.
        names: of the collections.
        kept_seconds: how long Milvus keeps what it dropped.
    """

    def __init__(self, record: Record, outbox: Outbox, milvus: Milvus, names: Names, kept_seconds: float) -> None:
        self._record = record
        self._outbox = outbox
        self._milvus = milvus
        self._names = names
        self._kept = timedelta(seconds=kept_seconds)
        # By entry: when its last compaction was begun; and of one that runs, its number and last entry of the outbox.
        self._begun: dict[str, float] = {}
        self._jobs: dict[str, tuple[int, int]] = {}

    def run(self) -> None:
        """Begins and follows the compactions that are due."""
        self._outbox.forget(datetime.now(UTC) - self._kept)
        due = self._outbox.to_purge()
        if not due or not self._milvus.compacts:
            return
        for entry, last in due.items():
            try:
                if entry in self._jobs:
                    self._follow(entry)
                elif time.monotonic() - self._begun.get(entry, -_PURGE_SECONDS) >= _PURGE_SECONDS:
                    self._begin(entry, last)
            except IndexUnavailable:
                continue  # the next round tries again

    def _begin(self, entry: str, last: int) -> None:
        parts = self._names.parts(entry)
        gallery = None if parts is None else self._record.find(parts.gallery_id)
        if gallery is None or self._names.entry(gallery) != entry:
            return
        self._begun[entry] = time.monotonic()
        self._jobs[entry] = self._milvus.compact(self._names.collection(gallery)), last

    def _follow(self, entry: str) -> None:
        number, last = self._jobs[entry]
        if time.monotonic() - self._begun[entry] > _JOB_SECONDS:
            del self._jobs[entry]
        elif self._milvus.compacted(number):
            del self._jobs[entry]
            self._outbox.confirm_purged(entry, last)
