"""The status of an erasure: its entry in the log, and whether anything of it is left on disk."""

from __future__ import annotations

from datetime import timedelta

from cloud_service.audit.log import ERASURES, entry
from cloud_service.store import Store
from shared.wire.common import Erasure, Receipt


class Erasures:
    """The status of erasures.

    Args:
        store: what was erased from.
        within: the time in which all is to be overwritten.
    """

    def __init__(self, store: Store, within: timedelta) -> None:
        self._store = store
        self._within = within

    def status(self, gallery: str, number: int) -> Erasure:
        """An erasure by the number of its receipt.

        Raises:
            NotFound: the gallery has no such erasure.
        """
        with self._store.record.database.read() as connection:
            found = entry(connection, number, gallery, ERASURES)
        receipt = Receipt(id=found.seq, at=found.at, digest=found.digest)
        pending = self._store.pending(receipt)
        return Erasure(
            receipt=receipt,
            action=found.action,
            subjects=found.details["subjects"],
            templates=found.details["templates"],
            status="pending" if pending else "done",
            pending=pending,
            due_by=found.at + self._within,
        )
