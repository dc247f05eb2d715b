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
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, func, insert, make_url, select
from sqlalchemy.exc import ArgumentError

from securepacs.audit import events
from securepacs.audit.group import GroupCommit
from securepacs.audit.message import ActiveParticipant, AuditMessage, AuditSourceIdentification
from securepacs.audit.repository.index import Entry, Receipt, TermKind, index
from securepacs.audit.repository.search import AuditRecord, Criteria, statement, to_record
from securepacs.audit.repository.tables import audit_content, audit_record, audit_term
from securepacs.audit.syslog import to_syslog
from securepacs.errors import ConfigError, UsageError
from securepacs.store import open_store, reading, writing
from securepacs.store.tables import moment_text

APP_NAME = "securepacs-audit"
INTERNAL = "internal"  # transport of the records the repository writes about itself
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
        self._writer = GroupCommit[list[Entry], list[int]](
            self._commit, name="audit-repository", size_of=lambda entries: sum(len(entry.receipt.raw) for entry in entries)
        )

    def store(self, receipts: Iterable[Receipt]) -> list[int]:
        """Store records and return their ids once they are durable. Raises Unavailable; then none of them is stored."""
        entries = [index(receipt) for receipt in receipts]
        return self._writer.call(entries) if entries else []

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
            rows = connection.execute(query.where(audit_record.c.id < own)).all()
            terms = self._terms(connection, [row.id for row in rows])
        return [to_record(row, terms) for row in rows]

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

    @staticmethod
    def _terms(connection: Connection, ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        shown = (TermKind.PATIENT.value, TermKind.STUDY.value)
        terms: dict[int, list[tuple[str, str]]] = {}
        for start in range(0, len(ids), _CHUNK):
            query = (
                select(audit_term)
                .where(audit_term.c.record_id.in_(ids[start : start + _CHUNK]), audit_term.c.kind.in_(shown))
                .order_by(audit_term.c.record_id, audit_term.c.kind, audit_term.c.value)
            )
            for row in connection.execute(query):
                terms.setdefault(row.record_id, []).append((row.kind, row.value))
        return terms

    # --- the writer thread -------------------------------------------------------------------------------------------
    def _commit(self, batches: list[list[Entry]]) -> list[list[int]]:
        entries = [entry for batch in batches for entry in batch]
        with writing(self._engine) as connection:
            first = int(connection.execute(select(func.coalesce(func.max(audit_record.c.id), 0))).scalar_one()) + 1
            known = self._known(connection, {entry.receipt.sha256 for entry in entries})
            rows: list[dict[str, Any]] = []
            for number, entry in enumerate(entries, first):
                earlier = known.setdefault(entry.receipt.sha256, number)
                rows.append(_row(number, entry, None if earlier == number else earlier))
            connection.execute(insert(audit_record), rows)
            contents = [{"record_id": number, "raw": entry.receipt.raw} for number, entry in enumerate(entries, first)]
            connection.execute(insert(audit_content), contents)
            terms = [
                {"record_id": number, "kind": kind.value, "value": value}
                for number, entry in enumerate(entries, first)
                for kind, value in entry.terms
            ]
            if terms:
                connection.execute(insert(audit_term), terms)
        numbers = iter(range(first, first + len(entries)))
        return [[next(numbers) for _ in batch] for batch in batches]

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


def _row(number: int, entry: Entry, duplicate_of: int | None) -> dict[str, Any]:
    receipt = entry.receipt
    return {
        "id": number,
        "received": moment_text(receipt.received),
        "transport": receipt.transport,
        "peer_address": receipt.peer_address,
        "peer_subject": receipt.peer_subject,
        "peer_sha256": receipt.peer_sha256,
        "frame_sha256": receipt.sha256,
        "frame_length": receipt.length,
        "truncated": receipt.truncated,
        "duplicate_of": duplicate_of,
        "verdict": entry.verdict,
        "dialect": entry.dialect,
        "moment": moment_text(entry.moment),
        "event_code": entry.event_code,
        "event_name": entry.event_name,
        "action": entry.action,
        "outcome": entry.outcome,
        "source_id": entry.source_id,
        "site_id": entry.site_id,
        "requestor": entry.requestor,
        "description": entry.description,
        "searchable": entry.searchable,
    }
