"""What may be asked of the audit repository, as SQL, and what it answers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select

from securepacs.audit.parts import serial_number
from securepacs.audit.repository.tables import audit_record, audit_term
from securepacs.audit.repository.terms import TermKind, term, term_hash, user_term
from securepacs.errors import UsageError
from securepacs.store.tables import moment_of, moment_text

MAX_RESULTS = 100_000
_LIKE_ESCAPE = "\\"


@dataclass(frozen=True, slots=True)
class Criteria:
    """What to look for; everything given must hold. `since` is included, `until` is not; both aware.

    `event` is an EventID or EventTypeCode code, or the name of an event; `user` a UserID, AlternativeUserID or UserName;
    `patient` a whole patient ID or the number before its issuer; `text` part of any text of the record;
    `serial` the serial number of a participant's certificate, hexadecimal, as the gateway records it. Case does not count for
    events, users and text.
    """

    since: datetime | None = None
    until: datetime | None = None
    patient: str = ""
    study: str = ""
    user: str = ""
    event: str = ""
    outcome: int | None = None
    source: str = ""
    text: str = ""
    serial: str = ""
    limit: int = 100
    newest_first: bool = True

    def given(self) -> dict[str, str]:
        """Return what was asked for, as text, for the record of the search."""
        asked = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: str(value) for name, value in asked.items() if value not in (None, "")}


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A stored record without its octets (`Repository.raw`). `at` is the moment of receipt when the record has none."""

    id: int
    at: datetime
    event_code: str
    event_name: str
    action: str
    outcome: int | None
    user: str
    patients: tuple[str, ...]
    studies: tuple[str, ...]
    description: str
    source_id: str
    site_id: str
    verdict: str
    dialect: str
    received: datetime
    transport: str
    peer_address: str
    peer_subject: str
    peer_sha256: str
    frame_sha256: str
    frame_length: int
    truncated: bool
    duplicate_of: int | None

    @property
    def authenticated(self) -> bool:
        """Whether the sender showed a certificate that was verified; False for plain TCP, UDP and the repository's own records."""
        return bool(self.peer_sha256)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; moments in RFC 3339, UTC."""
        return {
            **asdict(self),
            "authenticated": self.authenticated,
            "at": moment_text(self.at),
            "received": moment_text(self.received),
            "patients": list(self.patients),
            "studies": list(self.studies),
        }


def statement(criteria: Criteria) -> Select[Any]:
    """Return the SQL of a search. Raises UsageError for naive moments and limits that cannot be meant."""
    if not 1 <= criteria.limit <= MAX_RESULTS:
        raise UsageError(f"the limit of a search is 1-{MAX_RESULTS}")
    if any(moment is not None and moment.utcoffset() is None for moment in (criteria.since, criteria.until)):
        raise UsageError("the moments of a search must carry a time zone")
    order = (audit_record.c.moment, audit_record.c.id)
    ordered = (column.desc() if criteria.newest_first else column.asc() for column in order)
    return select(audit_record).where(*conditions(criteria)).order_by(*ordered).limit(criteria.limit)


def conditions(criteria: Criteria) -> list[ColumnElement[bool]]:
    columns = audit_record.c
    wanted: list[ColumnElement[bool]] = []
    if criteria.since is not None:
        wanted.append(columns.moment >= moment_text(criteria.since))
    if criteria.until is not None:
        wanted.append(columns.moment < moment_text(criteria.until))
    if criteria.outcome is not None:
        wanted.append(columns.outcome == criteria.outcome)
    if criteria.source:
        wanted.append(or_(columns.source_id == criteria.source, columns.site_id == criteria.source))
    for kind, value in (
        (TermKind.PATIENT, term(criteria.patient)),
        (TermKind.STUDY, term(criteria.study)),
        (TermKind.USER, user_term(criteria.user)),
        (TermKind.CERTIFICATE, serial_number(criteria.serial) if criteria.serial else ""),
    ):
        if value:
            wanted.append(columns.id.in_(_with_term(kind, value)))
    if criteria.event:
        named = func.lower(columns.event_name) == criteria.event.lower()
        wanted.append(
            or_(columns.event_code == criteria.event, named, columns.id.in_(_with_term(TermKind.TYPE, term(criteria.event))))
        )
    if criteria.text:
        wanted.append(columns.searchable.contains(criteria.text.casefold(), autoescape=True, escape=_LIKE_ESCAPE))
    return wanted


def _with_term(kind: TermKind, value: str) -> Select[Any]:
    return select(audit_term.c.record_id).where(audit_term.c.term == term_hash(kind.value, value))


def to_record(row: Any) -> AuditRecord:
    """Make an AuditRecord of a row."""
    return AuditRecord(
        id=row.id,
        at=moment_of(row.moment),
        event_code=row.event_code,
        event_name=row.event_name,
        action=row.action,
        outcome=row.outcome,
        user=row.requestor,
        patients=tuple(json.loads(row.patients)),
        studies=tuple(json.loads(row.studies)),
        description=row.description,
        source_id=row.source_id,
        site_id=row.site_id,
        verdict=row.verdict,
        dialect=row.dialect,
        received=moment_of(row.received),
        transport=row.transport,
        peer_address=row.peer_address,
        peer_subject=row.peer_subject,
        peer_sha256=row.peer_sha256,
        frame_sha256=row.frame_sha256,
        frame_length=row.frame_length,
        truncated=row.truncated,
        duplicate_of=row.duplicate_of,
    )
