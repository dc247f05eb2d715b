"""Review of emergency access: every Emergency Override Started (110127), how long it lasted, and what was done meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from securepacs.audit.message import ActiveParticipant, AuditMessage
from securepacs.audit.reports.model import Chart, Report, Row, Table, local
from securepacs.audit.reports.scope import TOP, Scope
from securepacs.audit.reports.seen import actor, message_of
from securepacs.audit.reports.spill import Spill
from securepacs.audit.repository.reading import Reading
from securepacs.audit.repository.search import Criteria
from securepacs.codes import EMERGENCY_OVERRIDE_STARTED, EMERGENCY_OVERRIDE_STOPPED
from securepacs.store.tables import moment_of, moment_text

_COLUMNS = ("who", "id", "where", "begin", "end", "minutes", "reason", "outcome", "during", "patients", "in patients")
_LISTED = 20  # patients of one override in its row


@contextmanager
def emergency(scope: Scope) -> Iterator[Report]:
    """Yield the report. An override ends with the next Emergency Override Stopped (110138) that names the same user."""
    words = scope.words
    started = scope.criteria(event=EMERGENCY_OVERRIDE_STARTED.csd_code)
    with scope.opened("emergency") as (reading, spill):
        for record, raw in reading.contents(started):
            message = message_of(raw)
            who = overriding(message) if message else ActiveParticipant(record.user)
            reason = _reason(message) if message else record.description
            spill.add(
                "start",
                (who.UserName, who.UserID, who.NetworkAccessPointID, moment_text(record.at), reason, str(record.outcome or 0)),
            )
        unended = 0
        for start in spill.rows("start"):
            row, ended = _row(scope, reading, spill, start)
            unended += not ended
            spill.see("who", f"{row[0]} ({row[1]})" if row[0] else row[1], start[3])
            spill.add("override", row)
        columns = tuple(map(words, _COLUMNS))
        table = Table(words("overrides"), columns, lambda: spill.rows("override"), spill.row_count("override"))
        yield Report(
            kind="emergency",
            language=scope.language,
            title=words("emergency"),
            subject=scope.period(),
            made=scope.at,
            zone=scope.zone,
            figures=(
                (words("overrides"), str(table.count)),
                (words("unended"), str(unended)),
                (words("people"), str(spill.distinct("who"))),
            ),
            charts=(scope.by_day(reading.minutes(started)), Chart(words("by who"), tuple(spill.most_seen("who", TOP)))),
            tables=(table,),
            data=table,
        )


def overriding(message: AuditMessage) -> ActiveParticipant:
    """Return whose override it is: the requestor, else who is reported about, else who reports."""
    people = message.ActiveParticipant
    return next((each for each in people if each.UserIsRequestor), people[1] if len(people) > 1 else actor(message))


def _reason(message: AuditMessage) -> str:
    details = (
        detail.value.decode("utf-8", errors="replace")
        for each in message.ParticipantObjectIdentification
        for detail in each.ParticipantObjectDetail
        if detail.type == "Alert Description"
    )
    return "; ".join(dict.fromkeys(filter(None, (*details, message.EventIdentification.EventOutcomeDescription))))


def _row(scope: Scope, reading: Reading, spill: Spill, start: Row) -> tuple[Row, bool]:
    name, user, where, began, reason, outcome = start
    begin = moment_of(began)
    end = _end(reading, user, begin)
    during = Criteria(user=user, since=begin, until=end or scope.until, newest_first=False)
    kind = f"patients of {began} {user}"
    for record in reading.records(during):
        for patient in record.patients:
            if "^" not in patient:  # each patient stands there with and without the issuer
                spill.see(kind, patient, moment_text(record.at))
    listed = [value for value, _ in spill.most_seen(kind, _LISTED)]
    more = spill.distinct(kind) - len(listed)
    words = scope.words
    return (
        name,
        user,
        where,
        local(begin, scope.zone),
        local(end, scope.zone) if end else words("open"),
        f"{(end - begin).total_seconds() / 60:.0f}" if end else "",
        reason,
        words.outcome(int(outcome)),
        str(reading.count(during)),
        str(spill.distinct(kind)),
        ", ".join(listed) + (f" (+{more})" if more else ""),
    ), end is not None


def _end(reading: Reading, user: str, begin: datetime) -> datetime | None:
    """Return when the next override of the user stopped."""
    stops = reading.records(
        Criteria(event=EMERGENCY_OVERRIDE_STOPPED.csd_code, user=user, since=begin, newest_first=False)
    )  # fmt: skip
    found = next(stops, None)
    return found.at if found else None
