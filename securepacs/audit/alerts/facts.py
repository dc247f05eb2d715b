"""What the alert rules look at in an audit record: no text of a patient leaves here but identifiers to count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from securepacs import codes
from securepacs.audit.message import AuditMessage, ParticipantObjectIdentification
from securepacs.audit.reader import read
from securepacs.audit.reports.seen import seen
from securepacs.audit.repository.terms import is_patient
from securepacs.audit.sequences import Source, number_of
from securepacs.audit.syslog import parse_record
from securepacs.dicom import walk
from securepacs.dicom.part10 import encoding_of
from securepacs.errors import MalformedError

# keys of a query of which one alone finds few patients (PS3.4 C.6.2)
_RESTRICTING = frozenset({0x00080020, 0x00080050, 0x00100010, 0x00100020, 0x0020000D, 0x0020000E, 0x00080018})
_SHORTEST_BEGINNING = 3  # letters before a wildcard that restrict


@dataclass(frozen=True, slots=True)
class Fact:
    """One record. `user` acted, `is_person` when a role of people stands with it; `studies` gives instances by study."""

    number: int
    at: datetime
    source: str
    event: str
    types: frozenset[str] = frozenset()
    outcome: int = 0
    user: str = ""
    is_person: bool = False
    address: str = ""
    patients: frozenset[str] = frozenset()
    studies: Mapping[str, int] = field(default_factory=dict)
    text: str = ""
    enumerates: bool = False
    sequence: tuple[Source, int] | None = None


def fact_of(number: int, raw: bytes) -> Fact | None:
    """Return the fact of a stored record; None when it is no audit message that can be used."""
    message = read(parse_record(raw).msg).message if raw else None
    if message is None:
        return None
    event, objects = message.EventIdentification, message.ParticipantObjectIdentification
    who = seen(_without_reporter(message))
    return Fact(
        number=number,
        at=event.EventDateTime.astimezone(UTC),
        source=message.AuditSourceIdentification.AuditSourceID,
        event=event.EventID.csd_code,
        types=frozenset(each.csd_code for each in event.EventTypeCode),
        outcome=int(event.EventOutcomeIndicator),
        user=who.who,
        is_person=bool(who.role),
        address=who.where or next((each.ParticipantObjectID for each in objects if _is_node(each)), ""),
        patients=frozenset(_patients(objects)),
        studies=dict(_studies(objects)),
        text=" ".join(_texts(message)),
        enumerates=event.EventID.csd_code == codes.QUERY.csd_code and any(_enumerates(each) for each in objects),
        sequence=number_of("", raw),
    )


def _without_reporter(message: AuditMessage) -> AuditMessage:
    """Take the reporter of a Security Alert away: it is about the performers (PS3.15 A.5.3.14), or about somebody unknown."""
    if message.EventIdentification.EventID.csd_code != codes.SECURITY_ALERT.csd_code:
        return message
    return replace(message, ActiveParticipant=message.ActiveParticipant[1:])


def _is_node(what: ParticipantObjectIdentification) -> bool:
    return what.ParticipantObjectIDTypeCode.csd_code == codes.NODE_ID_TYPE.csd_code


def _patients(objects: tuple[ParticipantObjectIdentification, ...]) -> Iterator[str]:
    for each in objects:
        code = each.ParticipantObjectIDTypeCode
        kind, role = each.ParticipantObjectTypeCode, each.ParticipantObjectTypeCodeRole
        if is_patient(kind, role, code.csd_code, code.codeSystemName) and each.ParticipantObjectID:
            yield each.ParticipantObjectID.partition("^")[0].strip()


def _studies(objects: tuple[ParticipantObjectIdentification, ...]) -> Iterator[tuple[str, int]]:
    for each in objects:
        if each.ParticipantObjectIDTypeCode.csd_code == codes.STUDY_INSTANCE_UID_TYPE.csd_code:
            described = each.ParticipantObjectDescription
            yield each.ParticipantObjectID, sum(one.NumberOfInstances for one in described.SOPClass) if described else 0


def _texts(message: AuditMessage) -> Iterator[str]:
    yield message.EventIdentification.EventOutcomeDescription
    for each in message.ParticipantObjectIdentification:
        for detail in each.ParticipantObjectDetail:
            yield detail.value[:1024].decode("utf-8", "replace")


def _enumerates(question: ParticipantObjectIdentification) -> bool:
    """Whether a DICOM query restricts nothing: every key that could is empty, all wildcard, or a very short beginning."""
    query = question.ParticipantObjectQuery
    if not query:
        return False
    named = (detail.value for detail in question.ParticipantObjectDetail if detail.type == "TransferSyntax")
    syntax = next(named, codes.IMPLICIT_VR_LITTLE_ENDIAN.encode()).decode("ascii", "replace").strip(" \0")
    encoding = encoding_of(syntax)
    try:
        keys = {
            element.tag: query[element.value_offset : element.next_offset].decode("latin-1").strip(" \0")
            for element in walk(query, explicit=encoding.explicit, little=encoding.little)
            if element.tag in _RESTRICTING
        }
    except MalformedError:
        return False
    return not any(_restricts(tag, value) for tag, value in keys.items())


def _restricts(tag: int, value: str) -> bool:
    beginning = value.replace("?", "*").partition("*")
    if not beginning[1]:
        return bool(value) and value not in ("-", "^")
    return len(beginning[0].strip("^ ")) >= _SHORTEST_BEGINNING or bool(beginning[2].strip("*^ "))
