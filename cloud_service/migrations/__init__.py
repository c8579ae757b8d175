"""The tables' history. Each start brings the record up to date; nobody has to run a command.

The revisions are in ``versions``. They repeat what the tables were, and import nothing of what they are now.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from cloud_service.record.database import Database
from shared.errors import SetupError


def upgrade(database: Database) -> bool:
    """Runs the revisions that the record does not have yet, all or none.

    Returns:
        whether a record of an earlier version was changed: rows may have been written anew, and bytes left behind.

    Raises:
        SetupError: the record was written by a newer version, or does not say by which one.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with database.read() as connection:
        heads = MigrationContext.configure(connection).get_current_heads()
    if heads == tuple(ScriptDirectory.from_config(config).get_heads()):
        return False
    if len(heads) > 1 or not all(isinstance(head, str) for head in heads):
        raise SetupError("The table alembic_version of the record is damaged: restore the record from a backup.")
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        before = MigrationContext.configure(connection).get_current_revision()
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise SetupError("The record was written by a newer version of Patronus; run that one.") from None
        after = MigrationContext.configure(connection).get_current_revision()
    return before is not None and before != after
