"""The query of ITI-81 (FHIR search on AuditEvent, IHE RESTful ATNA) as criteria of the repository and conditions on messages.

Rules of this file:
1. A date interval with both ends is required; a search without one would read the whole trail.
2. A parameter that is not known is refused, never ignored: an answer to another question is worse than none (FHIR 3.1.1.3).
3. Values separated by commas are alternatives, repeated parameters must all hold. Modifiers are not supported.
4. Criteria narrow by what is indexed; the conditions decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from securepacs.audit.fhir import SYSTEMS
from securepacs.audit.message import AuditMessage
from securepacs.audit.repository.search import Criteria
from securepacs.audit.repository.terms import is_patient
from securepacs.codes import CodedValue
from securepacs.errors import UsageError

DEFAULT_COUNT, MAX_COUNT = 50, 500
MAX_PARAMETERS, MAX_VALUE = 40, 512
_MOMENT = re.compile(
    r"(eq|ge|gt|le|lt|sa|eb)?(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6})\d*)?)?(Z|[+-]\d\d:\d\d)?)?)?)?",
    flags=re.ASCII,
)
_PLACE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\.(\d{1,18})", flags=re.ASCII)
_JSON_FORMATS = frozenset(("json", "application/json", "application/fhir+json", "application/fhir json"))  # "+" may arrive as space
_OUTCOMES = frozenset(("0", "4", "8", "12"))

Token = tuple[str, str]  # system ("" for none), code
Condition = Callable[[AuditMessage], bool]


class NotAcceptable(UsageError):
    """A representation was asked for that there is none of."""


@dataclass(frozen=True, slots=True)
class AuditEventQuery:
    """A search. `after` is the place of the last record of the page before; `given` are the parameters, for links."""

    criteria: Criteria
    conditions: tuple[Condition, ...]
    count: int
    after: tuple[datetime, int] | None
    given: tuple[tuple[str, str], ...]

    def holds(self, message: AuditMessage) -> bool:
        """Tell whether a message meets all conditions."""
        return all(condition(message) for condition in self.conditions)


def parse_query(parameters: Sequence[tuple[str, str]]) -> AuditEventQuery:
    """Read decoded parameters. Raises UsageError; its texts name parameters, never values."""
    if len(parameters) > MAX_PARAMETERS or any(len(value) > MAX_VALUE for _, value in parameters):
        raise UsageError("the query is too long")
    criteria, conditions = Criteria(newest_first=True), list[Condition]()
    since, until, count, after = _Bound(max), _Bound(min), DEFAULT_COUNT, None
    for name, value in parameters:
        known = name.replace(":identifier", ".identifier")
        known = _REFERENCES.get(known, known)
        if not value:
            raise UsageError(f"{_shown(name)} has no value")
        if name == "date":
            _date(value, since, until)
        elif name == "_count":
            count = _count(value)
        elif name == "_sort":
            criteria = replace(criteria, newest_first=_newest_first(value))
        elif name == "_format":
            if value.lower() not in _JSON_FORMATS:
                raise NotAcceptable("only application/fhir+json can be had")
        elif name == "_after":
            after = _place(value)
        elif known in _PARAMETERS:
            wanted = tuple(_split(value))
            conditions.append(_PARAMETERS[known](known, wanted))
            criteria = _narrowed(criteria, known, wanted)
        else:
            raise UsageError(f"{_shown(name)} is not supported", hint="see the CapabilityStatement at /metadata")
    if since.moment is None or until.moment is None:
        raise UsageError("a date interval is required: date=ge...&date=le...", standard="IHE ITI-81")
    criteria = replace(criteria, since=since.moment, until=until.moment)
    given = tuple((name, value) for name, value in parameters if name != "_after")
    return AuditEventQuery(criteria, tuple(conditions), count, after, given)


def _shown(name: str) -> str:
    return f"parameter {name}" if re.fullmatch(r"[\w.:-]{1,40}", name, flags=re.ASCII) else "a parameter"


# --- dates, pages -----------------------------------------------------------------------------------------------------
class _Bound:
    """The narrowest of several bounds."""

    def __init__(self, choose: Callable[[datetime, datetime], datetime]) -> None:
        self._choose = choose
        self.moment: datetime | None = None

    def at(self, moment: datetime) -> None:
        self.moment = moment if self.moment is None else self._choose(self.moment, moment)


def _date(value: str, since: _Bound, until: _Bound) -> None:
    found = _MOMENT.fullmatch(value.replace(" ", "+"))  # a plus sign nobody escaped
    try:
        if found is None:
            raise ValueError
        begin, end = _period(found)
    except (ValueError, OverflowError):
        raise UsageError("date is no FHIR date", hint="for example date=ge2027-01-01&date=le2027-01-31") from None
    prefix = found[1] or "eq"
    if prefix in ("eq", "ge"):
        since.at(begin)
    if prefix in ("gt", "sa"):
        since.at(end)
    if prefix in ("eq", "le"):
        until.at(end)
    if prefix in ("lt", "eb"):
        until.at(begin)


def _period(found: re.Match[str]) -> tuple[datetime, datetime]:
    """Return the period that a date of any precision stands for; without a zone it is UTC."""
    _, year, month, day, hour, minute, second, fraction, zone = found.groups()
    offset = UTC if zone in (None, "Z") else datetime.fromisoformat(f"2000-01-01T00:00:00{zone}").tzinfo
    begin = datetime(
        int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0),
        int((fraction or "").ljust(6, "0")), offset,
    )  # fmt: skip
    if month is None:
        return begin, begin.replace(year=begin.year + 1)
    if day is None:
        return begin, begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    if hour is None:
        return begin, begin + timedelta(days=1)
    if second is None:
        return begin, begin + timedelta(minutes=1)
    return begin, begin + (timedelta(seconds=1) if fraction is None else timedelta(microseconds=10 ** (6 - len(fraction))))


def _count(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", value) or int(value) < 1:
        raise UsageError("_count is a number from 1 on")
    return min(int(value), MAX_COUNT)


def _newest_first(value: str) -> bool:
    if value not in ("date", "-date"):
        raise UsageError("_sort is date or -date")
    return value == "-date"


def place_text(moment: str, record_id: int) -> str:
    """Return the place of a record for `_after`."""
    return f"{moment}.{record_id}"


def _place(value: str) -> tuple[datetime, int]:
    found = _PLACE.fullmatch(value)
    try:
        if found is None:
            raise ValueError
        return datetime.fromisoformat(found[1]), int(found[2])
    except ValueError:
        raise UsageError("_after is not from a link of this server") from None


# --- conditions -------------------------------------------------------------------------------------------------------
def _split(value: str) -> list[str]:
    """Return the alternatives of a value; a backslash takes the meaning from commas, bars and backslashes (FHIR 3.1.1.4)."""
    found = re.findall(r"(?:\\.|[^,\\])+", value)
    if not found:
        raise UsageError("a value is empty")
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _token(text: str) -> tuple[str | None, str]:
    """Return (system, code) of a token; system None for any."""
    found = re.match(r"((?:\\.|[^|\\])*)\|(.*)", text, flags=re.DOTALL)
    return (_plain(found[1]), _plain(found[2])) if found else (None, _plain(text))


def _tokens(read: Callable[[AuditMessage], Iterable[Token]]) -> Callable[[str, tuple[str, ...]], Condition]:
    def make(_name: str, wanted: tuple[str, ...]) -> Condition:
        tokens = [_token(each) for each in wanted]

        def holds(message: AuditMessage) -> bool:
            return any(
                (system is None or system == has_system) and (not code or code == has_code)
                for has_system, has_code in read(message)
                for system, code in tokens
            )

        return holds

    return make


def _strings(read: Callable[[AuditMessage], Iterable[str]]) -> Callable[[str, tuple[str, ...]], Condition]:
    """String search: begins with, whatever the case (FHIR 3.1.1.4.8)."""

    def make(_name: str, wanted: tuple[str, ...]) -> Condition:
        begins = tuple(_plain(each).casefold() for each in wanted)
        return lambda message: any(text.casefold().startswith(begins) for text in read(message))

    return make


def _of_code(value: CodedValue) -> Token:
    return SYSTEMS.get(value.codeSystemName, value.codeSystemName), value.csd_code


def _identifiers(message: AuditMessage, *, patients_only: bool) -> Iterator[Token]:
    """Yield object IDs, those of HL7 CX also as system and value (`4711^^^&1.2.3&ISO` is 4711 of urn:oid:1.2.3)."""
    for each in message.ParticipantObjectIdentification:
        kind, identity = each.ParticipantObjectIDTypeCode, each.ParticipantObjectID
        patient = is_patient(
            each.ParticipantObjectTypeCode, each.ParticipantObjectTypeCodeRole, kind.csd_code, kind.codeSystemName
        )  # fmt: skip
        if patients_only and not patient:
            continue
        yield "", identity
        parts = identity.split("^")
        if patient and len(parts) > 1:
            issuer = parts[3].split("&") if len(parts) > 3 else [""]
            yield (f"urn:oid:{issuer[1]}" if len(issuer) > 1 and issuer[1] else issuer[0]), parts[0]


def _numbers(attribute: str) -> Callable[[AuditMessage], Iterable[Token]]:
    def read(message: AuditMessage) -> Iterator[Token]:
        for each in message.ParticipantObjectIdentification:
            code = getattr(each, attribute)
            if code is not None:
                yield "", str(code)

    return read


_PARAMETERS: dict[str, Callable[[str, tuple[str, ...]], Condition]] = {
    "action": _tokens(lambda message: [("", str(message.EventIdentification.EventActionCode or ""))]),
    "address": _strings(lambda message: (who.NetworkAccessPointID for who in message.ActiveParticipant)),
    "agent.identifier": _tokens(lambda message: (("", who.UserID) for who in message.ActiveParticipant)),
    "agent-name": _strings(lambda message: (who.UserName for who in message.ActiveParticipant)),
    "agent-role": _tokens(lambda message: (_of_code(role) for who in message.ActiveParticipant for role in who.RoleIDCode)),
    "altid": _tokens(lambda message: (("", who.AlternativeUserID) for who in message.ActiveParticipant)),
    "entity.identifier": _tokens(lambda message: _identifiers(message, patients_only=False)),
    "entity-name": _strings(lambda message: (each.ParticipantObjectName for each in message.ParticipantObjectIdentification)),
    "entity-role": _tokens(_numbers("ParticipantObjectTypeCodeRole")),
    "entity-type": _tokens(_numbers("ParticipantObjectTypeCode")),
    "outcome": _tokens(lambda message: [("", str(int(message.EventIdentification.EventOutcomeIndicator)))]),
    "patient.identifier": _tokens(lambda message: _identifiers(message, patients_only=True)),
    "site": _tokens(lambda message: [("", message.AuditSourceIdentification.AuditEnterpriseSiteID)]),
    "source.identifier": _tokens(lambda message: [("", message.AuditSourceIdentification.AuditSourceID)]),
    "subtype": _tokens(lambda message: map(_of_code, message.EventIdentification.EventTypeCode)),
    "type": _tokens(lambda message: [_of_code(message.EventIdentification.EventID)]),
}  # fmt: skip
# references: AuditEvents made of messages refer by identifier only, so the identifier is what they are compared with
_REFERENCES = {"agent": "agent.identifier", "entity": "entity.identifier", "source": "source.identifier"}
PARAMETERS = ("date", *_PARAMETERS, *_REFERENCES)


def _narrowed(criteria: Criteria, name: str, wanted: tuple[str, ...]) -> Criteria:
    """Return criteria that use the index where one value is asked for."""
    if len(wanted) != 1:
        return criteria
    code = _token(wanted[0])[1]
    match name:
        case "patient.identifier":
            return replace(criteria, patient=criteria.patient or code)
        case "agent.identifier" | "altid":
            return replace(criteria, user=criteria.user or code)
        case "type" | "subtype":
            return replace(criteria, event=criteria.event or code)
        case "source.identifier" | "site":
            return replace(criteria, source=criteria.source or code)
        case "outcome" if code in _OUTCOMES and criteria.outcome is None:
            return replace(criteria, outcome=int(code))
    return criteria
