"""The names FHIR R4 and DICOM have for the same things: extensions and code systems of AuditEvent. Data, and how to look it up."""

from __future__ import annotations

import re
from typing import Any

Json = dict[str, Any]

OWN = "urn:oid:2.25.252195542144090017468305617677953144914"
HL7 = "http://hl7.org/fhir/StructureDefinition/"
DETAIL = HL7 + "auditevent-"  # of DICOM objects
ABSENT: Json = {"extension": [{"url": HL7 + "data-absent-reason", "valueCode": "unknown"}]}
SYSTEM_NAME, DISPLAY_NAME, ODD_CODE = OWN + ".1", OWN + ".2", OWN + ".3"
CODE = re.compile(r"[^\s]+(?: [^\s]+)*")  # the primitive type: no blanks at the ends, no two together
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
SOURCE_TYPE, OBJECT_TYPE = _TERMINOLOGY + "security-source-type", _TERMINOLOGY + "audit-entity-type"
OBJECT_ROLE, LIFE_CYCLE = _TERMINOLOGY + "object-role", _TERMINOLOGY + "dicom-audit-lifecycle"
SYSTEMS = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "RFC-3881": "urn:ietf:rfc:3881",
    "IHE Transactions": "urn:ihe:event-type-code",
    "IHE XDS Metadata": "urn:oid:1.3.6.1.4.1.19376.1.2.6",
    "SCT": "http://snomed.info/sct",
    "SNOMED-CT": "http://snomed.info/sct",
}
_NAMES = {system: name for name, system in reversed(SYSTEMS.items())}
_OID = re.compile(r"[0-2](?:\.\d+)+", flags=re.ASCII)


def system_of(name: str) -> str:
    """Return the URI of a code system; empty when its name is no OID, no URI and none of the known ones."""
    if name in SYSTEMS:
        return SYSTEMS[name]
    if _OID.fullmatch(name):
        return f"urn:oid:{name}"
    return name if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", name) else ""


def name_of(system: str) -> str:
    """Return the name of a code system as DICOM writes it; the URI itself when it has none."""
    if system in _NAMES:
        return _NAMES[system]
    found = system.removeprefix("urn:oid:")
    return found if _OID.fullmatch(found) else system
