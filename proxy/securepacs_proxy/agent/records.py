"""The audit records of the agent: who logged in and out at this workstation, and why (PS3.15 A.5.3.15)."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from securepacs.audit.events import application_activity, participant, security_alert, user_authentication
from securepacs.audit.message import ActiveParticipant, AuditSink, AuditSourceIdentification, EventOutcomeIndicator
from securepacs.codes import USE_OF_RESTRICTED_FUNCTION

APP_NAME = "securepacs-agent"
UNKNOWN_PERSON = "unknown"


def name_of(certificate: x509.Certificate | None) -> str:
    """Return the common name of a person, or the whole subject when there is none."""
    if certificate is None:
        return UNKNOWN_PERSON
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


class Records:
    """Writes the agent's records into a sink; each call returns when the record is durable, or raises Unavailable."""

    def __init__(self, sink: AuditSink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._source = AuditSourceIdentification(AuditSourceID=name)

    def activity(self, *, started: bool) -> None:
        """The agent started or stopped."""
        self._sink.emit(application_activity(source=self._source, at=_now(), started=started, application=self._agent()))

    def login(self, certificate: x509.Certificate | None, *, failure: str = "") -> None:
        """Somebody logged in at the card, or (with `failure`) tried to."""
        self._authentication(certificate, login=True, description=failure, outcome=_outcome(failure))

    def logout(self, certificate: x509.Certificate, *, why: str) -> None:
        """A login ended: by its person, the removal of the card, or time."""
        self._authentication(certificate, login=False, description=why)

    def stranger(self, uid: int | None) -> None:
        """A program of another user tried to use the agent."""
        owner = "nobody known" if uid is None else f"user id {uid}"
        self._sink.emit(
            security_alert(
                source=self._source,
                at=_now(),
                alert_type=USE_OF_RESTRICTED_FUNCTION,
                reporter=self._agent(),
                alert_description=f"a connection of {owner} was refused",
                outcome=EventOutcomeIndicator.MINOR_FAILURE,
            )
        )

    def _authentication(
        self,
        certificate: x509.Certificate | None,
        *,
        login: bool,
        description: str,
        outcome: EventOutcomeIndicator = EventOutcomeIndicator.SUCCESS,
    ) -> None:
        who = certificate.subject.rfc4514_string() if certificate is not None else UNKNOWN_PERSON
        user = participant(who, name=name_of(certificate), host=socket.gethostname(), requestor=True)
        message = user_authentication(
            source=self._source,
            at=_now(),
            login=login,
            user=user,
            node=self._agent(),
            description=description,
            outcome=outcome,
        )
        self._sink.emit(message)

    def _agent(self) -> ActiveParticipant:
        return participant(str(os.getpid()), name=self._name, host=socket.gethostname())


def _outcome(failure: str) -> EventOutcomeIndicator:
    return EventOutcomeIndicator.MINOR_FAILURE if failure else EventOutcomeIndicator.SUCCESS


def _now() -> datetime:
    return datetime.now(UTC)
