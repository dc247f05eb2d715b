"""The role of those who may add audit records on PostgreSQL and never change or remove one."""

from __future__ import annotations

import re

from sqlalchemy import Engine, text

from securepacs.audit.repository.tables import (
    audit_checkpoint,
    audit_content,
    audit_erasure,
    audit_hold,
    audit_log,
    audit_record,
    audit_stamp,
    audit_term,
    audit_tile,
)
from securepacs.errors import UsageError
from securepacs.store import writing

TABLES = (
    audit_record, audit_content, audit_term, audit_log, audit_tile, audit_checkpoint, audit_stamp, audit_erasure, audit_hold,
)  # fmt: skip
_ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def grant_append(engine: Engine, role: str) -> None:
    """Let a role of the database read and add audit records, and take every other right on their tables from it.

    The role must exist; it can run `audit serve`, search, export and hold, but not erase. Raises UsageError for a name that is none
    or not there, and for SQLite, which has no roles.
    """
    if engine.dialect.name != "postgresql":
        raise UsageError("only PostgreSQL has roles", hint="protect an SQLite file by its owner and mode")
    if not _ROLE.fullmatch(role):
        raise UsageError(f"{role!r} cannot name a role", hint="lower-case letters, digits and _")
    names = ", ".join(table.name for table in TABLES)
    with writing(engine) as connection:
        if not connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).scalar():
            raise UsageError(f"the database has no role {role!r}", hint=f"CREATE ROLE {role} LOGIN")
        connection.execute(text(f"REVOKE ALL ON {names} FROM {role}"))
        connection.execute(text(f"GRANT SELECT, INSERT ON {names} TO {role}"))
        connection.execute(text(f"GRANT SELECT ON alembic_version TO {role}"))
