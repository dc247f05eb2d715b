"""Who saw the images of a patient: every record that names the patient, in order of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from securepacs.audit.reports.model import Chart, Report, Table, local
from securepacs.audit.reports.scope import TOP, Scope
from securepacs.audit.reports.seen import message_of, seen
from securepacs.errors import UsageError
from securepacs.store.tables import moment_text

_COLUMNS = ("when", "who", "id", "role", "where", "what", "study", "to whom", "outcome", "reason")


@contextmanager
def access(scope: Scope, *, patient: str) -> Iterator[Report]:
    """Yield the report about a patient (ID with or without issuer). Its rows can be read while it is open.

    Raises UsageError for an empty ID. Records whose octets were lawfully erased no longer name a patient, so are not found.
    """
    if not patient.strip():
        raise UsageError("whose images? give the patient ID")
    words, wanted = scope.words, scope.criteria(patient=patient)
    with scope.opened("access", patient=patient) as (reading, spill):
        actions: Counter[str] = Counter()
        for record, raw in reading.contents(wanted):
            message = message_of(raw)
            who = seen(message) if message else None
            what = words.event(record.event_code, record.action, record.event_name)
            actions[what] += 1
            named = f"{who.name} ({who.who})" if who and who.name else who.who if who else record.user
            spill.see("who", named, moment_text(record.at))
            spill.add(
                "access",
                (
                    local(record.at, scope.zone),
                    who.name if who else "",
                    who.who if who else record.user,
                    who.role if who else "",
                    who.where if who else "",
                    what,
                    ", ".join(record.studies),
                    who.to_whom if who else "",
                    words.outcome(record.outcome),
                    (who.purpose if who else "") or record.description,
                ),
            )
        table = Table(
            words("accesses"), tuple(map(words, _COLUMNS)), lambda: spill.rows("access"), spill.row_count("access"), most=5000
        )
        yield Report(
            kind="access",
            language=scope.language,
            title=words("access"),
            subject=f"{words('patient')}: {patient}",
            made=scope.at,
            zone=scope.zone,
            figures=(
                (words("period"), scope.period()),
                (words("records"), str(table.count)),
                (words("people"), str(spill.distinct("who"))),
                (words("repeats"), str(reading.count(wanted, repeats=True))),
            ),
            charts=(
                scope.by_day(reading.minutes(wanted)),
                Chart(words("by what"), tuple(actions.most_common(TOP))),
                Chart(words("by who"), tuple(spill.most_seen("who", TOP))),
            ),
            tables=(table,),
            data=table,
        )
