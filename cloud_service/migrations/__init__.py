"""The history of the tables: Alembic's environment and, in ``versions``, its revisions.

Each start brings the record up to date (``record.opening``). The revisions repeat what the tables were. They import
nothing of what the tables are now.
"""

from typing import Final

# How indexes and constraints are named, in every revision and in `record.tables`. A change needs a revision.
NAMING_CONVENTION: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
