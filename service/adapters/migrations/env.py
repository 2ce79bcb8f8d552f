"""Run by alembic: migrates through the connection, and in the transaction, that the journal has opened."""

from __future__ import annotations

from alembic import context

from service.adapters.journal import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
