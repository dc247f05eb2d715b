"""What a report wants to know of one message: who, with which role, from where, to whom, and why."""

from __future__ import annotations

from dataclasses import dataclass

from securepacs import codes
from securepacs.audit.message import ActiveParticipant, AuditMessage
from securepacs.audit.parts import CERTIFICATE_SERIAL
from securepacs.audit.reader import read
from securepacs.audit.syslog import parse_record

_RECEIVING = frozenset((codes.DESTINATION_ROLE_ID.csd_code, codes.DESTINATION_MEDIA.csd_code))
_STRUCTURAL = frozenset((*_RECEIVING, "110150", "110151", "110153", "110155", "110156", "125676002"))


@dataclass(frozen=True, slots=True)
class Seen:
    """One message, as a person reads it. Empty text for what it does not say."""

    who: str
    name: str
    role: str
    where: str
    to_whom: str
    purpose: str


def message_of(raw: bytes) -> AuditMessage | None:
    """Read a stored record tolerantly; None when it is no audit message, or erased."""
    return read(parse_record(raw).msg).message if raw else None


def seen(message: AuditMessage) -> Seen:
    """Return what a message says of the acting person or machine: the requestor, else the first participant."""
    acting = actor(message)
    receiving = [each for each in message.ActiveParticipant if each is not acting and is_receiver(each)]
    roles = (role.originalText or role.csd_code for role in acting.RoleIDCode if not _is_technical(role))
    return Seen(
        who=acting.UserID,
        name=acting.UserName,
        role=", ".join(roles),
        where=acting.NetworkAccessPointID,
        to_whom=", ".join(each.UserName or each.UserID for each in receiving),
        purpose=", ".join(each.originalText or each.csd_code for each in message.EventIdentification.PurposeOfUse),
    )


def actor(message: AuditMessage) -> ActiveParticipant:
    """Return the requestor, else the first participant; the tolerant reader lets no message without participants through."""
    people = message.ActiveParticipant or (ActiveParticipant(""),)
    return next((each for each in people if each.UserIsRequestor), people[0])


def is_receiver(who: ActiveParticipant) -> bool:
    """Tell whether a participant is where data went."""
    return any(role.csd_code in _RECEIVING for role in who.RoleIDCode)


def ae_titles_of(who: ActiveParticipant) -> tuple[str, ...]:
    """Return the AE titles of a participant (A.5.2.2)."""
    _, separator, titles = who.AlternativeUserID.partition("AETITLES=")
    return tuple(title.strip() for title in titles.split(";")) if separator else ()


def serials_of(who: ActiveParticipant) -> tuple[str, ...]:
    """Return the serial numbers of the certificate a participant authenticated with, as the gateway records them."""
    marks = (role.csd_code for role in who.RoleIDCode if role.csd_code.startswith(CERTIFICATE_SERIAL))
    return tuple(mark.removeprefix(CERTIFICATE_SERIAL) for mark in marks)


def _is_technical(role: codes.CodedValue) -> bool:
    return role.csd_code in _STRUCTURAL or role.csd_code.startswith((CERTIFICATE_SERIAL, "assurance-"))
