"""Leases: of several replicas only one does a long work, and another one if that dies."""

from __future__ import annotations

import secrets
import time
from typing import Final

from sqlalchemy import delete, insert, select, update

from cloud_service.record.database import Database
from cloud_service.record.tables import record_value
from shared.errors import Overloaded

# A holder renews it between steps of at most a few seconds. That clocks differ by less is taken for granted; where they
# do not, work is done twice, and stays right.
_SECONDS: Final = 60.0


class Lease:
    """The right to do one work, by its name, for a minute from the last renewal.

    Args:
        database: of the record.
        name: of the work, at most 32 characters.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._holder = secrets.token_hex(8)

    def take(self) -> bool:
        """Takes or renews it; false when somebody else has it."""
        mine = f"{self._holder} {time.time() + _SECONDS:.0f}"
        try:
            with self._database.write() as connection:
                held = connection.scalar(select(record_value.c.value).where(record_value.c.name == self._name))
                if held is None:
                    connection.execute(insert(record_value).values(name=self._name, value=mine))
                    return True
                if _lives(held) and not held.startswith(self._holder):
                    return False
                swapped = (
                    update(record_value)
                    .where(record_value.c.name == self._name, record_value.c.value == held)
                    .values(value=mine)
                )
                return connection.execute(swapped).rowcount == 1
        except Overloaded:  # another replica took it in the same moment
            return False

    def give_back(self) -> None:
        """Lets others take it at once."""
        with self._database.write() as connection:
            connection.execute(
                delete(record_value).where(
                    record_value.c.name == self._name, record_value.c.value.startswith(self._holder)
                )
            )


def live_leases(database: Database) -> set[str]:
    """The names of all works that somebody does now."""
    with database.read() as connection:
        return {
            name
            for name, value in connection.execute(select(record_value.c.name, record_value.c.value))
            if _lives(value)
        }


def _lives(value: str) -> bool:
    _, _, until = value.partition(" ")
    return until.isdigit() and int(until) > time.time()
