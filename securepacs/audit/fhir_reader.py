"""Reading AuditEvent resources (FHIR R4), of whatever origin, as audit messages; `fhir` says what goes where."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from securepacs.audit.fhir_terms import DETAIL, DISPLAY_NAME, ODD_CODE, SYSTEM_NAME, Json, name_of
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
from securepacs.errors import MalformedError

T = TypeVar("T")


def from_fhir(resource: Json) -> AuditMessage:
    """Return the message of an AuditEvent (R4), of whatever origin. Raises MalformedError, which quotes nothing of it.

    Lost: agent.location, agent.policy, agent.purposeOfUse, period, entity.description, and every extension that is not HL7's for
    DICOM or ours.
    """
    try:
        if resource["resourceType"] != "AuditEvent":
            raise MalformedError("the resource is no AuditEvent")
        return AuditMessage(
            EventIdentification=_read_event(resource),
            ActiveParticipant=tuple(
                _read_agent(each) for each in _list(resource, "agent") if set(each) != {"extension", "requestor"}
            ),
            AuditSourceIdentification=_read_source(resource.get("source") or {}),
            ParticipantObjectIdentification=tuple(map(_read_entity, _list(resource, "entity"))),
        )
    except (KeyError, TypeError, AttributeError, IndexError):
        raise MalformedError(
            "the AuditEvent lacks an element, or has one of the wrong type", standard="FHIR R4 AuditEvent"
        ) from None
    except (ValueError, OverflowError, Base64Error):
        raise MalformedError("the AuditEvent holds a value that its type does not allow", standard="FHIR R4 AuditEvent") from None


def _list(target: Json, name: str) -> list[Json]:
    found = target.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise TypeError
    return found


def _text(target: Json, name: str) -> str:
    found = target.get(name, "")
    if not isinstance(found, str):
        raise TypeError
    return found


def _read_event(resource: Json) -> EventIdentification:
    recorded = datetime.fromisoformat(_text(resource, "recorded"))
    if recorded.utcoffset() is None:
        raise ValueError
    action = _text(resource, "action")
    return EventIdentification(
        EventID=_read_coding(resource["type"]),
        EventDateTime=recorded,
        EventActionCode=EventActionCode(action) if action else None,
        EventOutcomeIndicator=EventOutcomeIndicator(int(_text(resource, "outcome") or "0")),
        EventTypeCode=tuple(map(_read_coding, _list(resource, "subtype"))),
        EventOutcomeDescription=_text(resource, "outcomeDesc"),
        PurposeOfUse=tuple(map(_read_concept, _list(resource, "purposeOfEvent"))),
    )


def _read_coding(coding: Json) -> CodedValue:
    named = {each["url"]: _text(each, "valueString") for each in _list(coding, "extension") if "url" in each}
    system = named[SYSTEM_NAME] if SYSTEM_NAME in named else name_of(_text(coding, "system"))
    return CodedValue(_code(coding), system, _text(coding, "display"), named.get(DISPLAY_NAME, ""))


def _code(coding: Json) -> str:
    odd = (_text(each, "valueString") for each in _list(coding, "extension") if each.get("url") == ODD_CODE)
    return _text(coding, "code") or next(odd, "")


def _read_concept(concept: Json) -> CodedValue:
    codings = _list(concept, "coding")
    found = _read_coding(codings[0]) if codings else CodedValue("", "", "")
    return found if found.originalText else replace(found, originalText=_text(concept, "text"))


def _read_agent(agent: Json) -> ActiveParticipant:
    roles = tuple(map(_read_concept, _list(agent, "role")))
    if "type" in agent:
        kind = _read_concept(agent["type"])
        roles = roles if kind in roles else (kind, *roles)
    network = agent.get("network") or {}
    kind_of_access = _text(network, "type")
    return ActiveParticipant(
        UserID=_read_identified(agent.get("who") or {}),
        UserIsRequestor=_flag(agent.get("requestor", False)),
        RoleIDCode=roles,
        AlternativeUserID=_text(agent, "altId"),
        UserName=_text(agent, "name"),
        NetworkAccessPointID=_text(network, "address"),
        NetworkAccessPointTypeCode=NetworkAccessPointTypeCode(int(kind_of_access)) if kind_of_access else None,
        MediaType=_read_coding(agent["media"]) if "media" in agent else None,
    )


def _read_identified(reference: Json) -> str:
    """Return the identifier of a Reference, else the reference itself, else its display."""
    identifier = reference.get("identifier") or {}
    return _text(identifier, "value") or _text(reference, "reference") or _text(reference, "display")


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _read_source(source: Json) -> AuditSourceIdentification:
    return AuditSourceIdentification(
        AuditSourceID=_read_identified(source.get("observer") or {}),
        AuditEnterpriseSiteID=_text(source, "site"),
        AuditSourceTypeCode=tuple(map(_code, _list(source, "type"))),
    )


def _read_entity(entity: Json) -> ParticipantObjectIdentification:
    what = entity.get("what") or {}
    kind = (what.get("identifier") or {}).get("type")
    query = b64decode(_text(entity, "query"), validate=True) if "query" in entity or "_query" in entity else None
    labels = (_code(each) or _text(each, "display") for each in _list(entity, "securityLabel"))
    return ParticipantObjectIdentification(
        ParticipantObjectID=_read_identified(what),
        ParticipantObjectIDTypeCode=_read_concept(kind) if kind else CodedValue("", "", ""),
        ParticipantObjectTypeCode=_read_number(entity, "type"),
        ParticipantObjectTypeCodeRole=_read_number(entity, "role"),
        ParticipantObjectDataLifeCycle=_read_number(entity, "lifecycle"),
        ParticipantObjectSensitivity=" ".join(filter(None, labels)),
        ParticipantObjectName="" if query is not None else _text(entity, "name"),
        ParticipantObjectQuery=query,
        ParticipantObjectDetail=tuple(map(_read_detail, _list(entity, "detail"))),
        ParticipantObjectDescription=_read_description(_list(entity, "extension")),
    )


def _read_number(entity: Json, name: str) -> int | None:
    """Return a code of RFC 3881; codes of other systems (BALP has some) have no number there."""
    code = _text(entity.get(name) or {}, "code")
    return int(code) if re.fullmatch(r"\d{1,3}", code, flags=re.ASCII) else None


def _read_detail(detail: Json) -> ParticipantObjectDetail:
    if "valueString" in detail:
        return ParticipantObjectDetail(_text(detail, "type"), _text(detail, "valueString").encode("utf-8"))
    return ParticipantObjectDetail(_text(detail, "type"), b64decode(_text(detail, "valueBase64Binary"), validate=True))


def _read_description(extensions: Sequence[Json]) -> ParticipantObjectDescription | None:
    found = ParticipantObjectDescription(
        MPPS=_each(extensions, "MPPS", _value),
        Accession=_each(extensions, "Accession", _value),
        SOPClass=_read_sop_classes(extensions),
        ParticipantObjectContainsStudy=_each(extensions, "ParticipantObjectContainsStudy", _value),
        Encrypted=next(iter(_each(extensions, "Encrypted", lambda each: _flag(each["valueBoolean"]))), None),
        Anonymized=next(iter(_each(extensions, "Anonymized", lambda each: _flag(each["valueBoolean"]))), None),
    )
    return None if found == ParticipantObjectDescription() else found


def _each(extensions: Sequence[Json], name: str, read: Callable[[Json], T]) -> tuple[T, ...]:
    return tuple(read(each) for each in extensions if each.get("url") == DETAIL + name)


def _value(extension: Json) -> str:
    return _text(extension["valueIdentifier"], "value")


def _read_sop_classes(extensions: Sequence[Json]) -> tuple[SOPClass, ...]:
    found: list[SOPClass] = []
    for each in extensions:
        name = str(each.get("url", "")).removeprefix(DETAIL)
        if name == "SOPClass":
            found.append(SOPClass(_read_identified(each["valueReference"]), 0))
        elif name == "NumberOfInstances":
            count = each["valueInteger"]
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError
            found = found or [SOPClass("", 0)]
            found[-1] = replace(found[-1], NumberOfInstances=count)
        elif name == "Instance":
            found = found or [SOPClass("", 0)]
            found[-1] = replace(found[-1], Instance=(*found[-1].Instance, _value(each)))
    return tuple(found)
