"""Who is connected right now: one row per connection, kept by the worker that serves it and reported to the supervisor. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from securepacs.policy.subject import Subject
from securepacs_proxy.events import Peer


class SessionState(StrEnum):
    """How far a connection has come."""

    HANDSHAKE = "handshake"
    AUTHENTICATED = "authenticated"
    RELAYING = "relaying"
    CLOSING = "closing"


@dataclass(slots=True)
class Session:
    """One connection. `received` and `sent` count application bytes from and to the outside peer, TLS overhead excluded."""

    id: str
    peer: Peer
    since: datetime
    state: SessionState = SessionState.HANDSHAKE
    subject: Subject | None = None
    archive: str = ""
    received: int = 0
    sent: int = 0
    inner: bool = False  # an archive that calls out, on an inner port

    @property
    def moved(self) -> int:
        """Bytes in both directions."""
        return self.received + self.sent

    def to_dict(self) -> dict[str, object]:
        """Return the row as `gateway status --json` prints it; no patient data is in it."""
        subject = self.subject
        return {
            "id": self.id,
            "peer": f"{self.peer.host}:{self.peer.port}",
            "tls_version": self.peer.tls_version,
            "user": subject.user_id if subject else "",
            "name": subject.name if subject else "",
            "roles": sorted(subject.roles) if subject else [],
            "assurance": subject.assurance if subject else "",
            "certificate_sha256": subject.certificate_sha256 if subject else "",
            "since": self.since.isoformat(timespec="seconds"),
            "state": self.state.value,
            "archive": self.archive,
            "received": self.received,
            "sent": self.sent,
        }


@dataclass(slots=True)
class Totals:
    """Counters of one worker since it started."""

    accepted: int = 0
    authenticated: int = 0
    handshakes_failed: int = 0
    turned_away: int = 0
    audit_failures: int = 0
    crashes: int = 0
    received: int = 0
    sent: int = 0


@dataclass(slots=True)
class SessionTable:
    """All live sessions of one worker and its totals."""

    totals: Totals = field(default_factory=Totals)
    _rows: dict[str, Session] = field(default_factory=dict)

    def add(self, session: Session) -> None:
        """Begin a session."""
        self._rows[session.id] = session
        self.totals.accepted += 1

    def remove(self, session: Session) -> bool:
        """End a session; its bytes go into the totals. False when it never began."""
        if self._rows.pop(session.id, None) is None:
            return False
        self.totals.received += session.received
        self.totals.sent += session.sent
        return True

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._rows.values()))
