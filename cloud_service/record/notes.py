"""Values of the record as a whole, which stand in the table ``note`` under names."""

from __future__ import annotations

from sqlalchemy import Connection, select

from cloud_service.record.tables import note
from shared.errors import RecordDamaged


def noted_value(connection: Connection, name: str, *, for_update: bool = False) -> str:
    """The value of a name.

    Args:
        connection: to read with.
        name: of a value that every record has.
        for_update: keeps others from changing it until the transaction ends.

    Raises:
        RecordDamaged: there is none.
    """
    query = select(note.c.value).where(note.c.name == name)
    found = connection.scalar(query.with_for_update() if for_update else query)
    if found is None:
        raise damaged_note(name)
    return str(found)


def damaged_note(name: str) -> RecordDamaged:
    """Says that the value of a name is missing or none of its kind."""
    return RecordDamaged(f"The row {name} of the table note is missing or damaged.")
