"""The elements of an audit message, whatever its dialect, as the data of `message` (the rewrites of `reader`)."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from enum import Enum
from typing import TypeVar

from lxml import etree

from securepacs.audit.findings import Findings
from securepacs.audit.message import (
    ActiveParticipant,
    AuditMessage,
    AuditSourceIdentification,
    EventActionCode,
    EventIdentification,
    EventOutcomeIndicator,
    NetworkAccessPointTypeCode,
    ParticipantObjectDescription,
    ParticipantObjectDetail,
    ParticipantObjectIdentification,
    SOPClass,
)
from securepacs.codes import CodedValue

E = TypeVar("E", bound=Enum)
_XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):?(\d\d))?", flags=re.ASCII)
_TRUE, _FALSE = ("true", "1"), ("false", "0")


def local_name(element: etree._Element) -> str:
    """Return the name without namespace; comments and the like have none."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def namespace(element: etree._Element) -> str:
    """Return the namespace of an element, empty when it has none."""
    tag = element.tag
    return tag[1:].partition("}")[0] if isinstance(tag, str) and tag.startswith("{") else ""


def code_of(element: etree._Element) -> str:
    """Return the code of a coded value in the words of any edition."""
    return (_text(element, "csd-code") or _text(element, "code")).strip()


def message(root: etree._Element, findings: Findings, zone: tzinfo) -> AuditMessage | None:
    """Return the message below `root`, or None when its event cannot be told (no EventIdentification, EventID or moment)."""
    if any(name.startswith(_XSI) for name in map(str, root.attrib)):
        findings.add("schema-location", "AuditMessage", "xsi attributes are not part of the grammar and are ignored")
    event_element = next(_children(root, "EventIdentification"), None)
    if event_element is None:
        findings.add("no-event", "AuditMessage", "EventIdentification is missing")
        return None
    event = _event(event_element, findings, zone)
    if event is None:
        return None
    people = tuple(_participant(each, findings) for each in _children(root, "ActiveParticipant"))
    if not people:
        findings.add("no-participant", "AuditMessage", "ActiveParticipant is missing")
    if sum(who.UserIsRequestor for who in people) > 1:
        findings.add("several-requestors", "ActiveParticipant", "more than one participant is the requestor")
    source = _source(list(_children(root, "AuditSourceIdentification")), findings)
    objects = tuple(_object(each, findings) for each in _children(root, "ParticipantObjectIdentification"))
    return AuditMessage(event, people, source, objects)


def _event(element: etree._Element, findings: Findings, zone: tzinfo) -> EventIdentification | None:
    where = "EventIdentification"
    identity = next(_children(element, "EventID"), None)
    at = _moment(_text(element, "EventDateTime"), findings, zone)
    if identity is None:
        findings.add("no-event", where, "EventID is missing")
        return None
    if at is None:
        findings.add("no-moment", f"{where}/EventDateTime", "EventDateTime is missing or no date and time")
        return None
    action = _member(EventActionCode, _text(element, "EventActionCode").strip(), f"{where}/EventActionCode", findings)
    outcome = _number(_text(element, "EventOutcomeIndicator"), f"{where}/EventOutcomeIndicator", findings)
    indicator = None if outcome is None else _member(EventOutcomeIndicator, outcome, f"{where}/EventOutcomeIndicator", findings)
    if indicator is None:
        findings.add("no-outcome", where, "EventOutcomeIndicator is missing or unknown: taken as a major failure")
        indicator = EventOutcomeIndicator.MAJOR_FAILURE
    if any(True for _ in _children(element, "PurposeOfUse")):
        findings.add("purpose-of-use", where, "PurposeOfUse is an addition of IHE ITI-20")
    return EventIdentification(
        EventID=_coded(identity, f"{where}/EventID", findings),
        EventDateTime=at,
        EventActionCode=action,
        EventOutcomeIndicator=indicator,
        EventTypeCode=_coded_children(element, "EventTypeCode", where, findings),
        EventOutcomeDescription=_content(next(_children(element, "EventOutcomeDescription"), None)),
        PurposeOfUse=_coded_children(element, "PurposeOfUse", where, findings),
    )


def _participant(element: etree._Element, findings: Findings) -> ActiveParticipant:
    where = "ActiveParticipant"
    user_id = _text(element, "UserID")
    if not user_id.strip():
        findings.add("no-user-id", where, "UserID is missing or empty")
    requestor = _text(element, "UserIsRequestor").strip().lower()
    if requestor not in (*_TRUE, *_FALSE):
        findings.add("no-requestor", where, "UserIsRequestor is missing or unknown: true by RFC 3881")
    kind = _number(_text(element, "NetworkAccessPointTypeCode"), f"{where}/NetworkAccessPointTypeCode", findings)
    for mark in ("UserTypeCode", "UserIDTypeCode"):
        if element.get(mark) is not None or any(True for _ in _children(element, mark)):
            findings.add("extension", f"{where}/{mark}", f"{mark} is not part of the grammar")
    return ActiveParticipant(
        UserID=user_id,
        UserIsRequestor=requestor not in _FALSE,
        RoleIDCode=_coded_children(element, "RoleIDCode", where, findings),
        AlternativeUserID=_text(element, "AlternativeUserID"),
        UserName=_text(element, "UserName"),
        NetworkAccessPointID=_text(element, "NetworkAccessPointID"),
        NetworkAccessPointTypeCode=None
        if kind is None
        else _member(NetworkAccessPointTypeCode, kind, f"{where}/NetworkAccessPointTypeCode", findings),
        MediaType=_media_type(element, findings),
    )


def _media_type(element: etree._Element, findings: Findings) -> CodedValue | None:
    for holder in (*_children(element, "MediaIdentifier"), element):  # dcm4che writes MediaType as a direct child
        for media in _children(holder, "MediaType"):
            return _coded(media, "ActiveParticipant/MediaType", findings)
    return None


def _source(found: list[etree._Element], findings: Findings) -> AuditSourceIdentification:
    where = "AuditSourceIdentification"
    if len(found) != 1:
        findings.add("source-count", where, f"exactly one is needed, {len(found)} found")
    if not found:
        return AuditSourceIdentification("")
    element = found[0]
    kinds = [code_of(each) for each in _children(element, "AuditSourceTypeCode")]
    if _text(element, "code"):
        findings.add("legacy-source-type", where, "the source type is an attribute (before DICOM 2016c)")
        kinds.append(_text(element, "code"))
    if any(each.get("csd-code") is None for each in _children(element, "AuditSourceTypeCode")):
        findings.add("legacy-source-type", f"{where}/AuditSourceTypeCode", "attribute `code` instead of `csd-code`")
    if not _text(element, "AuditSourceID").strip():
        findings.add("no-source-id", where, "AuditSourceID is missing or empty")
    return AuditSourceIdentification(
        _text(element, "AuditSourceID"), _text(element, "AuditEnterpriseSiteID"), tuple(filter(None, kinds))
    )


def _object(element: etree._Element, findings: Findings) -> ParticipantObjectIdentification:
    where = "ParticipantObjectIdentification"
    kind = next(_children(element, "ParticipantObjectIDTypeCode"), None)
    if kind is None:
        findings.add("no-id-type", where, "ParticipantObjectIDTypeCode is missing")
    identity = _text(element, "ParticipantObjectID")
    if not identity.strip():
        findings.add("no-object-id", where, "ParticipantObjectID is missing or empty")
    name_element, query_element = (next(_children(element, f"ParticipantObject{part}"), None) for part in ("Name", "Query"))
    if name_element is None and query_element is None:
        findings.add("no-name-or-query", where, "neither ParticipantObjectName nor ParticipantObjectQuery")
    return ParticipantObjectIdentification(
        ParticipantObjectID=identity,
        ParticipantObjectIDTypeCode=CodedValue("", "", "")
        if kind is None
        else _coded(kind, f"{where}/IDTypeCode", findings, "RFC-3881"),
        ParticipantObjectTypeCode=_number(_text(element, "ParticipantObjectTypeCode"), f"{where}/TypeCode", findings),
        ParticipantObjectTypeCodeRole=_number(_text(element, "ParticipantObjectTypeCodeRole"), f"{where}/TypeCodeRole", findings),
        ParticipantObjectDataLifeCycle=_number(_text(element, "ParticipantObjectDataLifeCycle"), f"{where}/LifeCycle", findings),
        ParticipantObjectSensitivity=_text(element, "ParticipantObjectSensitivity"),
        ParticipantObjectName=_content(name_element),
        ParticipantObjectQuery=None if query_element is None else _binary(_content(query_element), f"{where}/Query", findings),
        ParticipantObjectDetail=tuple(
            ParticipantObjectDetail(_text(each, "type"), _binary(_text(each, "value"), f"{where}/Detail", findings))
            for each in _children(element, "ParticipantObjectDetail")
        ),
        ParticipantObjectDescription=_description(element, findings),
    )


def _description(element: etree._Element, findings: Findings) -> ParticipantObjectDescription | None:
    """Merge the descriptions of an object, and the loose elements of the editions before 2016a."""
    holders = list(_children(element, "ParticipantObjectDescription"))
    if any(True for name in ("MPPS", "Accession", "SOPClass") for _ in _children(element, name)):
        findings.add(
            "loose-description", "ParticipantObjectIdentification", "object description outside ParticipantObjectDescription"
        )
        holders.append(element)
    if not holders:
        return None

    def values(name: str, attribute: str) -> tuple[str, ...]:
        return tuple(_text(each, attribute) for holder in holders for each in _children(holder, name))

    return ParticipantObjectDescription(
        MPPS=values("MPPS", "UID"),
        Accession=values("Accession", "Number"),
        SOPClass=tuple(_sop_class(each, findings) for holder in holders for each in _children(holder, "SOPClass")),
        ParticipantObjectContainsStudy=tuple(
            _text(study, "UID")
            for holder in holders
            for each in _children(holder, "ParticipantObjectContainsStudy")
            for study in _children(each, "StudyIDs")
        ),
        Encrypted=_flag(holders, "Encrypted", findings),
        Anonymized=_flag(holders, "Anonymized", findings),
    )


def _sop_class(element: etree._Element, findings: Findings) -> SOPClass:
    count = _number(_text(element, "NumberOfInstances"), "SOPClass/NumberOfInstances", findings)
    if count is None:
        findings.add("no-number-of-instances", "SOPClass", "NumberOfInstances is missing or no number: taken as 0")
    return SOPClass(_text(element, "UID"), count or 0, tuple(_text(each, "UID") for each in _children(element, "Instance")))


def _flag(holders: list[etree._Element], name: str, findings: Findings) -> bool | None:
    for holder in holders:
        attribute = holder.get(name)  # dcm4che wrote an attribute until 2023
        if attribute is not None:
            findings.add("flag-attribute", f"ParticipantObjectDescription/{name}", f"{name} is an element, not an attribute")
        text = attribute if attribute is not None else _content(next(_children(holder, name), None))
        if text.strip().lower() in (*_TRUE, *_FALSE):
            return text.strip().lower() in _TRUE
    return None


def _coded(element: etree._Element, where: str, findings: Findings, default_system: str = "") -> CodedValue:
    code, system, shown = code_of(element), _text(element, "codeSystemName"), _text(element, "displayName")
    text = _text(element, "originalText")
    if element.get("csd-code") is None:
        findings.add("legacy-code", where, "attribute `code` instead of `csd-code` (RFC 3881)")
    if not code or not text or not system:
        findings.add("incomplete-code", where, "csd-code, codeSystemName or originalText is missing")
    return CodedValue(code, system or default_system, text or shown, shown)


def _coded_children(element: etree._Element, name: str, where: str, findings: Findings) -> tuple[CodedValue, ...]:
    return tuple(_coded(each, f"{where}/{name}", findings) for each in _children(element, name))


def _moment(text: str, findings: Findings, zone: tzinfo) -> datetime | None:
    """Return xsd:dateTime as an aware datetime; a leap second becomes the last microsecond before it ends."""
    found = _MOMENT.fullmatch(text.strip())
    if not found:
        return None
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    fraction, zulu, sign, hours, minutes = found.groups()[6:]
    microsecond = int((fraction or "0")[:6].ljust(6, "0"))
    where = "EventIdentification/EventDateTime"
    if second == 60:
        findings.add("leap-second", where, "a leap second was read as the end of second 59")
        second, microsecond = 59, 999_999
    if not zulu and not sign:
        findings.add("no-zone", where, "no time zone: the configured one was assumed")
    try:
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
        assumed = timezone(offset) if zulu or sign else zone
        return datetime(year, month, day, hour, minute, second, microsecond, tzinfo=assumed)
    except ValueError:
        return None


def _member(kind: type[E], value: object, where: str, findings: Findings) -> E | None:
    if value == "":
        return None
    try:
        return kind(value)
    except ValueError:
        findings.add("unknown-value", where, f"not a value of {kind.__name__}")
        return None


def _number(text: str, where: str, findings: Findings) -> int | None:
    if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", text, flags=re.ASCII):
        return int(text)
    if text:
        findings.add("not-a-number", where, "a number is needed")
    return None


def _binary(text: str, where: str, findings: Findings) -> bytes:
    """Decode base64; what is not base64 is kept as it was written."""
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        findings.add("not-base64", where, "base64 is needed: the text was kept as it is")
        return text.encode("utf-8")


def _children(element: etree._Element, name: str) -> Iterator[etree._Element]:
    return (child for child in element if local_name(child) == name)


def _text(element: etree._Element, attribute: str) -> str:
    return str(element.get(attribute) or "")


def _content(element: etree._Element | None) -> str:
    return "" if element is None else "".join(str(part) for part in element.itertext())
