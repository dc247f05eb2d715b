"""What may be erased and what is held: the statements behind `Repository.erase`, `retain`, `hold` and `release`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from securepacs import codes
from securepacs.audit.log_entry import decode_ranges, encode_ranges
from securepacs.audit.repository.search import Criteria, conditions
from securepacs.audit.repository.tables import (
    audit_content,
    audit_erasure,
    audit_hold,
    audit_log,
    audit_record,
    audit_term,
)
from securepacs.errors import UsageError
from securepacs.store import bulk_insert
from securepacs.store.tables import moment_text

MIN_RETENTION = timedelta(days=731)  # Korea: access records of sensitive data for two years
CASE_LENGTH = 255


class RecordClass(StrEnum):
    """What a record is about, for the time it is kept; `EVENTS` says which. A record of another event is of no class."""

    PATIENT = "patient"  # patients' data was used: images, studies, orders, queries
    SECURITY = "security"  # logins, alerts, nodes
    SYSTEM = "system"  # programs started and stopped, the trail was used


EVENTS: Mapping[RecordClass, frozenset[str]] = MappingProxyType(
    {
        RecordClass.PATIENT: frozenset(
            code.csd_code
            for code in (
                codes.BEGIN_TRANSFERRING_DICOM_INSTANCES, codes.DICOM_INSTANCES_ACCESSED, codes.DICOM_INSTANCES_TRANSFERRED,
                codes.DICOM_STUDY_DELETED, codes.EXPORT, codes.IMPORT, codes.ORDER_RECORD, codes.PATIENT_RECORD,
                codes.PROCEDURE_RECORD, codes.QUERY,
            )
        ),
        RecordClass.SECURITY: frozenset(
            code.csd_code for code in (codes.SECURITY_ALERT, codes.USER_AUTHENTICATION, codes.NETWORK_ENTRY)
        ),
        RecordClass.SYSTEM: frozenset(code.csd_code for code in (codes.APPLICATION_ACTIVITY, codes.AUDIT_LOG_USED)),
    }
)  # fmt: skip


def forget(connection: Connection, erases: str, *, erased_by: int) -> None:
    """Take away octets, salts, terms and all text of the leaves `erases`; `erased_by` is the record that says why."""
    for leaves in decode_ranges(erases):
        first, last = leaves.start + 1, leaves.stop
        bulk_insert(connection, audit_erasure, [(number, erased_by) for number in range(first, last + 1)])
        connection.execute(delete(audit_content).where(audit_content.c.record_id.between(first, last)))
        connection.execute(delete(audit_term).where(audit_term.c.record_id.between(first, last)))
        connection.execute(update(audit_log).where(audit_log.c.record_id.between(first, last)).values(salt=None))
        blank = dict.fromkeys(("frame_sha256", "requestor", "description", "searchable"), "")
        connection.execute(
            update(audit_record).where(audit_record.c.id.between(first, last)).values(patients="[]", studies="[]", **blank)
        )


def refuse_erasure(connection: Connection, ids: Iterable[int]) -> None:
    """Raise UsageError unless every one of these records may be erased."""
    wanted = set(ids)
    size = connection.execute(select(func.coalesce(func.max(audit_record.c.id), 0))).scalar_one()
    if min(wanted) < 1 or max(wanted) > size:
        raise UsageError("a record to be erased is not in the repository")
    for case, each in holds(connection).items():
        if any(wanted & matching(connection, criteria) for criteria in each):
            raise UsageError(f"a record to be erased is held for case {case!r}", hint="release the case first")
    kept = _kept(connection)
    if wanted & kept:
        raise UsageError("erased records, and records of erasures and holds, stay as they are", hint=encode_ranges(wanted & kept))


def erasable(
    connection: Connection, *, received_before: datetime, of: RecordClass | None = None, but: Iterable[RecordClass] = ()
) -> set[int]:
    """Return the ids of records that were received before a moment and may be erased: `of` a class, or all but some classes."""
    query = select(audit_record.c.id).where(audit_record.c.received < moment_text(received_before))
    if of is not None:
        query = query.where(audit_record.c.event_code.in_(EVENTS[of]))
    if excluded := frozenset().union(*(EVENTS[each] for each in but)):
        query = query.where(audit_record.c.event_code.not_in(excluded))
    due = set(connection.execute(query).scalars()) - _kept(connection)
    for each in holds(connection).values():
        for criteria in each:
            due -= matching(connection, criteria)
    return due


def _kept(connection: Connection) -> set[int]:
    """Return what was erased already, and the records that speak of erasures and holds."""
    erasures = connection.execute(select(audit_erasure.c.record_id, audit_erasure.c.erased_by))
    kept = {number for row in erasures for number in row}
    return kept | set(connection.execute(select(audit_hold.c.id)).scalars())


def holds(connection: Connection) -> dict[str, list[Criteria]]:
    """Return what every case holds that is not released."""
    found: dict[str, list[Criteria]] = {}
    for row in connection.execute(select(audit_hold).order_by(audit_hold.c.id)):
        if row.released:
            found.pop(row.case_id, None)
        else:
            found.setdefault(row.case_id, []).append(_criteria(row.criteria))
    return found


def matching(connection: Connection, criteria: Criteria) -> set[int]:
    """Return the ids of all records that meet criteria, whatever their limit."""
    return set(connection.execute(select(audit_record.c.id).where(*conditions(criteria))).scalars())


def criteria_text(criteria: Criteria) -> str:
    """Return criteria as JSON, without limit and order. Raises UsageError when they ask for nothing."""
    given = {name: value for name, value in criteria.given().items() if name not in ("limit", "newest_first")}
    if not given:
        raise UsageError("a hold needs criteria", hint="for example a patient, a study, a user or a time")
    return json.dumps(given, ensure_ascii=False)


def _criteria(text: str) -> Criteria:
    given: dict[str, Any] = json.loads(text)
    for name in {"since", "until"} & given.keys():
        given[name] = datetime.fromisoformat(given[name])
    if "outcome" in given:
        given["outcome"] = int(given["outcome"])
    return Criteria(**given)
