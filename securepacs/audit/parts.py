"""The participants and objects that audit events are made of, and the checks the tables of PS3.15 A.5.3 ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from securepacs import codes
from securepacs.audit.message import (
    ActiveParticipant,
    EventActionCode,
    NetworkAccessPointTypeCode,
    ParticipantObjectDescription,
    ParticipantObjectDetail,
    ParticipantObjectIdentification,
    SOPClass,
)
from securepacs.codes import CodedValue
from securepacs.errors import UsageError

UNKNOWN = "unknown"
CERTIFICATE_SERIAL = "certificate-serial-"
PERSON, SYSTEM_OBJECT = 1, 2  # ParticipantObjectTypeCode
PATIENT, REPORT, MASTER_FILE, SECURITY_RESOURCE = 1, 3, 5, 13  # ParticipantObjectTypeCodeRole


@dataclass(frozen=True, slots=True)
class StudyObject:
    """A study that was touched: `SOPClass` maps SOP Class UID to number of instances, `Instance` the same to instance UIDs.

    Instance UIDs are normally left out, they make messages large (A.5.2). Accession, MPPS, Instance, Encrypted and Anonymized
    need at least one SOPClass.
    """

    StudyInstanceUID: str
    SOPClass: Mapping[str, int] = field(default_factory=dict)
    Accession: tuple[str, ...] = ()
    MPPS: tuple[str, ...] = ()
    Instance: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    Encrypted: bool | None = None
    Anonymized: bool | None = None


@dataclass(frozen=True, slots=True)
class PatientObject:
    """The patient concerned. `PatientID` is HL7 CX in IHE (`id^^^&oid&ISO`); an empty one is written as `unknown`."""

    PatientID: str
    name: str = ""


def participant(
    user_id: str,
    *,
    requestor: bool = False,
    roles: Sequence[CodedValue] = (),
    name: str = "",
    alternative: str = "",
    host: str = "",
) -> ActiveParticipant:
    """Describe a person, process or node; `host` is an IP address or a machine name and sets the type code (A.5.2.5)."""
    return ActiveParticipant(
        UserID=user_id,
        UserIsRequestor=requestor,
        RoleIDCode=tuple(roles),
        UserName=name,
        AlternativeUserID=alternative,
        NetworkAccessPointID=host,
        NetworkAccessPointTypeCode=_access_point_type(host),
    )


def media_participant(
    user_id: str, *, media_type: CodedValue | None = None, alternative: str = "", host: str = ""
) -> ActiveParticipant:
    """Describe media of an export or import: `user_id` a URI or the label, `alternative` the serial number or volume label."""
    return replace(participant(user_id, alternative=alternative, host=host), MediaType=media_type)


def ae_titles(*titles: str) -> str:
    """Return the AlternativeUserID of a DICOM application (A.5.2.2): `AETITLES=ae1;ae2`."""
    return "AETITLES=" + ";".join(titles)


def certificate_role(serial: str) -> CodedValue:
    """Return the RoleIDCode that names the certificate a participant authenticated with: its serial number, hexadecimal.

    The grammar of A.5.1 has no other place for it; the scheme is the product's own.
    """
    digits = serial_number(serial)
    return CodedValue(f"{CERTIFICATE_SERIAL}{digits}", "99SECUREPACS", f"certificate serial number {digits}")


def serial_number(text: str) -> str:
    """Return a serial number in the form it is recorded in: hexadecimal, lower case, no colons, no leading zeros.

    Raises UsageError for what is none.
    """
    digits = text.strip().replace(":", "").lower().removeprefix("0x").lstrip("0")
    if not re.fullmatch("[0-9a-f]{1,64}", digits):
        raise UsageError("a serial number is written in hexadecimal", hint="openssl x509 -in CERT -noout -serial prints it")
    return digits


def touched(
    studies: Sequence[StudyObject], patients: Sequence[PatientObject], *, studies_needed: bool = False
) -> tuple[ParticipantObjectIdentification, ...]:
    """Build the study and patient objects of an event; every such event names at least one patient."""
    between(studies, 1 if studies_needed else 0, None, "studies")
    between(patients, 1, None, "patients")
    return (*map(study_object, studies), *map(patient_object, patients))


def study_object(study: StudyObject) -> ParticipantObjectIdentification:
    """Build the study object of the tables of A.5.3."""
    if unknown := set(study.Instance).difference(study.SOPClass):
        raise UsageError(f"Instance names SOP Classes that SOPClass does not: {sorted(unknown)}", standard="PS3.15 A.5.3")
    description = ParticipantObjectDescription(
        MPPS=study.MPPS,
        Accession=study.Accession,
        SOPClass=tuple(SOPClass(uid, count, tuple(study.Instance.get(uid, ()))) for uid, count in study.SOPClass.items()),
        Encrypted=study.Encrypted,
        Anonymized=study.Anonymized,
    )
    has_description = description != ParticipantObjectDescription()
    if has_description and not description.SOPClass:
        raise UsageError("a study object with a description needs a SOPClass", standard="PS3.15 A.5.3")
    return ParticipantObjectIdentification(
        ParticipantObjectID=filled(study.StudyInstanceUID, "StudyInstanceUID"),
        ParticipantObjectIDTypeCode=codes.STUDY_INSTANCE_UID_TYPE,
        ParticipantObjectTypeCode=SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=REPORT,
        ParticipantObjectName=study.StudyInstanceUID,
        ParticipantObjectDescription=description if has_description else None,
    )


def patient_object(patient: PatientObject) -> ParticipantObjectIdentification:
    """Build the patient object of the tables of A.5.3."""
    identity = patient.PatientID or UNKNOWN
    return ParticipantObjectIdentification(
        ParticipantObjectID=identity,
        ParticipantObjectIDTypeCode=codes.PATIENT_NUMBER_TYPE,
        ParticipantObjectTypeCode=PERSON,
        ParticipantObjectTypeCodeRole=PATIENT,
        ParticipantObjectName=patient.name or identity,
    )


def query_object(sop_class_uid: str, identifier: bytes, transfer_syntax: str) -> ParticipantObjectIdentification:
    """Build the object of a DICOM Query; the transfer syntax is what makes the identifier readable."""
    detail = ParticipantObjectDetail("TransferSyntax", filled(transfer_syntax, "transfer_syntax").encode())
    return ParticipantObjectIdentification(
        ParticipantObjectID=filled(sop_class_uid, "sop_class_uid"),
        ParticipantObjectIDTypeCode=codes.SOP_CLASS_UID_TYPE,
        ParticipantObjectTypeCode=SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=REPORT,
        ParticipantObjectQuery=identifier,
        ParticipantObjectDetail=(detail,),
    )


def log_object(uri: str, details: Mapping[str, bytes]) -> ParticipantObjectIdentification:
    """Build the object of Audit Log Used: the trail itself."""
    return ParticipantObjectIdentification(
        ParticipantObjectID=filled(uri, "log_uri"),
        ParticipantObjectIDTypeCode=codes.URI_TYPE,
        ParticipantObjectTypeCode=SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=SECURITY_RESOURCE,
        ParticipantObjectName="Security Audit Log",
        ParticipantObjectDetail=tuple(ParticipantObjectDetail(kind, value) for kind, value in details.items()),
    )


def alert_objects(node_id: str, uri: str, alert_description: str) -> tuple[ParticipantObjectIdentification, ...]:
    """Build the objects of a Security Alert: the node and/or the URI concerned."""
    detail = (ParticipantObjectDetail("Alert Description", alert_description.encode()),)
    return tuple(
        ParticipantObjectIdentification(
            ParticipantObjectID=identity,
            ParticipantObjectIDTypeCode=kind,
            ParticipantObjectTypeCode=SYSTEM_OBJECT,
            ParticipantObjectTypeCodeRole=role,
            ParticipantObjectName=identity,
            ParticipantObjectDetail=detail,
        )
        for identity, kind, role in (
            (node_id, codes.NODE_ID_TYPE, MASTER_FILE),
            (uri, codes.URI_TYPE, SECURITY_RESOURCE),
        )
        if identity
    )


def transfer_parties(
    sender: ActiveParticipant, receiver: ActiveParticipant, others: Iterable[ActiveParticipant]
) -> tuple[ActiveParticipant, ...]:
    """Give the two ends of a transfer their roles; `others` are usually third-party requestors."""
    return (with_role(sender, codes.SOURCE_ROLE_ID), with_role(receiver, codes.DESTINATION_ROLE_ID), *others)


def with_role(who: ActiveParticipant, role: CodedValue) -> ActiveParticipant:
    """Return `who` with `role` first, unless it has it already."""
    if any((own.csd_code, own.codeSystemName) == (role.csd_code, role.codeSystemName) for own in who.RoleIDCode):
        return who
    return replace(who, RoleIDCode=(role, *who.RoleIDCode))


def with_roles(people: Iterable[ActiveParticipant], role: CodedValue) -> tuple[ActiveParticipant, ...]:
    """Do the same for each of `people`."""
    return tuple(with_role(who, role) for who in people)


def _access_point_type(host: str) -> NetworkAccessPointTypeCode | None:
    if not host:
        return None
    try:
        ip_address(host)
    except ValueError:
        return NetworkAccessPointTypeCode.MACHINE_NAME
    return NetworkAccessPointTypeCode.IP_ADDRESS


def not_requestor(people: Iterable[ActiveParticipant], what: str) -> None:
    """Refuse when one of `people` is the requestor."""
    if any(who.UserIsRequestor for who in people):
        raise UsageError(f"{what} must not be the requestor", standard="PS3.15 A.5.3")


def exactly_one_requestor(people: Iterable[ActiveParticipant], event: str) -> None:
    """Refuse unless exactly one of `people` is the requestor."""
    if sum(who.UserIsRequestor for who in people) != 1:
        raise UsageError(f"exactly one person or process requests an {event}", standard="PS3.15 A.5.3")


def between(items: Sequence[object], least: int, most: int | None, name: str) -> None:
    """Refuse a wrong number of `items`; `most` of None is no limit."""
    if len(items) < least or (most is not None and len(items) > most):
        raise UsageError(f"{name}: {least}..{'n' if most is None else most} needed, {len(items)} given", standard="PS3.15 A.5.3")


def one_of(action: EventActionCode, allowed: frozenset[EventActionCode]) -> EventActionCode:
    """Return `action` when the table of the event allows it."""
    if action not in allowed:
        raise UsageError(f"EventActionCode {action} is not one of {', '.join(sorted(allowed))}", standard="PS3.15 A.5.3")
    return action


def filled(text: str, name: str) -> str:
    """Return `text` when it says something."""
    if not text.strip():
        raise UsageError(f"{name} must not be empty", standard="PS3.15 A.5.2")
    return text
