"""Audit messages as FHIR R4 AuditEvent and back (IHE RESTful ATNA); DICOM detail by HL7's auditevent-* extensions.

Rules of this file:
1. `from_fhir(to_fhir(message))` is the message, but for what JSON text cannot hold (control characters become U+FFFD), an empty
   object description, and the zone of the moment, which becomes UTC.
2. What FHIR has no element for (the name of a code system that is no URI, a display name beside the original text, a code with
   blanks where no code has them) travels in extensions below `fhir_terms.OWN`; readers that do not know them lose only that.
3. An element FHIR demands and the message does not have says so (data-absent-reason).
4. NumberOfInstances and Instance belong to the SOPClass before them: HL7's extensions are flat, their order is kept.

Pure data: plain dictionaries as `json` reads and writes them. NOT checked: profiles (BALP), terminology.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator

from securepacs.audit.fhir_reader import from_fhir
from securepacs.audit.fhir_terms import (
    ABSENT,
    CODE,
    DETAIL,
    DISPLAY_NAME,
    LIFE_CYCLE,
    OBJECT_ROLE,
    OBJECT_TYPE,
    ODD_CODE,
    SOURCE_TYPE,
    SYSTEM_NAME,
    SYSTEMS,
    Json,
    name_of,
    system_of,
)
from securepacs.audit.message import (
    ActiveParticipant,
    AuditMessage,
    AuditSourceIdentification,
    ParticipantObjectDescription,
    ParticipantObjectDetail,
    ParticipantObjectIdentification,
)
from securepacs.audit.xml import event_date_time
from securepacs.codes import CodedValue

__all__ = ["SYSTEMS", "Json", "from_fhir", "to_fhir"]

_STRUCTURAL_ROLES = frozenset(("110150", "110151", "110152", "110153", "110154", "110155", "110156"))
# FHIR strings hold no control characters but three; JSON text no lone surrogates
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


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
    resource["agent"] = [_agent(who) for who in message.ActiveParticipant] or [{**ABSENT, "requestor": False}]
    resource["source"] = _source(message.AuditSourceIdentification)
    _put_list(resource, "entity", map(_entity, message.ParticipantObjectIdentification))
    return resource


def _put(target: Json, name: str, text: str | None, *, required: bool = False) -> None:
    """Set a string; an empty one is left out, or marked absent when FHIR demands it."""
    if text:
        target[name] = _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text))
    elif required:
        target["_" + name] = ABSENT


def _put_list(target: Json, name: str, values: Iterator[Json] | map[Json]) -> None:
    if found := list(values):
        target[name] = found


def _coding(value: CodedValue) -> Json:
    coding: Json = {}
    extensions: list[Json] = []
    system = system_of(value.codeSystemName)
    if name_of(system) != value.codeSystemName:
        extensions.append({"url": SYSTEM_NAME})
        _put(extensions[-1], "valueString", value.codeSystemName, required=True)
    if value.displayName:
        extensions.append({"url": DISPLAY_NAME})
        _put(extensions[-1], "valueString", value.displayName)
    if extensions:
        coding["extension"] = extensions
    _put(coding, "system", system)
    _put_code(coding, value.csd_code)
    _put(coding, "display", value.originalText)
    return coding or dict(ABSENT)


def _put_code(coding: Json, code: str) -> None:
    """Set the code; one that FHIR's type does not allow travels in an extension."""
    if not code or CODE.fullmatch(code):
        _put(coding, "code", code)
    else:
        coding.setdefault("extension", []).append({"url": ODD_CODE})
        _put(coding["extension"][-1], "valueString", code)


def _concept(value: CodedValue) -> Json:
    return {"coding": [_coding(value)]}


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
    _put_list(found, "type", (_plain(code, SOURCE_TYPE if code in "123456789" else "") for code in source.AuditSourceTypeCode))
    return found


def _plain(code: object, system: str) -> Json:
    coding: Json = {}
    _put(coding, "system", system)
    _put_code(coding, str(code))
    return coding or dict(ABSENT)


def _entity(what: ParticipantObjectIdentification) -> Json:
    entity: Json = {}
    _put_list(entity, "extension", _description(what.ParticipantObjectDescription))
    reference = _identified(what.ParticipantObjectID)
    reference["identifier"]["type"] = _concept(what.ParticipantObjectIDTypeCode)
    entity["what"] = reference
    for name, code, system in (
        ("type", what.ParticipantObjectTypeCode, OBJECT_TYPE),
        ("role", what.ParticipantObjectTypeCodeRole, OBJECT_ROLE),
        ("lifecycle", what.ParticipantObjectDataLifeCycle, LIFE_CYCLE),
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
        yield from ({"url": DETAIL + name, "valueIdentifier": _identified(value)["identifier"]} for value in values)
    for sop_class in description.SOPClass:
        yield {"url": DETAIL + "SOPClass", "valueReference": _identified(sop_class.UID)}
        yield {"url": DETAIL + "NumberOfInstances", "valueInteger": sop_class.NumberOfInstances}
        for uid in sop_class.Instance:
            yield {"url": DETAIL + "Instance", "valueIdentifier": _identified(uid)["identifier"]}
    for name, flag in (("Encrypted", description.Encrypted), ("Anonymized", description.Anonymized)):
        if flag is not None:
            yield {"url": DETAIL + name, "valueBoolean": flag}


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")
