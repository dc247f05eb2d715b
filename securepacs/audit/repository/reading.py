"""One consistent look at the repository: records in order of time, streamed, and their counts, as reports and ITI-81 need them.

Records that repeat an earlier one are left out everywhere, except where they are counted. `limit` of the criteria does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select, tuple_

from securepacs.audit.repository.search import AuditRecord, Criteria, conditions, to_record
from securepacs.audit.repository.tables import audit_checkpoint, audit_content, audit_erasure, audit_record
from securepacs.errors import UsageError
from securepacs.store.tables import moment_text

_AT_ONCE = 500  # rows in memory


class Reading:
    """What the repository held before record `own`, which says who looks. Valid inside `Repository.reading` only."""

    def __init__(self, connection: Connection, own: int) -> None:
        self._connection = connection
        self._own = own

    def records(self, criteria: Criteria) -> Iterator[AuditRecord]:
        """Yield the records that meet the criteria."""
        for row in self._connection.execute(self._ordered(select(audit_record), criteria)):
            yield to_record(row)

    def contents(self, criteria: Criteria, *, after: tuple[datetime, int] | None = None) -> Iterator[tuple[AuditRecord, bytes]]:
        """Yield records with their octets, none where they were erased; those that come after a moment and id in their order."""
        query = self._ordered(select(audit_record, audit_content.c.raw).join(audit_content, isouter=True), criteria)
        if after is not None:
            place, last = tuple_(audit_record.c.moment, audit_record.c.id), (moment_text(after[0]), after[1])
            query = query.where(place < last if criteria.newest_first else place > last)
        for row in self._connection.execute(query):
            yield to_record(row), bytes(row.raw or b"")

    def record(self, record_id: int) -> tuple[AuditRecord, bytes] | None:
        """Return one record with its octets, a repeated one too; None when there is none."""
        joined = select(audit_record, audit_content.c.raw).join(audit_content, isouter=True)
        row = self._connection.execute(
            joined.where(audit_record.c.id == record_id, audit_record.c.id < self._own)
        ).one_or_none()  # fmt: skip
        return None if row is None else (to_record(row), bytes(row.raw or b""))

    def count(self, criteria: Criteria, *, repeats: bool = False) -> int:
        """Return how many records meet the criteria; `repeats`: how many of those that were left out."""
        query = select(func.count()).select_from(audit_record).where(*self._where(criteria, repeats=repeats))
        return int(self._connection.execute(query).scalar_one())

    def tally(self, criteria: Criteria, *columns: str, most: int | None = None) -> list[tuple[Any, ...]]:
        """Count records by columns of the index: (value, ..., count), the most frequent first."""
        chosen = [audit_record.c[name] for name in columns]
        count = func.count().label("many")
        query = select(*chosen, count).where(*self._where(criteria)).group_by(*chosen).order_by(count.desc(), *chosen)
        return [tuple(row) for row in self._connection.execute(query.limit(most))]

    def minutes(self, criteria: Criteria) -> Iterator[tuple[str, int]]:
        """Count records by the minute of their moment (`2027-01-31T23:59`, UTC)."""
        minute = func.substr(audit_record.c.moment, 1, 16)
        query = select(minute, func.count()).where(*self._where(criteria)).group_by(minute).order_by(minute)
        for row in self._connection.execute(query.execution_options(yield_per=_AT_ONCE)):
            yield str(row[0]), int(row[1])

    def distinct(self, criteria: Criteria, column: str) -> int:
        """Return how many different values a column of the index has."""
        query = select(func.count(audit_record.c[column].distinct())).where(*self._where(criteria))
        return int(self._connection.execute(query).scalar_one())

    def erased(self, criteria: Criteria) -> int:
        """Return how many of the records were lawfully erased."""
        query = select(func.count()).select_from(audit_record).join(audit_erasure, audit_erasure.c.record_id == audit_record.c.id)
        return int(self._connection.execute(query.where(*self._where(criteria))).scalar_one())

    def span(self) -> tuple[str, str]:
        """Return the moments of receipt of the oldest and the newest record, as the tables write them; empty texts for none."""
        query = select(func.min(audit_record.c.received), func.max(audit_record.c.received))
        oldest, newest = self._connection.execute(query.where(audit_record.c.id < self._own)).one()
        return oldest or "", newest or ""

    def checkpoint(self) -> str:
        """Return the newest signed checkpoint of the log, empty when there is none."""
        query = select(audit_checkpoint.c.note).order_by(audit_checkpoint.c.size.desc()).limit(1)
        return str(self._connection.execute(query).scalar() or "")

    def _where(self, criteria: Criteria, *, repeats: bool = False) -> list[Any]:
        if any(moment is not None and moment.utcoffset() is None for moment in (criteria.since, criteria.until)):
            raise UsageError("the moments of a search must carry a time zone")
        repeated = audit_record.c.duplicate_of
        return [*conditions(criteria), audit_record.c.id < self._own, repeated.is_not(None) if repeats else repeated.is_(None)]

    def _ordered(self, query: Select[Any], criteria: Criteria) -> Select[Any]:
        order = (audit_record.c.moment, audit_record.c.id)
        ordered = (column.desc() if criteria.newest_first else column.asc() for column in order)
        return query.where(*self._where(criteria)).order_by(*ordered).execution_options(yield_per=_AT_ONCE)
