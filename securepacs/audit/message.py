"""The audit message of PS3.15 A.5.1 as immutable data; names are the standard's.

Nothing here checks cardinalities: `events` builds only conformant messages, `xml` refuses to write others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Protocol

from securepacs.codes import CodedValue


class EventActionCode(StrEnum):
    """What was done (RFC 3881 5.1.2)."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class EventOutcomeIndicator(IntEnum):
    """How it ended (PS3.15 A.5.2)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


class NetworkAccessPointTypeCode(IntEnum):
    """What NetworkAccessPointID holds."""

    MACHINE_NAME = 1
    IP_ADDRESS = 2
    TELEPHONE_NUMBER = 3
    EMAIL_ADDRESS = 4
    URI = 5


@dataclass(frozen=True, slots=True)
class EventIdentification:
    """What happened, when and how it ended. `EventDateTime` must carry a zone."""

    EventID: CodedValue
    EventDateTime: datetime
    EventActionCode: EventActionCode | None = None
    EventOutcomeIndicator: EventOutcomeIndicator = EventOutcomeIndicator.SUCCESS
    EventTypeCode: tuple[CodedValue, ...] = ()
    EventOutcomeDescription: str = ""
    PurposeOfUse: tuple[CodedValue, ...] = ()


@dataclass(frozen=True, slots=True)
class ActiveParticipant:
    """A person, process, node or medium that took part. At most one of a message is the requestor."""

    UserID: str
    UserIsRequestor: bool = False
    RoleIDCode: tuple[CodedValue, ...] = ()
    AlternativeUserID: str = ""
    UserName: str = ""
    NetworkAccessPointID: str = ""
    NetworkAccessPointTypeCode: NetworkAccessPointTypeCode | None = None
    MediaType: CodedValue | None = None


@dataclass(frozen=True, slots=True)
class AuditSourceIdentification:
    """Who reports. `AuditSourceTypeCode` uses 1-9 of RFC 3881 5.4.3 as text."""

    AuditSourceID: str
    AuditEnterpriseSiteID: str = ""
    AuditSourceTypeCode: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParticipantObjectDetail:
    """A typed value; written as base64 so that hostile bytes survive unharmed."""

    type: str
    value: bytes


@dataclass(frozen=True, slots=True)
class SOPClass:
    """Instances of one SOP Class touched by the event; `Instance` UIDs are normally left out."""

    UID: str
    NumberOfInstances: int
    Instance: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParticipantObjectDescription:
    """DICOM detail of a study object."""

    MPPS: tuple[str, ...] = ()
    Accession: tuple[str, ...] = ()
    SOPClass: tuple[SOPClass, ...] = ()
    ParticipantObjectContainsStudy: tuple[str, ...] = ()
    Encrypted: bool | None = None
    Anonymized: bool | None = None


@dataclass(frozen=True, slots=True)
class ParticipantObjectIdentification:
    """What was touched. Exactly one of Name and Query is written; a message without either writes the ID as name."""

    ParticipantObjectID: str
    ParticipantObjectIDTypeCode: CodedValue
    ParticipantObjectTypeCode: int | None = None
    ParticipantObjectTypeCodeRole: int | None = None
    ParticipantObjectDataLifeCycle: int | None = None
    ParticipantObjectSensitivity: str = ""
    ParticipantObjectName: str = ""
    ParticipantObjectQuery: bytes | None = None
    ParticipantObjectDetail: tuple[ParticipantObjectDetail, ...] = ()
    ParticipantObjectDescription: ParticipantObjectDescription | None = None


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One audit record (PS3.15 A.5.1)."""

    EventIdentification: EventIdentification
    ActiveParticipant: tuple[ActiveParticipant, ...]
    AuditSourceIdentification: AuditSourceIdentification
    ParticipantObjectIdentification: tuple[ParticipantObjectIdentification, ...] = ()


class AuditSink(Protocol):
    """Where audit messages go: a spool, a syslog destination, a repository."""

    def emit(self, message: AuditMessage) -> None:
        """Return when the record is durable; raise Unavailable when it cannot be made so."""
        ...
