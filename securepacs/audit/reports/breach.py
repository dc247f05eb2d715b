"""The extent of a breach: which patients and studies a person, certificate, address or AE title had to do with."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from securepacs.audit.grading import Verdict
from securepacs.audit.message import ActiveParticipant, AuditMessage
from securepacs.audit.parts import serial_number
from securepacs.audit.reports.model import Chart, Report, Row, Table, local
from securepacs.audit.reports.scope import TOP, Scope
from securepacs.audit.reports.seen import ae_titles_of, message_of, serials_of
from securepacs.audit.reports.spill import Spill
from securepacs.audit.repository.search import Criteria
from securepacs.errors import UsageError
from securepacs.store.tables import moment_of, moment_text

_MOST_KNOWN = 4096  # lists of participants in memory
_COLUMNS = ("item", "value", "count", "first", "last")
_PLAIN = re.compile(r"[A-Za-z0-9._ :-]+")  # what XML writes as it is


class SuspectKind(StrEnum):
    """By what somebody is looked for."""

    SUBJECT = "subject"
    SERIAL = "serial"
    PEER = "peer"
    AE = "ae"


@dataclass(frozen=True, slots=True)
class Suspect:
    """Whom the breach is about. `of` makes one from what a person typed."""

    kind: SuspectKind
    value: str

    @classmethod
    def of(cls, kind: SuspectKind, text: str) -> Suspect:
        """Return a suspect in the form it is compared in. Raises UsageError for a value that could match nothing.

        subject: user ID, alternative ID or name, in any case. serial: hexadecimal, colons allowed. peer: IP address, network or
        host name. ae: AE title.
        """
        value = text.strip()
        if not value:
            raise UsageError(f"--{kind.value} is empty")
        if kind is SuspectKind.SERIAL:
            value = serial_number(value)
        return cls(kind, value.casefold() if kind in (SuspectKind.SUBJECT, SuspectKind.PEER) else value)

    def criteria(self, scope: Scope) -> Criteria:
        """Return what surely finds every record of the suspect."""
        indexed = {SuspectKind.SUBJECT: "user", SuspectKind.SERIAL: "serial"}
        return scope.criteria(**{indexed[self.kind]: self.value}) if self.kind in indexed else scope.criteria()

    def may_be_in(self, raw: bytes) -> bool:
        """Tell, without reading the message, whether the suspect can be in it."""
        if self.kind in (SuspectKind.SUBJECT, SuspectKind.PEER) or not _PLAIN.fullmatch(self.value):
            return True
        return self.value.encode() in raw

    def took_part(self, message: AuditMessage) -> bool:
        """Tell whether a participant of a message is the suspect."""
        return any(map(self._is, message.ActiveParticipant))

    def _is(self, who: ActiveParticipant) -> bool:
        match self.kind:
            case SuspectKind.SERIAL:
                return self.value in serials_of(who)
            case SuspectKind.AE:
                return self.value in ae_titles_of(who) or self.value == who.UserID
            case SuspectKind.PEER:
                return _is_at(who.NetworkAccessPointID, self.value)
        return self.value in (name.strip().casefold() for name in (who.UserID, who.AlternativeUserID, who.UserName))


@contextmanager
def breach(scope: Scope, suspect: Suspect) -> Iterator[Report]:
    """Yield the report. Refused requests count too, and are told apart in the figures: a record may not know all that left."""
    words, wanted = scope.words, suspect.criteria(scope)
    with scope.opened("breach", **{suspect.kind.value: suspect.value}) as (reading, spill):
        actions: Counter[str] = Counter()
        records = failed = unreadable = 0
        took_part = _Participation(suspect)
        for record, raw in reading.contents(wanted):
            if record.verdict == Verdict.UNPARSED:
                unreadable += bool(raw)
                continue
            if not (suspect.may_be_in(raw) and took_part.in_record(raw, conformant=record.verdict == Verdict.CONFORMANT)):
                continue
            records += 1
            failed += bool(record.outcome)
            moment = moment_text(record.at)
            actions[words.event(record.event_code, record.action, record.event_name)] += 1
            spill.see("minute", moment[:16], moment)
            for patient in _whole(record.patients):
                spill.see("patient", patient, moment)
            for study in record.studies:
                spill.see("study", study, moment)
        tables = tuple(_table(scope, spill, kind, title) for kind, title in (("patient", "patients"), ("study", "studies")))
        columns = tuple(map(words, _COLUMNS))
        whole = Table(
            words("list"), columns, lambda: chain.from_iterable(each.rows() for each in tables), sum(each.count for each in tables)
        )
        yield Report(
            kind="breach",
            language=scope.language,
            title=words("breach"),
            subject=f"{words('subject of search')}: {words(suspect.kind.value)} {suspect.value}",
            made=scope.at,
            zone=scope.zone,
            figures=(
                (words("period"), scope.period()),
                (words("records"), str(records)),
                (words("failed ones"), str(failed)),
                (words("distinct patients"), str(spill.distinct("patient"))),
                (words("distinct studies"), str(spill.distinct("study"))),
                (words("unreadable"), str(unreadable)),
                (words("erased records"), str(reading.erased(scope.criteria()))),
            ),
            charts=(
                scope.by_day((minute, times) for minute, times, _, _ in spill.seen("minute")),
                Chart(words("by what"), tuple(actions.most_common(TOP))),
            ),
            tables=tables,
            data=whole,
        )


class _Participation:
    """Tells whether the suspect took part in records. Participants repeat from record to record, so each list is read once."""

    def __init__(self, suspect: Suspect) -> None:
        self._suspect = suspect
        self._known: dict[bytes, bool] = {}

    def in_record(self, raw: bytes, *, conformant: bool) -> bool:
        """Tell it of a record that could be read when it was received; only the grammar says where participants end."""
        people = raw[raw.find(b"<ActiveParticipant") : raw.rfind(b"<AuditSourceIdentification")] if conformant else b""
        found = self._known.get(people) if people else None
        if found is None:
            message = message_of(raw)
            found = message is not None and self._suspect.took_part(message)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[people] = found
        return found


def _whole(patients: tuple[str, ...]) -> Iterator[str]:
    """Yield the patients of a record as it names them: the index keeps an ID with an issuer also without it."""
    for patient in patients:
        if not any(other.startswith(f"{patient}^") for other in patients):
            yield patient


def _table(scope: Scope, spill: Spill, kind: str, title: str) -> Table:
    words = scope.words

    def rows() -> Iterator[Row]:
        for value, times, first, last in spill.seen(kind):
            moments = (local(moment_of(each), scope.zone) for each in (first, last))
            yield (words(kind), value, str(times), *moments)

    return Table(words(title), tuple(map(words, _COLUMNS)), rows, spill.distinct(kind))


def _is_at(place: str, wanted: str) -> bool:
    """Tell whether a network access point is an address, inside a network, or a host name."""
    if not place:
        return False
    if place.casefold() == wanted:
        return True
    try:
        network = ipaddress.ip_network(wanted)
        address = ipaddress.ip_address(place.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address) in network
