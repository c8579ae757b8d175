"""What Alembic runs: the revisions, within the transaction that ``upgrade`` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
