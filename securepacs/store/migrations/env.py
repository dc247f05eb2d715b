"""Alembic environment: always run by `securepacs.store.database` on the connection that holds the migration lock."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from securepacs.store.tables import metadata

connection: Connection = context.config.attributes["connection"]
# transactional_ddl: SQLite can roll schema changes back, Alembic only assumes it cannot; a half-made schema is never seen
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
