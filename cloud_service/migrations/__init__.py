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

from cloud_service.gallery.database import Database
from shared.errors import SetupError


def upgrade(database: Database) -> None:
    """Runs the revisions that the record does not have yet, all or none. Writes nothing where it has them all.

    Raises:
        SetupError: the record was written by a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with database.read() as connection:
        if MigrationContext.configure(connection).get_current_heads() == tuple(
            ScriptDirectory.from_config(config).get_heads()
        ):
            return
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise SetupError("The record was written by a newer version of Patronus; run that one.") from None
