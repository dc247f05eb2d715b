"""Audit messages as FHIR R4 AuditEvent and back (IHE RESTful ATNA); DICOM detail by HL7's auditevent-* extensions.

Rules of this file:
1. `from_fhir(to_fhir(message))` is the message, but for what JSON text cannot hold (control characters become U+FFFD), an empty
   object description, and the zone of the moment, which becomes UTC.
2. What FHIR has no element for (the name of a code system that is no URI, a display name beside the original text) travels in
   extensions below `OWN`; readers that do not know them lose only that.
3. An element FHIR demands and the message does not have says so (data-absent-reason).
4. NumberOfInstances and Instance belong to the SOPClass before them: HL7's extensions are flat, their order is kept.

Pure data: plain dictionaries as `json` reads and writes them. NOT checked: profiles (BALP), terminology.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

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
from securepacs.audit.xml import event_date_time
from securepacs.codes import CodedValue
from securepacs.errors import MalformedError

Json = dict[str, Any]
T = TypeVar("T")

OWN = "urn:oid:2.25.252195542144090017468305617677953144914"
HL7 = "http://hl7.org/fhir/StructureDefinition/"
_DETAIL = HL7 + "auditevent-"
_ABSENT = {"extension": [{"url": HL7 + "data-absent-reason", "valueCode": "unknown"}]}
_SYSTEM_NAME, _DISPLAY_NAME = OWN + ".1", OWN + ".2"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
_SOURCE_TYPE, _OBJECT_TYPE = _TERMINOLOGY + "security-source-type", _TERMINOLOGY + "audit-entity-type"
_OBJECT_ROLE, _LIFE_CYCLE = _TERMINOLOGY + "object-role", _TERMINOLOGY + "dicom-audit-lifecycle"
SYSTEMS = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "RFC-3881": "urn:ietf:rfc:3881",
    "IHE Transactions": "urn:ihe:event-type-code",
    "IHE XDS Metadata": "urn:oid:1.3.6.1.4.1.19376.1.2.6",
    "SCT": "http://snomed.info/sct",
    "SNOMED-CT": "http://snomed.info/sct",
}
_NAMES = {system: name for name, system in reversed(SYSTEMS.items())}
_STRUCTURAL_ROLES = frozenset(("110150", "110151", "110152", "110153", "110154", "110155", "110156"))
# FHIR strings hold no control characters but these three; JSON text no lone surrogates
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


# --- to FHIR ----------------------------------------------------------------------------------------------------------
def to_fhir(message: AuditMessage, *, resource_id: str = "") -> Json:
    """Return the message as an AuditEvent resource (R4); `resource_id` is its logical id on a server."""
    event = message.EventIdentification
    resource: Json = {"resourceType": "AuditEvent"}
    _put(resource, "id", resource_id)
    resource["type"] = _coding(event.EventID)
    _put_list(resource, "subtype", map(_coding, event.EventTypeCode))
    _put(resource, "action", event.EventActionCode)
    resource["recorded"] = event_date_time(event.EventDateTime)
    resource["outcome"] = str(int(event.EventOutcomeIndicator))
    _put(resource, "outcomeDesc", event.EventOutcomeDescription)
    _put_list(resource, "purposeOfEvent", map(_concept, event.PurposeOfUse))
    resource["agent"] = [_agent(who) for who in message.ActiveParticipant] or [{**_ABSENT, "requestor": False}]
    resource["source"] = _source(message.AuditSourceIdentification)
    _put_list(resource, "entity", map(_entity, message.ParticipantObjectIdentification))
    return resource


def _put(target: Json, name: str, text: str | None, *, required: bool = False) -> None:
    """Set a string; an empty one is left out, or marked absent when FHIR demands it."""
    if text:
        target[name] = _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text))
    elif required:
        target["_" + name] = _ABSENT


def _put_list(target: Json, name: str, values: Iterator[Json] | map[Json]) -> None:
    if found := list(values):
        target[name] = found


def _coding(value: CodedValue) -> Json:
    coding: Json = {}
    extensions: list[Json] = []
    system = _system(value.codeSystemName)
    if _name(system) != value.codeSystemName:
        extensions.append({"url": _SYSTEM_NAME})
        _put(extensions[-1], "valueString", value.codeSystemName, required=True)
    if value.displayName:
        extensions.append({"url": _DISPLAY_NAME})
        _put(extensions[-1], "valueString", value.displayName)
    if extensions:
        coding["extension"] = extensions
    _put(coding, "system", system)
    _put(coding, "code", value.csd_code)
    _put(coding, "display", value.originalText)
    return coding or dict(_ABSENT)


def _concept(value: CodedValue) -> Json:
    return {"coding": [_coding(value)]}


def _system(name: str) -> str:
    """Return the URI of a code system; empty when its name is no OID, no URI and none of the known ones."""
    if name in SYSTEMS:
        return SYSTEMS[name]
    if re.fullmatch(r"[0-2](?:\.\d+)+", name, flags=re.ASCII):
        return f"urn:oid:{name}"
    return name if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", name) else ""


def _name(system: str) -> str:
    if system in _NAMES:
        return _NAMES[system]
    found = system.removeprefix("urn:oid:")
    return found if re.fullmatch(r"[0-2](?:\.\d+)+", found, flags=re.ASCII) else system


def _agent(who: ActiveParticipant) -> Json:
    agent: Json = {}
    kind = next((role for role in who.RoleIDCode if (role.csd_code in _STRUCTURAL_ROLES and role.codeSystemName == "DCM")), None)
    others = who.RoleIDCode
    if kind is not None:
        agent["type"] = _concept(kind)
        if others[0] == kind and kind not in others[1:]:  # else all of them stay in `role`, so that their order is known
            others = others[1:]
    _put_list(agent, "role", map(_concept, others))
    if who.UserID:
        agent["who"] = _identified(who.UserID)
    _put(agent, "altId", who.AlternativeUserID)
    _put(agent, "name", who.UserName)
    agent["requestor"] = who.UserIsRequestor
    if who.MediaType is not None:
        agent["media"] = _coding(who.MediaType)
    network: Json = {}
    _put(network, "address", who.NetworkAccessPointID)
    if who.NetworkAccessPointTypeCode is not None:
        network["type"] = str(int(who.NetworkAccessPointTypeCode))
    if network:
        agent["network"] = network
    return agent


def _identified(value: str) -> Json:
    identifier: Json = {}
    _put(identifier, "value", value, required=True)
    return {"identifier": identifier}


def _source(source: AuditSourceIdentification) -> Json:
    found: Json = {}
    _put(found, "site", source.AuditEnterpriseSiteID)
    found["observer"] = _identified(source.AuditSourceID)
    _put_list(found, "type", (_plain(code, _SOURCE_TYPE if code in "123456789" else "") for code in source.AuditSourceTypeCode))
    return found


def _plain(code: object, system: str) -> Json:
    coding: Json = {}
    _put(coding, "system", system)
    _put(coding, "code", str(code), required=True)
    return coding


def _entity(what: ParticipantObjectIdentification) -> Json:
    entity: Json = {}
    _put_list(entity, "extension", _description(what.ParticipantObjectDescription))
    reference = _identified(what.ParticipantObjectID)
    reference["identifier"]["type"] = _concept(what.ParticipantObjectIDTypeCode)
    entity["what"] = reference
    for name, code, system in (
        ("type", what.ParticipantObjectTypeCode, _OBJECT_TYPE),
        ("role", what.ParticipantObjectTypeCodeRole, _OBJECT_ROLE),
        ("lifecycle", what.ParticipantObjectDataLifeCycle, _LIFE_CYCLE),
    ):
        if code is not None:
            entity[name] = _plain(code, system)
    if what.ParticipantObjectSensitivity:
        entity["securityLabel"] = [_plain(what.ParticipantObjectSensitivity, "")]
    if what.ParticipantObjectQuery is not None:  # sev-1: name or query, not both
        _put(entity, "query", _base64(what.ParticipantObjectQuery), required=True)
    else:
        _put(entity, "name", what.ParticipantObjectName)
    _put_list(entity, "detail", map(_detail, what.ParticipantObjectDetail))
    return entity


def _detail(detail: ParticipantObjectDetail) -> Json:
    found: Json = {}
    _put(found, "type", detail.type, required=True)
    _put(found, "valueBase64Binary", _base64(detail.value), required=True)
    return found


def _description(description: ParticipantObjectDescription | None) -> Iterator[Json]:
    if description is None:
        return
    for name, values in (
        ("MPPS", description.MPPS),
        ("Accession", description.Accession),
        ("ParticipantObjectContainsStudy", description.ParticipantObjectContainsStudy),
    ):
        yield from ({"url": _DETAIL + name, "valueIdentifier": _identified(value)["identifier"]} for value in values)
    for sop_class in description.SOPClass:
        yield {"url": _DETAIL + "SOPClass", "valueReference": _identified(sop_class.UID)}
        yield {"url": _DETAIL + "NumberOfInstances", "valueInteger": sop_class.NumberOfInstances}
        for uid in sop_class.Instance:
            yield {"url": _DETAIL + "Instance", "valueIdentifier": _identified(uid)["identifier"]}
    for name, flag in (("Encrypted", description.Encrypted), ("Anonymized", description.Anonymized)):
        if flag is not None:
            yield {"url": _DETAIL + name, "valueBoolean": flag}


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")


# --- from FHIR --------------------------------------------------------------------------------------------------------
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
    system = named[_SYSTEM_NAME] if _SYSTEM_NAME in named else _name(_text(coding, "system"))
    return CodedValue(_text(coding, "code"), system, _text(coding, "display"), named.get(_DISPLAY_NAME, ""))


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
        AuditSourceTypeCode=tuple(_text(each, "code") for each in _list(source, "type")),
    )


def _read_entity(entity: Json) -> ParticipantObjectIdentification:
    what = entity.get("what") or {}
    kind = (what.get("identifier") or {}).get("type")
    query = b64decode(_text(entity, "query"), validate=True) if "query" in entity or "_query" in entity else None
    labels = (_text(each, "code") or _text(each, "display") for each in _list(entity, "securityLabel"))
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
    return tuple(read(each) for each in extensions if each.get("url") == _DETAIL + name)


def _value(extension: Json) -> str:
    return _text(extension["valueIdentifier"], "value")


def _read_sop_classes(extensions: Sequence[Json]) -> tuple[SOPClass, ...]:
    found: list[SOPClass] = []
    for each in extensions:
        name = str(each.get("url", "")).removeprefix(_DETAIL)
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
