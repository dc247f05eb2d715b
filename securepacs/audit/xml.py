"""Audit messages as XML (PS3.15 A.5.1, grammar of 2020b with the PurposeOfUse of ITI-20): strict to write, tolerant to read.

The writer gives the same bytes for the same message: UTF-8, no declaration, children and attributes in the order of the
standard, moments in UTC. It needs nothing outside the standard library. The reader is `securepacs.audit.reader`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime

from securepacs.audit.message import (
    ActiveParticipant,
    AuditMessage,
    AuditSourceIdentification,
    EventIdentification,
    ParticipantObjectDescription,
    ParticipantObjectIdentification,
)
from securepacs.codes import CodedValue
from securepacs.errors import MalformedError, UsageError

# XML 1.0 2.2 allows no other control characters, no surrogates, no U+FFFE and U+FFFF, not even as references
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_SPECIAL = re.compile('[&<>"\t\n\r]')
# white space is written as references, or reading would turn it into spaces (XML 1.0 3.3.3) and line feeds (2.11)
_REFERENCES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
_SOURCE_TYPES = frozenset("123456789")


def to_xml(message: AuditMessage) -> bytes:
    """Return the message as XML. Raises UsageError when it breaks the grammar of A.5.1 or the one-requestor rule of A.5.2.

    An object with neither name nor query is written with its ID as name. Characters that XML cannot hold become U+FFFD.
    """
    _check(message)
    out: list[str] = ["<AuditMessage>"]
    _event(out, message.EventIdentification)
    for who in message.ActiveParticipant:
        _participant(out, who)
    _source(out, message.AuditSourceIdentification)
    for what in message.ParticipantObjectIdentification:
        _object(out, what)
    out.append("</AuditMessage>")
    return "".join(out).encode("utf-8")


def from_xml(raw: bytes) -> AuditMessage:
    """Read a message of any dialect tolerantly (`reader.read` also tells what had to be forgiven). Raises MalformedError."""
    from securepacs.audit.reader import read

    reading = read(raw)
    if reading.message is None:
        reason = reading.findings[-1].detail if reading.findings else "no audit message"
        raise MalformedError(f"this is not an audit message: {reason}", standard="PS3.15 A.5.1")
    return reading.message


def event_date_time(at: datetime) -> str:
    """Return xsd:dateTime in UTC with microseconds."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _check(message: AuditMessage) -> None:
    if not message.ActiveParticipant:
        raise UsageError("an audit message needs a participant", standard="PS3.15 A.5.1")
    if sum(who.UserIsRequestor for who in message.ActiveParticipant) > 1:
        raise UsageError("at most one participant is the requestor", standard="PS3.15 A.5.2.4")
    if message.EventIdentification.EventDateTime.utcoffset() is None:
        raise UsageError("EventDateTime must carry a time zone", standard="PS3.15 A.5.2.1")


def _clean(text: str) -> str:
    """Escape for element and attribute content alike."""
    if _FORBIDDEN.search(text):
        text = _FORBIDDEN.sub("�", text)
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda found: _REFERENCES[found.group()], text)
    return text


def _attribute(out: list[str], name: str, value: object, *, required: bool = False) -> None:
    """Append one attribute; an empty optional one is left out."""
    text = "" if value is None else str(value)
    if text:
        out.append(f' {name}="{_clean(text)}"')
    elif required:
        raise UsageError(f"{name} must not be empty", standard="PS3.15 A.5.1")


def _coded(out: list[str], element: str, value: CodedValue) -> None:
    out.append(f"<{element}")
    _attribute(out, "csd-code", value.csd_code, required=True)
    _attribute(out, "codeSystemName", value.codeSystemName, required=True)
    _attribute(out, "originalText", value.originalText, required=True)
    _attribute(out, "displayName", value.displayName)
    out.append("/>")


def _event(out: list[str], event: EventIdentification) -> None:
    out.append("<EventIdentification")
    _attribute(out, "EventActionCode", event.EventActionCode)
    _attribute(out, "EventDateTime", event_date_time(event.EventDateTime))
    _attribute(out, "EventOutcomeIndicator", int(event.EventOutcomeIndicator))
    out.append(">")
    _coded(out, "EventID", event.EventID)
    for code in event.EventTypeCode:
        _coded(out, "EventTypeCode", code)
    if event.EventOutcomeDescription:
        out.append(f"<EventOutcomeDescription>{_clean(event.EventOutcomeDescription)}</EventOutcomeDescription>")
    for code in event.PurposeOfUse:
        _coded(out, "PurposeOfUse", code)
    out.append("</EventIdentification>")


def _participant(out: list[str], who: ActiveParticipant) -> None:
    out.append("<ActiveParticipant")
    _attribute(out, "UserID", who.UserID, required=True)
    _attribute(out, "AlternativeUserID", who.AlternativeUserID)
    _attribute(out, "UserName", who.UserName)
    _attribute(out, "UserIsRequestor", "true" if who.UserIsRequestor else "false")
    _attribute(out, "NetworkAccessPointID", who.NetworkAccessPointID)
    if who.NetworkAccessPointTypeCode is not None:
        _attribute(out, "NetworkAccessPointTypeCode", int(who.NetworkAccessPointTypeCode))
    out.append(">")
    for role in who.RoleIDCode:
        _coded(out, "RoleIDCode", role)
    if who.MediaType is not None:
        out.append("<MediaIdentifier>")
        _coded(out, "MediaType", who.MediaType)
        out.append("</MediaIdentifier>")
    out.append("</ActiveParticipant>")


def _source(out: list[str], source: AuditSourceIdentification) -> None:
    out.append("<AuditSourceIdentification")
    _attribute(out, "AuditEnterpriseSiteID", source.AuditEnterpriseSiteID)
    _attribute(out, "AuditSourceID", source.AuditSourceID, required=True)
    out.append(">")
    for code in source.AuditSourceTypeCode:
        if code not in _SOURCE_TYPES:
            raise UsageError(f"AuditSourceTypeCode {code!r} is not one of 1-9", standard="PS3.15 A.5.1")
        out.append(f'<AuditSourceTypeCode csd-code="{code}"/>')
    out.append("</AuditSourceIdentification>")


def _object(out: list[str], what: ParticipantObjectIdentification) -> None:
    out.append("<ParticipantObjectIdentification")
    _attribute(out, "ParticipantObjectID", what.ParticipantObjectID, required=True)
    _range(out, "ParticipantObjectTypeCode", what.ParticipantObjectTypeCode, 4)
    _range(out, "ParticipantObjectTypeCodeRole", what.ParticipantObjectTypeCodeRole, 26)
    _range(out, "ParticipantObjectDataLifeCycle", what.ParticipantObjectDataLifeCycle, 15)
    _attribute(out, "ParticipantObjectSensitivity", what.ParticipantObjectSensitivity)
    out.append(">")
    _coded(out, "ParticipantObjectIDTypeCode", what.ParticipantObjectIDTypeCode)
    if what.ParticipantObjectQuery is not None:
        if what.ParticipantObjectName:
            raise UsageError("an object has a name or a query, not both", standard="PS3.15 A.5.1")
        out.append(f"<ParticipantObjectQuery>{_base64(what.ParticipantObjectQuery)}</ParticipantObjectQuery>")
    else:
        name = what.ParticipantObjectName or what.ParticipantObjectID
        out.append(f"<ParticipantObjectName>{_clean(name)}</ParticipantObjectName>")
    for detail in what.ParticipantObjectDetail:
        out.append("<ParticipantObjectDetail")
        _attribute(out, "type", detail.type, required=True)
        out.append(f' value="{_base64(detail.value)}"/>')
    if what.ParticipantObjectDescription is not None:
        _description(out, what.ParticipantObjectDescription)
    out.append("</ParticipantObjectIdentification>")


def _description(out: list[str], description: ParticipantObjectDescription) -> None:
    out.append("<ParticipantObjectDescription>")
    _empty_elements(out, "MPPS", "UID", description.MPPS)
    _empty_elements(out, "Accession", "Number", description.Accession)
    for sop_class in description.SOPClass:
        if sop_class.NumberOfInstances < 0:
            raise UsageError("NumberOfInstances must not be negative", standard="PS3.15 A.5.1")
        out.append("<SOPClass")
        _attribute(out, "UID", sop_class.UID)
        _attribute(out, "NumberOfInstances", sop_class.NumberOfInstances)
        out.append(">")
        _empty_elements(out, "Instance", "UID", sop_class.Instance)
        out.append("</SOPClass>")
    if description.ParticipantObjectContainsStudy:
        out.append("<ParticipantObjectContainsStudy>")
        _empty_elements(out, "StudyIDs", "UID", description.ParticipantObjectContainsStudy)
        out.append("</ParticipantObjectContainsStudy>")
    for name, value in (("Encrypted", description.Encrypted), ("Anonymized", description.Anonymized)):
        if value is not None:
            out.append(f"<{name}>{'true' if value else 'false'}</{name}>")
    out.append("</ParticipantObjectDescription>")


def _empty_elements(out: list[str], element: str, attribute: str, values: tuple[str, ...]) -> None:
    for value in values:
        out.append(f"<{element}")
        _attribute(out, attribute, value, required=True)
        out.append("/>")


def _range(out: list[str], name: str, value: int | None, highest: int) -> None:
    if value is None:
        return
    if not 1 <= value <= highest:
        raise UsageError(f"{name} is 1-{highest}, not {value}", standard="PS3.15 A.5.1")
    _attribute(out, name, value)


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")
