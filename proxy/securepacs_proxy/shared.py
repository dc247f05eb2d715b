"""Blocks that several gateways share: one table in PostgreSQL, which each of them reads a few times a second.

1. A row is the last change about one thing that can be blocked. A block always counts; taking back only what is older than it. So
   nobody comes in because of clocks that differ, or of a change that waited.
2. Writers take turns (an advisory lock), so that numbers become visible in their order and a reader misses none.
3. Nobody waits long: connecting, a statement and an unanswered packet end after three seconds. The caller decides what then counts.

Polling and not LISTEN: it notices an outage at the same time, and works through a connection pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from securepacs.errors import ConfigError, UsageError
from securepacs_proxy.blocks import BlockChange, from_dict
from securepacs_proxy.config import SharedSection, is_loopback

if TYPE_CHECKING:
    import psycopg

_SECONDS = 3
_LOCK = 0x5EC0_B10C
_CREATE = """
CREATE TABLE IF NOT EXISTS gateway_block (
    kind text NOT NULL, value text NOT NULL, active boolean NOT NULL, reason text NOT NULL, by_user text NOT NULL,
    gateway text NOT NULL, since timestamptz NOT NULL, number bigint NOT NULL, PRIMARY KEY (kind, value))
"""
_UPSERT = """
INSERT INTO gateway_block (kind, value, active, reason, by_user, gateway, since, number)
VALUES (%s, %s, %s, %s, %s, %s, %s, (SELECT coalesce(max(number), 0) + 1 FROM gateway_block))
ON CONFLICT (kind, value) DO UPDATE SET active = EXCLUDED.active, reason = EXCLUDED.reason, by_user = EXCLUDED.by_user,
    gateway = EXCLUDED.gateway, since = EXCLUDED.since, number = EXCLUDED.number
WHERE EXCLUDED.active OR gateway_block.since < EXCLUDED.since
"""
_READ = "SELECT kind, value, active, reason, by_user, gateway, since FROM gateway_block ORDER BY since"
_FORGET = "DELETE FROM gateway_block WHERE NOT active AND number <= (SELECT max(number) - 10000 FROM gateway_block)"


class SharedBlocks:
    """The table, over one connection that is made when it is needed. Every method raises psycopg.Error when the database fails."""

    def __init__(self, section: SharedSection) -> None:
        """Raises ConfigError when the driver is missing or the password cannot be read."""
        try:
            import psycopg
        except ModuleNotFoundError:
            hint = "pip install 'securepacs[postgres]'"
            raise ConfigError("sharing through PostgreSQL needs the driver psycopg 3", key="shared.url", hint=hint) from None
        self._driver = psycopg
        self._url = section.url
        self._options: dict[str, str | int] = {
            "connect_timeout": _SECONDS,
            "tcp_user_timeout": _SECONDS * 1000,
            "options": f"-c statement_timeout={_SECONDS * 1000}",
            "application_name": "securepacs-gateway",
        }
        if not is_loopback(urlsplit(section.url).hostname or ""):
            self._options |= {"sslmode": "verify-full", "sslrootcert": str(section.trust) if section.trust else "system"}
        self._password_file = section.password_file
        self._connection: psycopg.Connection | None = None

    def push(self, changes: Sequence[BlockChange]) -> None:
        """Put changes into the table, all or none."""
        with self._connected().transaction():
            self._connected().execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            for change in changes:
                block = change.block
                row = (block.kind.value, block.value, change.active, block.reason, block.by, change.gateway, block.since)
                self._connected().execute(_UPSERT, row)
            self._connected().execute(_FORGET)

    def number(self) -> int:
        """Return the number of the last change."""
        row = self._connected().execute("SELECT coalesce(max(number), 0) FROM gateway_block").fetchone()
        return int(row[0]) if row is not None else 0

    def read(self) -> list[BlockChange]:
        """Return all rows. Raises ConfigError when one is no block: a list that is half understood is none."""
        found = []
        for kind, value, active, reason, by, gateway, since in self._connected().execute(_READ):
            try:
                block = from_dict({"kind": kind, "value": value, "reason": reason, "by": by, "since": since.isoformat()})
            except (UsageError, ValueError):
                raise ConfigError(f"the row {kind} {value} of gateway_block is no block", key="shared.url") from None
            found.append(BlockChange(block, active, gateway))
        return found

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            password = self._password_file.read_text(encoding="utf-8").strip() if self._password_file else None
            options = {**self._options, "password": password} if password else self._options
            connection = self._driver.connect(self._url, autocommit=True, **options)  # type: ignore[arg-type]
            try:
                if connection.execute("SELECT to_regclass('gateway_block')").fetchone() == (None,):
                    connection.execute(_CREATE)
            except self._driver.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection
