"""The history of the tables: Alembic's environment and, in ``versions``, its revisions.

Each start brings the record up to date (``record.opening``). The revisions repeat what the tables were. They import
nothing of what the tables are now.
"""
