"""The store: SQLAlchemy Core tables and Alembic migrations, SQLite by default, PostgreSQL by URL (extra `audit`).

`open_store(url)` gives an engine whose schema is current; `reading(engine)` and `writing(engine)` are its transactions.
"""

from __future__ import annotations

from securepacs.store.database import bulk_insert, head_revision, open_store, reading, writing

__all__ = ["bulk_insert", "head_revision", "open_store", "reading", "writing"]
