"""ITI-81: the audit trail searched as FHIR over HTTPS, mutual TLS, auditors only, every request recorded (IHE ITI-81, ITI-19).

    GET  /AuditEvent?date=ge2027-01-01&date=le2027-01-31&...      search; also POST /AuditEvent/_search with a form
    GET  /AuditEvent/ID                                           one record
    GET  /metadata                                                what the service can do

A peer that is no auditor gets 403 and a Security Alert (Use of Restricted Function); one that fails the handshake a Security Alert
(Node Authentication), a flood of them one for each peer and minute.
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from cryptography import x509

from securepacs.audit import events
from securepacs.audit.aggregate import FailureAggregator, Refusals
from securepacs.audit.message import ActiveParticipant, EventOutcomeIndicator
from securepacs.audit.repository import fhir_answer
from securepacs.audit.repository.fhir_https import Caller, HttpsServer
from securepacs.audit.repository.fhir_query import parse_query
from securepacs.audit.repository.repository import Repository
from securepacs.codes import NODE_AUTHENTICATION, ROLE_AUDITOR, USE_OF_RESTRICTED_FUNCTION, CodedValue
from securepacs.errors import AccessDenied, ConfigError, Unavailable
from securepacs.policy.roles import Enrolment, subject_of
from securepacs.policy.subject import Subject, SubjectKind

_LOOK_SECONDS = 0.1  # how often the accepting thread looks whether it shall end
_RECORD = re.compile(r"/AuditEvent/(\d{1,18})", flags=re.ASCII)
_logger = logging.getLogger(__name__)


class AuditEventServer:
    """Listens once made; `start` begins to accept. `context` must require client certificates.

    An auditor is a person whose certificate has the role auditor (hcRole), or a certificate whose SHA-256 stands in `auditors`.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        host: str,
        port: int,
        context: ssl.SSLContext,
        auditors: Iterable[str] = (),
        max_connections: int = 32,
        handshake_seconds: float = 10.0,
        idle_seconds: float = 30.0,
    ) -> None:
        if context.verify_mode != ssl.CERT_REQUIRED:
            raise ConfigError("the FHIR service needs mutual TLS", key="fhir_trust", standard="IHE ITI-19")
        self._repository = repository
        self._enrolment = [_enrolled(each) for each in auditors]
        self._refusals = FailureAggregator()
        self._guard = threading.Lock()
        self._stopped = False
        try:
            self._server = HttpsServer((host, port), self, context, max_connections, handshake_seconds, idle_seconds)
        except OSError as error:
            raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}", retryable=False) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_SECONDS,), name="audit-fhir-accept", daemon=True
        )

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Accept connections."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, end all connections, and record refusals that were only counted so far; once is enough."""
        if self._stopped:
            return
        self._stopped = True
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.end_connections()
        with self._guard:
            told = self._refusals.end()
        self._tell(told)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # --- who asks ---------------------------------------------------------------------------------------------------
    def caller(self, der: bytes, address: str) -> Caller:
        """Return who a certificate, already verified, stands for; with a refusal unless it is an auditor."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            subject = subject_of(certificate, enrolment=self._enrolment)
        except (ValueError, AccessDenied) as error:
            reason = str(error) if isinstance(error, AccessDenied) else "the certificate cannot be read"
            return Caller(address, events.participant(address or "unknown", host=address), reason)
        refusal = "" if _is_auditor(subject) else "the certificate is no auditor's"
        role = CodedValue(ROLE_AUDITOR, "99SECUREPACS", ROLE_AUDITOR)
        who = events.participant(
            subject.user_id, requestor=True, name=subject.name, host=address, roles=() if refusal else (role,)
        )  # fmt: skip
        return Caller(address, who, refusal)

    def denied(self, caller: Caller) -> None:
        """Record that somebody who is no auditor asked."""
        who = replace(caller.participant, UserIsRequestor=False)
        self._alert(USE_OF_RESTRICTED_FUNCTION, who, f"FHIR search of the audit trail refused: {caller.refusal}", caller.address)

    def refused(self, address: str, error: OSError) -> None:
        """Record a failed handshake, unless the peer never began one."""
        if isinstance(error, ssl.SSLEOFError | ConnectionError):  # a port scan or a health check
            _logger.info("audit fhir: %s left before the end of the handshake", address)
            return
        reason = (error.reason or "") if isinstance(error, ssl.SSLError) else (error.strerror or "time-out")
        with self._guard:
            told = self._refusals.refused(address, f"{reason} {getattr(error, 'verify_message', '')}".strip(), at=datetime.now(UTC))
        self._tell(told)

    def tell_due(self) -> None:
        """Record refusals that were only counted so far, when it is time."""
        with self._guard:
            told = self._refusals.due(at=datetime.now(UTC))
        try:
            self._tell(told)
        except Unavailable as error:
            _logger.error("audit fhir: refusals cannot be recorded: %s", error)

    def _tell(self, told: list[Refusals]) -> None:
        for each in told:
            many = "" if each.count == 1 else f"{each.count} times since {each.since:%H:%M:%S}Z: "
            who = events.participant(each.peer, host=each.peer)
            self._alert(NODE_AUTHENTICATION, who, f"TLS handshake of FHIR refused: {many}{each.reason}", each.peer)

    def _alert(self, kind: CodedValue, who: ActiveParticipant, text: str, address: str) -> None:
        repository, at = self._repository, datetime.now(UTC)
        message = events.security_alert(
            source=repository.source,
            at=at,
            alert_type=kind,
            reporter=events.participant(repository.source.AuditSourceID, host=repository.hostname),
            performers=(who,),
            node_id=address,
            alert_description=text,
            outcome=EventOutcomeIndicator.SERIOUS_FAILURE,
        )
        repository.record(message, at=at)

    # --- what is asked ----------------------------------------------------------------------------------------------
    def answer(self, path: str, parameters: list[tuple[str, str]], caller: Caller, base: str) -> tuple[int, dict[str, Any]]:
        """Return (HTTP status, resource). Raises UsageError for what cannot be meant, Unavailable when the store fails."""
        at, who = datetime.now(UTC), caller.participant
        if path == "/metadata":
            return 200, fhir_answer.capability(at)
        if path in ("/AuditEvent", "/AuditEvent/_search"):
            return 200, fhir_answer.search(self._repository, parse_query(parameters), base=base, reader=who, at=at)
        if found := _RECORD.fullmatch(path):
            return fhir_answer.one(self._repository, int(found[1]), reader=who, at=at)
        return 404, fhir_answer.outcome("error", "not-found", "only AuditEvent and metadata are here")


def _enrolled(fingerprint: str) -> Enrolment:
    digits = fingerprint.replace(":", "").strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ConfigError("an auditor is named by the SHA-256 of the certificate, 64 hexadecimal digits", key="auditor")
    return Enrolment(SubjectKind.PERSON, frozenset((ROLE_AUDITOR,)), certificate_sha256=digits)


def _is_auditor(subject: Subject) -> bool:
    return subject.kind is SubjectKind.PERSON and ROLE_AUDITOR in subject.roles
