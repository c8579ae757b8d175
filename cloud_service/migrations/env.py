"""What Alembic runs: the revisions, within the transaction that ``upgrade`` opened."""

from alembic import context
from sqlalchemy import MetaData

from cloud_service.migrations import NAMING_CONVENTION

context.configure(
    connection=context.config.attributes["connection"], target_metadata=MetaData(naming_convention=NAMING_CONVENTION)
)
with context.begin_transaction():
    context.run_migrations()
