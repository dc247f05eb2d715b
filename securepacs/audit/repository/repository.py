"""The embedded audit record repository (IHE ATNA): everything is kept as received, nothing is refused, its own use is audited.

Rules of this file:
1. `store` returns after the transaction is durable; many callers share one.
2. The octets come back exactly as they came; what could be read of them stands beside them.
3. A record that came before is stored again and marked with the first one's id.
4. No search answers before its own Audit Log Used is stored.
5. Every record is a leaf of the Merkle log, in the same transaction; an erasure takes octets away, never a leaf.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, func, insert, make_url, select
from sqlalchemy.exc import ArgumentError

from securepacs.audit import events
from securepacs.audit.checkpoint import Checkpoint
from securepacs.audit.forwarder import Supply
from securepacs.audit.group import GroupCommit
from securepacs.audit.log_entry import encode_ranges
from securepacs.audit.message import ActiveParticipant, AuditMessage, AuditSourceIdentification
from securepacs.audit.repository.checkpoints import make_checkpoint, newest_checkpoint, stamp
from securepacs.audit.repository.export import export
from securepacs.audit.repository.forwarding import store_supply
from securepacs.audit.repository.grants import grant_append
from securepacs.audit.repository.index import index
from securepacs.audit.repository.log import Item, LogWriter, adopt, record_row
from securepacs.audit.repository.reading import Reading
from securepacs.audit.repository.receipt import Receipt
from securepacs.audit.repository.retention import (
    CASE_LENGTH,
    MIN_RETENTION,
    RecordClass,
    criteria_text,
    erasable,
    forget,
    holds,
    matching,
    refuse_erasure,
)
from securepacs.audit.repository.search import AuditRecord, Criteria, statement, to_record
from securepacs.audit.repository.signer import LogSigner
from securepacs.audit.repository.tables import audit_content, audit_hold, audit_record, audit_term
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

    def submit(
        self, items: list[Item], on_stored: Callable[[BaseException | None], None], *, still_wanted: Callable[[], bool]
    ) -> None:
        """Hand in records that are indexed already; `on_stored(error or None)` is called from the writer thread.

        `still_wanted` is asked there right before they are stored: False when records they follow could not be.
        """
        self._writer.submit(items, lambda _ids, error: on_stored(error), still_wanted=still_wanted)

    def record(self, message: AuditMessage, *, at: datetime) -> int:
        """Store a message of the repository about itself."""
        return self.store([self._own(message, at)])[0]

    def search(self, criteria: Criteria, *, reader: ActiveParticipant, at: datetime) -> list[AuditRecord]:
        """Return the records that meet the criteria, after storing that `reader` asked (Audit Log Used, PS3.15 A.5.3.2)."""
        query = statement(criteria)
        own = self._used(reader, at, _asked(criteria))  # it names what was asked for, so would be found by it
        with reading(self._engine) as connection:
            return [to_record(row) for row in connection.execute(query.where(audit_record.c.id < own))]

    @contextmanager
    def reading(self, *, reader: ActiveParticipant, at: datetime, details: dict[str, bytes]) -> Iterator[Reading]:
        """Yield one consistent look at all records, after storing that `reader` looked and what `details` say of it."""
        own = self._used(reader, at, details)
        with reading(self._engine) as connection:
            yield Reading(connection, own)

    def used(self, who: ActiveParticipant, *, at: datetime, details: dict[str, bytes]) -> int:
        """Store that `who` used the trail, as Audit Log Used with `details`, and return its id."""
        return self._used(who, at, details)

    # --- the log: proof, erasure, holds ------------------------------------------------------------------------------
    def checkpoint(self, signer: LogSigner, *, at: datetime) -> Checkpoint | None:
        """Sign the log as it is; None when nothing came since the last time. Raises IntegrityFailure for a changed log."""
        return make_checkpoint(self._engine, signer, at=at)

    def stamp(self, urls: Iterable[str], *, at: datetime) -> None:
        """Have the newest checkpoint stamped by time stamp authorities (RFC 3161). Raises Unavailable."""
        newest = newest_checkpoint(self._engine)
        if newest is not None:
            stamp(self._engine, newest, urls, at=at)

    def export(
        self, folder: Path, *, reader: ActiveParticipant, at: datetime, criteria: Sequence[Criteria] | None = None
    ) -> Checkpoint:
        """Export the log and the octets of the records that meet any of the criteria (None: of all), after recording who did.

        The folder can be verified offline (`audit.verifier`). Raises UsageError for a folder that is not empty, or a log that was
        never signed. `limit` and `newest_first` of the criteria do not count.
        """
        asked = {f"{name} {number}": value for number, each in enumerate(criteria or (), 1) for name, value in _asked(each).items()}
        self._used(reader, at, {"exported to": str(folder).encode(), **asked})
        if criteria is None:
            return export(self._engine, folder)
        with reading(self._engine) as connection:
            records = set().union(*(matching(connection, each) for each in criteria))
        return export(self._engine, folder, records=records)

    def erase(self, ids: Iterable[int], *, actor: ActiveParticipant, reason: str, law: str, at: datetime) -> int:
        """Lawfully erase the octets, salts and index of records and return the id of the record that says so.

        The log stays as it is: the entries remain, without anything patient data could be guessed from. Raises UsageError when a
        record is held for a case, is erased already, was never stored, or itself speaks of an erasure or hold.
        """
        wanted = set(ids)
        if not wanted or not reason.strip() or not law.strip():
            raise UsageError("an erasure needs records, a reason and a law")
        with reading(self._engine) as connection:
            refuse_erasure(connection, wanted)
        details = {"erased records": encode_ranges(wanted).encode(), "reason": reason.encode(), "law": law.encode()}
        return self._used(actor, at, details, erases=encode_ranges(number - 1 for number in wanted))

    def retain(
        self,
        keep: timedelta,
        *,
        actor: ActiveParticipant,
        law: str,
        at: datetime,
        of: RecordClass | None = None,
        but: Iterable[RecordClass] = (),
    ) -> int:
        """Erase what was received longer than `keep` ago and is not held; return how many records. At least two years are kept.

        `of` limits it to a class of records, `but` leaves classes out that have a time of their own.
        """
        if keep < MIN_RETENTION:
            raise UsageError(
                f"audit records are kept for {MIN_RETENTION.days} days at least", standard="PIPA safety measures, art. 8"
            )
        with reading(self._engine) as connection:
            due = erasable(connection, received_before=at - keep, of=of, but=but)
        if due:
            what = f" of {of.value} records" if of else ""
            self.erase(due, actor=actor, reason=f"retention of {keep.days} days{what}", law=law, at=at)
        return len(due)

    def hold(self, case: str, criteria: Criteria, *, actor: ActiveParticipant, reason: str, at: datetime) -> int:
        """Keep every record that meets the criteria, now and later, from erasure until the case is released."""
        row = {"case_id": _case(case), "criteria": criteria_text(criteria), "released": False}
        return self._used(actor, at, {"hold": case.encode(), "reason": reason.encode(), **_asked(criteria)}, hold=row)

    def release(self, case: str, *, actor: ActiveParticipant, reason: str, at: datetime) -> int:
        """End every hold of a case. Raises UsageError when there is none."""
        if _case(case) not in self.holds():
            raise UsageError(f"there is no hold of case {case!r}")
        row = {"case_id": case, "criteria": "", "released": True}
        return self._used(actor, at, {"hold released": case.encode(), "reason": reason.encode()}, hold=row)

    def grant(self, role: str) -> None:
        """Let a PostgreSQL role read and add records, and nothing else (`grants.grant_append`)."""
        grant_append(self._engine, role)

    def holds(self) -> dict[str, list[Criteria]]:
        """Return the cases that are held, and what each holds."""
        with reading(self._engine) as connection:
            return holds(connection)

    def _used(
        self,
        who: ActiveParticipant,
        at: datetime,
        details: dict[str, bytes],
        *,
        erases: str = "",
        hold: dict[str, Any] | None = None,
    ) -> int:
        message = events.audit_log_used(source=self.source, at=at, users=(who,), log_uri=self.uri, details=details)
        receipt = self._own(message, at)
        return self._writer.call([Item(receipt, index(receipt.raw, at), erases, hold)])[0]

    def _own(self, message: AuditMessage, at: datetime) -> Receipt:
        raw = to_syslog(message, hostname=self.hostname, app_name=APP_NAME, procid=str(os.getpid()), at=at)
        return Receipt.of(raw, received=at, transport=INTERNAL)

    def raw(self, record_id: int) -> bytes:
        """Return the octets of a record exactly as received (their head, when it is marked truncated)."""
        with reading(self._engine) as connection:
            found = connection.execute(select(audit_content.c.raw).where(audit_content.c.record_id == record_id)).scalar()
        if found is None:
            raise UsageError(f"the repository has no octets of record {record_id}")
        return bytes(found)

    def supply(self, positions: Path, name: str) -> Supply:
        """Return the records for a `Forwarder` to destination `name`: from the first one on, or from where it was before.

        The folder `positions` keeps how far each destination has come. Own records go too; records that repeat another do not.
        """
        return store_supply(self._engine, positions, name)

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
        # in the order of the table, so that neighbours are written together
        terms = sorted([(term, number) for number, item in enumerate(items, first) for term in item.index.terms])
        bulk_insert(connection, audit_term, terms)
        self._log.append(connection, first, items, moments, repeats)
        for number, item in enumerate(items, first):
            if item.erases:
                forget(connection, item.erases, erased_by=number)
            if item.hold is not None:
                connection.execute(insert(audit_hold), [{"id": number, **item.hold}])

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


def _asked(criteria: Criteria | None) -> dict[str, bytes]:
    return {} if criteria is None else {name: value.encode() for name, value in criteria.given().items()}


def _case(case: str) -> str:
    if not case.strip() or len(case) > CASE_LENGTH:
        raise UsageError(f"a case needs a name of at most {CASE_LENGTH} characters")
    return case


def _refuse_missing(url: str) -> None:
    """Raise ConfigError when a store to be read is not there: opening it would make an empty one."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return  # open_store says what is wrong with it
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise ConfigError(f"there is no store at {parsed.database}", key="store")
