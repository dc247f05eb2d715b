"""The audit records that the shell makes about itself, and the spools they go to."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from securepacs.audit import senders
from securepacs.audit.events import application_activity, participant, security_alert
from securepacs.audit.message import ActiveParticipant, AuditMessage, EventOutcomeIndicator
from securepacs.audit.ntp import ClockState, clock_record
from securepacs.audit.sinks import SpoolSink
from securepacs.audit.spool import Spool
from securepacs.codes import (
    NODE_AUTHENTICATION,
    SECURITY_ROLES_CHANGED,
    SOFTWARE_CONFIGURATION,
    USE_OF_RESTRICTED_FUNCTION,
    CodedValue,
)
from securepacs.policy.subject import Subject
from securepacs_proxy.config import AuditDestinationSection
from securepacs_proxy.reload import Snapshot
from securepacs_proxy.sessions import Session
from securepacs_proxy.status import SUPERVISOR

_log = logging.getLogger(__name__)
_APP_NAME = "securepacs-gateway"
_MIB = 1024 * 1024


def spool_names(snapshot: Snapshot) -> list[str]:
    """Return the names of all processes that write records, each with a folder of its own."""
    return [SUPERVISOR, *(worker_name(number) for number in range(snapshot.config.gateway.workers))]


def worker_name(number: int) -> str:
    """Return the name of a worker in its audit source, its spool folder and the log."""
    return f"worker-{number}"


def spool_folder(snapshot: Snapshot, process: str) -> Path:
    """Return where a process keeps its records until they are delivered."""
    return snapshot.config.audit.spool / process


def open_spool(snapshot: Snapshot, process: str) -> Spool:
    """Open the spool of a process; the quota is divided evenly. Raises Unavailable or ConfigError."""
    quota = snapshot.config.audit.quota_mb * _MIB // len(spool_names(snapshot))
    destinations = [destination_name(destination) for destination in snapshot.config.audit.destinations]
    return Spool.open(spool_folder(snapshot, process), quota_bytes=quota, destinations=destinations)


def destination_name(destination: AuditDestinationSection) -> str:
    """Return the stable name of a destination, good for a file name."""
    return senders.destination_name(senders.Transport(destination.transport), destination.host, destination.port)


def sink_of(spool: Spool) -> SpoolSink:
    """Return what takes messages for a spool."""
    return SpoolSink(spool, hostname=socket.gethostname(), app_name=_APP_NAME)


def _gateway(snapshot: Snapshot) -> ActiveParticipant:
    gateway = snapshot.config.gateway
    return participant(str(os.getpid()), name=gateway.name, alternative=f"AETITLES={gateway.ae_title}", host=socket.gethostname())


def activity(snapshot: Snapshot, process: str, *, at: datetime, started: bool) -> AuditMessage:
    """A process of the gateway started or stopped (PS3.15 A.5.3.1)."""
    return application_activity(source=snapshot.source(process), at=at, started=started, application=_gateway(snapshot))


def clock_alert(snapshot: Snapshot, state: ClockState, *, at: datetime) -> AuditMessage:
    """The state of the clock, at the start and every hour (IHE ITI-1); of an unsynchronized one an alert."""
    return clock_record(state, source=snapshot.source(SUPERVISOR), reporter=_gateway(snapshot), at=at)


def configuration_alert(snapshot: Snapshot, *, at: datetime, text: str, outcome: EventOutcomeIndicator) -> AuditMessage:
    """The configuration was replaced or refused, or a process was replaced (PS3.15 A.5.3.14)."""
    return security_alert(
        source=snapshot.source(SUPERVISOR),
        at=at,
        alert_type=SOFTWARE_CONFIGURATION,
        reporter=_gateway(snapshot),
        alert_description=text,
        outcome=outcome,
    )


def change_alert(snapshot: Snapshot, *, alert_type: CodedValue, at: datetime, text: str, by: str) -> AuditMessage:
    """Somebody changed who may do what: policy, roles, enrolment, configuration, a block by hand (PS3.15 A.5.3.14)."""
    return security_alert(
        source=snapshot.source(SUPERVISOR),
        at=at,
        alert_type=alert_type,
        reporter=_gateway(snapshot),
        performers=(participant(by),),
        node_id=socket.gethostname(),
        alert_description=text,
    )


def ignored_roles_alert(snapshot: Snapshot, process: str, *, at: datetime, subject: Subject, host: str) -> AuditMessage:
    """A certificate brought roles that its trust anchor may not give (PS3.15 A.5.3.14)."""
    roles = ", ".join(sorted(subject.ignored_roles))
    return security_alert(
        source=snapshot.source(process),
        at=at,
        alert_type=SECURITY_ROLES_CHANGED,
        reporter=_gateway(snapshot),
        performers=(participant(subject.user_id, name=subject.name, host=host),),
        node_id=host,
        alert_description=f"ignored, because its CA may not give them: {roles} ({subject.issuer})"[:512],
        outcome=EventOutcomeIndicator.MINOR_FAILURE,
    )


class TurnedAwayRecorder:
    """One record for the first connection too many, then one a minute for all that followed, so that a flood fills no spool."""

    MAX_HOSTS = 20

    def __init__(self, later: Callable[[Callable[[], None]], object], write: Callable[[str, Counter[str]], None]) -> None:
        """`later(call)` runs `call` in a minute; `write(text, hosts)` makes the record."""
        self._later = later
        self._write = write
        self._hosts: Counter[str] = Counter()
        self._quiet = False

    def count(self, host: str) -> None:
        """Note one connection."""
        self._hosts[host if host in self._hosts or len(self._hosts) < self.MAX_HOSTS else "others"] += 1
        if not self._quiet:
            self._flush()

    def _flush(self) -> None:
        self._quiet = bool(self._hosts)
        if not self._hosts:
            return
        hosts, self._hosts = self._hosts, Counter()
        self._write(f"{hosts.total()} connections turned away: a limit is reached", hosts)
        self._later(self._flush)


def ended_alert(
    snapshot: Snapshot,
    process: str,
    *,
    at: datetime,
    session: Session,
    reason: str,
    outcome: EventOutcomeIndicator = EventOutcomeIndicator.SUCCESS,
) -> AuditMessage:
    """A live connection was ended: by an administrator, a revocation, a changed enrolment, a defect (PS3.15 A.5.3.14)."""
    subject = session.subject
    user = participant(subject.user_id, name=subject.name, host=session.peer.host) if subject is not None else None
    return security_alert(
        source=snapshot.source(process),
        at=at,
        alert_type=USE_OF_RESTRICTED_FUNCTION,
        reporter=_gateway(snapshot),
        performers=(user,) if user is not None else (),
        node_id=session.peer.host,
        alert_description=f"connection {session.id} was ended: {reason}",
        outcome=outcome,
    )


def turned_away_alert(snapshot: Snapshot, process: str, *, at: datetime, text: str, hosts: Counter[str]) -> AuditMessage:
    """Connections were closed unheard because there were too many (PS3.15 A.5.3.14)."""
    return security_alert(
        source=snapshot.source(process),
        at=at,
        alert_type=NODE_AUTHENTICATION,
        reporter=_gateway(snapshot),
        node_id=hosts.most_common(1)[0][0].partition(",")[0],
        alert_description=f"{text} ({', '.join(f'{host}: {count}' for host, count in hosts.most_common())})",
        outcome=EventOutcomeIndicator.MINOR_FAILURE,
    )
