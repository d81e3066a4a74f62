"""What alembic runs: the revisions, on the connection that opening.py gives, in its transaction."""

from __future__ import annotations

from alembic import context

from reference_pipeline.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    transactional_ddl=True,  # also of SQLite, whose transactions hold DDL: a kill leaves no half schema
)
with context.begin_transaction():
    context.run_migrations()
