"""What the repository keeps beside the octets of a record: who sent it, what it says, and the terms it is found by."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from securepacs.audit.framing import Frame
from securepacs.audit.grading import Verdict, grade
from securepacs.audit.message import ActiveParticipant, AuditMessage, ParticipantObjectIdentification
from securepacs.codes import PATIENT_NUMBER_TYPE, STUDY_INSTANCE_UID_TYPE

SEARCHABLE_LENGTH = 65_536  # characters of a record that a text search looks at
TERM_LENGTH = 512
_FIRST_YEAR, _LAST_YEAR = 1900, 9000
_PATIENT, _PERSON = 1, 1  # ParticipantObjectTypeCodeRole, ParticipantObjectTypeCode
_logger = logging.getLogger(__name__)


class TermKind(StrEnum):
    """What a term of the index is."""

    TYPE = "type"
    USER = "user"
    PATIENT = "patient"
    STUDY = "study"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A record as it arrived. `length` and `sha256` are those of the whole frame; `raw` is its head when `truncated`.

    `peer_subject` is an RFC 4514 name and `peer_sha256` the hex digest of the certificate the sender authenticated with.
    """

    raw: bytes
    received: datetime
    transport: str
    length: int
    sha256: str
    truncated: bool = False
    peer_address: str = ""
    peer_subject: str = ""
    peer_sha256: str = ""

    @classmethod
    def of(cls, raw: bytes, *, received: datetime, transport: str) -> Receipt:
        """Return the receipt of a record that is complete and came from no network peer."""
        return cls(raw, received, transport, len(raw), sha256(raw).hexdigest())

    @classmethod
    def of_frame(
        cls, frame: Frame, *, received: datetime, transport: str, peer_address: str, peer_subject: str, peer_sha256: str
    ) -> Receipt:
        """Return the receipt of a frame from a network peer."""
        digest = frame.sha256.hex()
        return cls(
            frame.data, received, transport, frame.length, digest, frame.truncated, peer_address, peer_subject, peer_sha256
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """The index of one record."""

    receipt: Receipt
    verdict: str
    dialect: str
    moment: datetime
    event_code: str = ""
    event_name: str = ""
    action: str = ""
    outcome: int | None = None
    source_id: str = ""
    site_id: str = ""
    requestor: str = ""
    description: str = ""
    searchable: str = ""
    terms: frozenset[tuple[TermKind, str]] = frozenset()


def index(receipt: Receipt) -> Entry:
    """Read a record and return what it is found by. Never fails: what cannot be read is indexed by its text."""
    try:
        graded = grade(receipt.raw)
        if graded.message is None:
            text = graded.record.msg if graded.record else receipt.raw
            return _unparsed(receipt, graded.dialect, text)
        return _entry(receipt, graded.verdict, graded.dialect, graded.message)
    except Exception as error:  # a fault of ours must never cost the record itself; its text may name patients
        _logger.error("audit repository: a record could not be indexed (%s)", type(error).__name__)
        return _unparsed(receipt, "", receipt.raw)


def _unparsed(receipt: Receipt, dialect: str, text: bytes) -> Entry:
    searchable = storable(text[: 4 * SEARCHABLE_LENGTH].decode("utf-8", errors="replace")).casefold()[:SEARCHABLE_LENGTH]
    return Entry(receipt, Verdict.UNPARSED.value, dialect, receipt.received, searchable=searchable)


def _entry(receipt: Receipt, verdict: Verdict, dialect: str, message: AuditMessage) -> Entry:
    event, source = message.EventIdentification, message.AuditSourceIdentification
    return Entry(
        receipt=receipt,
        verdict=verdict.value,
        dialect=dialect,
        moment=_moment(event.EventDateTime, receipt.received),
        event_code=event.EventID.csd_code,
        event_name=event.EventID.originalText,
        action=event.EventActionCode or "",
        outcome=int(event.EventOutcomeIndicator),
        source_id=source.AuditSourceID,
        site_id=source.AuditEnterpriseSiteID,
        requestor=_requestor(message.ActiveParticipant),
        description=_description(message),
        searchable=storable("\n".join(filter(None, _texts(message)))).casefold()[:SEARCHABLE_LENGTH],
        terms=frozenset((kind, term(value)) for kind, value in _terms(message) if value.strip()),
    )


def storable(text: str) -> str:
    """Return text that every database takes."""
    return text.replace("\0", "�")


def term(value: str) -> str:
    """Return the form in which terms are indexed: without outer spaces, and as long as an index takes."""
    return storable(value.strip())[:TERM_LENGTH]


def user_term(user: str) -> str:
    """Return the form in which users are indexed: letter case does not count."""
    return term(user.casefold())


def _moment(at: datetime, received: datetime) -> datetime:
    """Return the moment a record is found by; years nobody can mean would not sort, or not convert to UTC."""
    return at if _FIRST_YEAR <= at.year <= _LAST_YEAR else received


def _requestor(people: tuple[ActiveParticipant, ...]) -> str:
    chosen = next((who for who in people if who.UserIsRequestor), people[0] if people else None)
    return chosen.UserID if chosen else ""


def _description(message: AuditMessage) -> str:
    event = message.EventIdentification
    parts = [code.originalText or code.csd_code for code in event.EventTypeCode]
    parts.append(event.EventOutcomeDescription)
    parts.extend(
        detail.value.decode("utf-8", errors="replace")
        for each in message.ParticipantObjectIdentification
        for detail in each.ParticipantObjectDetail
        if detail.type == "Alert Description"
    )
    return storable(": ".join(filter(None, parts)))


def _terms(message: AuditMessage) -> Iterator[tuple[TermKind, str]]:
    for code in message.EventIdentification.EventTypeCode:
        yield TermKind.TYPE, code.csd_code
    for who in message.ActiveParticipant:
        for user in (who.UserID, who.AlternativeUserID, who.UserName):
            yield TermKind.USER, user_term(user)
    for what in message.ParticipantObjectIdentification:
        if _is_patient(what):
            yield TermKind.PATIENT, what.ParticipantObjectID
            yield TermKind.PATIENT, what.ParticipantObjectID.partition("^")[0]  # HL7 CX: the number without its issuer
        if what.ParticipantObjectIDTypeCode.csd_code == STUDY_INSTANCE_UID_TYPE.csd_code:
            yield TermKind.STUDY, what.ParticipantObjectID
        if what.ParticipantObjectDescription is not None:
            for study in what.ParticipantObjectDescription.ParticipantObjectContainsStudy:
                yield TermKind.STUDY, study


def _is_patient(what: ParticipantObjectIdentification) -> bool:
    if (what.ParticipantObjectTypeCode, what.ParticipantObjectTypeCodeRole) == (_PERSON, _PATIENT):
        return True
    kind = what.ParticipantObjectIDTypeCode
    return (kind.csd_code, kind.codeSystemName) == (PATIENT_NUMBER_TYPE.csd_code, PATIENT_NUMBER_TYPE.codeSystemName)


def _texts(message: AuditMessage) -> Iterator[str]:
    """Yield everything a person might look for."""
    event, source = message.EventIdentification, message.AuditSourceIdentification
    yield event.EventID.originalText
    yield from (code.originalText for code in event.EventTypeCode)
    yield event.EventOutcomeDescription
    for who in message.ActiveParticipant:
        yield from (who.UserID, who.AlternativeUserID, who.UserName, who.NetworkAccessPointID)
    yield from (source.AuditSourceID, source.AuditEnterpriseSiteID)
    for what in message.ParticipantObjectIdentification:
        yield from (what.ParticipantObjectID, what.ParticipantObjectName)
        yield from (text for detail in what.ParticipantObjectDetail for text in (detail.type, _readable(detail.value)))
        if what.ParticipantObjectDescription is not None:
            yield from what.ParticipantObjectDescription.Accession


def _readable(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return ""
