"""The monthly check of access records (Korea: PIPA Art. 29, Safety-Measures Notice Art. 8), for an auditor to look at and sign."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from securepacs import codes
from securepacs.audit.reports.model import Chart, Check, Report, Table, local
from securepacs.audit.reports.scope import TOP, Scope
from securepacs.audit.reports.seen import Seen, message_of, seen
from securepacs.audit.reports.spill import Spill
from securepacs.audit.repository.reading import Reading
from securepacs.audit.repository.search import AuditRecord
from securepacs.errors import UsageError
from securepacs.store.tables import moment_of

_COLUMNS = ("list", "item", "count", "when", "who", "where", "patient", "outcome", "reason", "remark")
_REVIEW = ("list", "when", "who", "where", "patient", "outcome", "reason", "remark")
_PLACE = re.compile(rb"""NetworkAccessPointID\s*=\s*["'][^"']""")
_ABOUT_PATIENTS = frozenset(
    code.csd_code
    for code in (
        codes.BEGIN_TRANSFERRING_DICOM_INSTANCES, codes.DICOM_INSTANCES_ACCESSED, codes.DICOM_INSTANCES_TRANSFERRED,
        codes.DICOM_STUDY_DELETED, codes.EXPORT, codes.IMPORT, codes.ORDER_RECORD, codes.PATIENT_RECORD, codes.PROCEDURE_RECORD,
    )
)  # fmt: skip
_UNKNOWN = ("", "unknown")


@dataclass(slots=True)
class _Findings:
    """What is counted while the month passes by."""

    users: int = 0
    places: int = 0
    patients: int = 0
    unreadable: int = 0
    exports: int = 0
    exports_without_reason: int = 0
    logins: int = 0
    refusals: int = 0
    overrides: int = 0
    log_used: int = 0
    erased: int = field(default=0)


def month_of(text: str, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return begin and end of a month (`2027-01`) in a zone. Raises UsageError."""
    found = re.fullmatch(r"(\d{4})-(\d\d)", text)
    if not found or not 1 <= int(found[2]) <= 12 or not 1900 <= int(found[1]) < 9000:
        raise UsageError(f"{text!r} is no month", hint="for example 2027-01")
    year, month = int(found[1]), int(found[2])
    following = (year + month // 12, month % 12 + 1)
    return datetime(year, month, 1, tzinfo=zone), datetime(*following, 1, tzinfo=zone)


def month_before(at: datetime, zone: tzinfo) -> str:
    """Return the month before a moment."""
    local_time = at.astimezone(zone)
    year, month = (local_time.year, local_time.month - 1) if local_time.month > 1 else (local_time.year - 1, 12)
    return f"{year:04}-{month:02}"


@contextmanager
def monthly(scope: Scope, *, closing: Sequence[tuple[str, str]] = ()) -> Iterator[Report]:
    """Yield the report over the period of `scope`; `closing` are the lines of the auditor."""
    words, wanted = scope.words, scope.criteria()
    with scope.opened("monthly") as (reading, spill):
        found = _Findings(erased=reading.erased(wanted))
        for record, raw in reading.contents(wanted):
            _look(scope, spill, found, record, raw)
        events = _events(scope, reading)
        people = tuple((user or words("not stated"), count) for user, count in reading.tally(wanted, "requestor", most=TOP))
        sources = tuple((source or words("not stated"), count) for source, count in reading.tally(wanted, "source_id", most=TOP))
        for title, values in (("by what", events), ("by who", people), ("by source", sources)):
            for item, count in values:
                spill.add("all", (words(title), item, str(count), *[""] * 7))
        for row in spill.rows("review"):
            spill.add("all", (row[0], "", "", *row[1:]))
        review = Table(words("to review"), tuple(map(words, _REVIEW)), lambda: spill.rows("review"), spill.row_count("review"))
        data = Table(words("to review"), tuple(map(words, _COLUMNS)), lambda: spill.rows("all"), spill.row_count("all"))
        yield Report(
            kind="monthly",
            language=scope.language,
            title=words("monthly"),
            subject=scope.period(),
            made=scope.at,
            zone=scope.zone,
            figures=(
                (words("records"), str(reading.count(wanted))),
                (words("people"), str(reading.distinct(wanted, "requestor"))),
                (words("repeats"), str(reading.count(wanted, repeats=True))),
                (words("log used"), str(found.log_used)),
                (words("unreadable"), str(found.unreadable)),
            ),
            charts=(
                scope.by_day(reading.minutes(wanted)),
                Chart(words("by what"), events[:TOP]),
                Chart(words("by who"), people),
                Chart(words("by source"), sources),
            ),
            checks=_checks(scope, reading, found),
            tables=(review,),
            data=data,
            closing=tuple(closing) or ((words("signature"), words("unsigned")),),
        )


def _look(scope: Scope, spill: Spill, found: _Findings, record: AuditRecord, raw: bytes) -> None:
    """Count a record, and note it when somebody has to look at it."""
    if not raw:
        return  # erased, and counted as such
    if record.verdict == "unparsed":
        found.unreadable += 1
        return
    found.users += record.user.strip().casefold() in _UNKNOWN
    found.places += _PLACE.search(raw) is None
    about_patient = record.event_code in _ABOUT_PATIENTS
    found.patients += about_patient and all(each in _UNKNOWN for each in record.patients)
    found.log_used += record.event_code == codes.AUDIT_LOG_USED.csd_code
    if record.event_code == codes.EXPORT.csd_code:
        found.exports += 1
        who = _note(scope, spill, "exports", record, raw)
        found.exports_without_reason += not (who and who.purpose)
    elif record.event_code == codes.USER_AUTHENTICATION.csd_code and record.outcome:
        found.logins += 1
        _note(scope, spill, "logins", record, raw)
    elif record.event_code == codes.SECURITY_ALERT.csd_code:
        message = message_of(raw)
        types = {code.csd_code for code in message.EventIdentification.EventTypeCode} if message else set()
        if codes.EMERGENCY_OVERRIDE_STARTED.csd_code in types:
            found.overrides += 1
            _note(scope, spill, "overrides begun", record, raw)
        elif codes.USE_OF_RESTRICTED_FUNCTION.csd_code in types:
            found.refusals += 1
            _note(scope, spill, "refusals", record, raw)


def _note(scope: Scope, spill: Spill, title: str, record: AuditRecord, raw: bytes) -> Seen | None:
    message = message_of(raw)
    who = seen(message) if message else None
    patients = [each for each in record.patients if "^" not in each]
    words = scope.words
    spill.add(
        "review",
        (
            words(title),
            local(record.at, scope.zone),
            who.who if who else record.user,
            who.where if who else "",
            ", ".join(patients),
            words.outcome(record.outcome),
            who.purpose if who else "",
            record.description or (who.to_whom if who else ""),
        ),
    )
    return who


def _events(scope: Scope, reading: Reading) -> tuple[tuple[str, int], ...]:
    named: dict[str, int] = {}
    for code, action, name, count in reading.tally(scope.criteria(), "event_code", "action", "event_name", most=1000):
        text = scope.words.event(code, action, name)
        named[text] = named.get(text, 0) + count
    return tuple(sorted(named.items(), key=lambda each: (-each[1], each[0])))


def _checks(scope: Scope, reading: Reading, found: _Findings) -> tuple[Check, ...]:
    words, oldest = scope.words, reading.span()[0]
    checkpoint = reading.checkpoint().split("\n")
    log = f"{checkpoint[0]}, {checkpoint[1]}, {checkpoint[2]}" if len(checkpoint) > 2 else words("unsigned log")
    kept = local(moment_of(oldest), scope.zone) if oldest else words("not stated")
    fields = (found.users, found.places, found.patients, found.unreadable)
    return (
        Check(words("check fields"), words("found fields", *fields), not any(fields)),
        Check(words("check kept"), words("found kept", kept, found.erased), not found.erased),
        Check(
            words("check downloads"),
            words("found downloads", found.exports, found.exports_without_reason),
            not found.exports_without_reason,
        ),
        Check(
            words("check logins"),
            words("found logins", found.logins, found.refusals),
            not (found.logins or found.refusals),
        ),
        Check(words("check overrides"), words("found overrides", found.overrides), not found.overrides),
        Check(words("check safe"), words("found safe", log), len(checkpoint) > 2),
    )
