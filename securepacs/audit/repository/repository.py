"""The embedded audit record repository (IHE ATNA): everything is kept as received, nothing is refused, its own use is audited.

Rules of this file:
1. `store` returns after the transaction is durable; many callers share one.
2. The octets come back exactly as they came; what could be read of them stands beside them.
3. A record that came before is stored again and marked with the first one's id.
4. No search answers before its own Audit Log Used is stored.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, func, make_url, select
from sqlalchemy.exc import ArgumentError

from securepacs.audit import events
from securepacs.audit.group import GroupCommit
from securepacs.audit.message import ActiveParticipant, AuditMessage, AuditSourceIdentification
from securepacs.audit.repository.index import index
from securepacs.audit.repository.log import Item, LogWriter, adopt, record_row
from securepacs.audit.repository.receipt import Receipt
from securepacs.audit.repository.search import AuditRecord, Criteria, statement, to_record
from securepacs.audit.repository.tables import audit_content, audit_record, audit_term
from securepacs.audit.syslog import to_syslog
from securepacs.errors import ConfigError, UsageError
from securepacs.store import bulk_insert, open_store, reading, writing

APP_NAME = "securepacs-audit"
INTERNAL = "internal"  # transport of the records the repository writes about itself
_APPEND_LOCK = 0x5EC0_9AC6  # advisory lock of those who append on PostgreSQL
_CHUNK = 500  # values of one IN list


class Repository:
    """Audit records in a store (`sqlite:///audit.db`). Every method may be called from any thread, and by several processes."""

    def __init__(
        self, url: str, *, source: AuditSourceIdentification | None = None, hostname: str | None = None, must_exist: bool = False
    ) -> None:
        if must_exist:
            _refuse_missing(url)
        self._engine = open_store(url)
        self.hostname = hostname or socket.gethostname()
        self.source = source or AuditSourceIdentification(f"{APP_NAME}@{self.hostname}", AuditSourceTypeCode=("5",))
        self.uri = self._engine.url.render_as_string(hide_password=True)
        self._log = LogWriter(self.source.AuditSourceID)
        with self._appending() as connection:
            adopt(connection, self.source.AuditSourceID)
        self._writer = GroupCommit[list[Item], list[int]](
            self._commit, name="audit-repository", size_of=lambda items: sum(len(item.receipt.raw) for item in items)
        )

    def store(self, receipts: Iterable[Receipt]) -> list[int]:
        """Store records and return their ids once they are durable. Raises Unavailable; then none of them is stored."""
        items = [Item(receipt, index(receipt.raw, receipt.received)) for receipt in receipts]
        return self._writer.call(items) if items else []

    def submit(self, items: list[Item], on_stored: Callable[[BaseException | None], None]) -> None:
        """Hand in records that are indexed already; `on_stored(error or None)` is called from the writer thread."""
        self._writer.submit(items, lambda _ids, error: on_stored(error))

    def record(self, message: AuditMessage, *, at: datetime) -> int:
        """Store a message of the repository about itself."""
        raw = to_syslog(message, hostname=self.hostname, app_name=APP_NAME, procid=str(os.getpid()), at=at)
        return self.store([Receipt.of(raw, received=at, transport=INTERNAL)])[0]

    def search(self, criteria: Criteria, *, reader: ActiveParticipant, at: datetime) -> list[AuditRecord]:
        """Return the records that meet the criteria, after storing that `reader` asked (Audit Log Used, PS3.15 A.5.3.2)."""
        query = statement(criteria)
        asked = {name: value.encode() for name, value in criteria.given().items()}
        used = events.audit_log_used(source=self.source, at=at, users=(reader,), log_uri=self.uri, details=asked)
        own = self.record(used, at=at)  # it names what was asked for, so would be found by it
        with reading(self._engine) as connection:
            return [to_record(row) for row in connection.execute(query.where(audit_record.c.id < own))]

    def raw(self, record_id: int) -> bytes:
        """Return the octets of a record exactly as received (their head, when it is marked truncated)."""
        with reading(self._engine) as connection:
            found = connection.execute(select(audit_content.c.raw).where(audit_content.c.record_id == record_id)).scalar()
        if found is None:
            raise UsageError(f"the repository has no octets of record {record_id}")
        return bytes(found)

    def count(self) -> int:
        """Return how many records are stored, duplicates included."""
        with reading(self._engine) as connection:
            return int(connection.execute(select(func.count()).select_from(audit_record)).scalar_one())

    def close(self) -> None:
        """Store what waits and let go of the database."""
        self._writer.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- the writer thread -------------------------------------------------------------------------------------------
    def _commit(self, batches: list[list[Item]]) -> list[list[int]]:
        items = [item for batch in batches for item in batch]
        try:
            with self._appending() as connection:
                first = self._log.begin(connection) + 1
                self._write(connection, first, items)
        except BaseException:
            self._log.forget()
            raise
        numbers = iter(range(first, first + len(items)))
        return [[next(numbers) for _ in batch] for batch in batches]

    @contextmanager
    def _appending(self) -> Iterator[Connection]:
        """Yield a connection that alone may append: ids and leaves have no gaps."""
        with writing(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_APPEND_LOCK})")
            yield connection

    def _write(self, connection: Connection, first: int, items: list[Item]) -> None:
        known = self._known(connection, {item.receipt.sha256 for item in items})
        records: list[tuple[Any, ...]] = []
        moments: list[str] = []
        repeats: list[int | None] = []
        for number, item in enumerate(items, first):
            earlier = known.setdefault(item.receipt.sha256, number)
            repeats.append(None if earlier == number else earlier)
            moments.append(self._log.moment(item.receipt))
            records.append(record_row(number, item, moments[-1], repeats[-1]))
        bulk_insert(connection, audit_record, records)
        bulk_insert(connection, audit_content, [(number, item.receipt.raw) for number, item in enumerate(items, first)])
        terms = [(term, number) for number, item in enumerate(items, first) for term in item.index.terms]
        bulk_insert(connection, audit_term, terms)
        self._log.append(connection, first, items, moments, repeats)

    @staticmethod
    def _known(connection: Connection, digests: set[str]) -> dict[str, int]:
        """Return the id of the first record of each digest that is stored already."""
        wanted, known = sorted(digests), dict[str, int]()
        for start in range(0, len(wanted), _CHUNK):
            query = (
                select(audit_record.c.frame_sha256, func.min(audit_record.c.id))
                .where(audit_record.c.frame_sha256.in_(wanted[start : start + _CHUNK]))
                .group_by(audit_record.c.frame_sha256)
            )
            known.update((digest, number) for digest, number in connection.execute(query))
        return known


def _refuse_missing(url: str) -> None:
    """Raise ConfigError when a store to be read is not there: opening it would make an empty one."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return  # open_store says what is wrong with it
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise ConfigError(f"there is no store at {parsed.database}", key="store")
