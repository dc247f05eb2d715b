"""What can happen to a relayed connection, in the past tense. The shell makes these; the relays only read them.

A relay stands between two sides, named by their part in the association (PS3.7): the REQUESTOR opened it, the ACCEPTOR answers.
On the ingress route the requestor is the authenticated TLS peer outside and the acceptor the archive inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from securepacs.policy.subject import Policy, Subject


class Side(Enum):
    """One end of a relayed connection."""

    REQUESTOR = "requestor"
    ACCEPTOR = "acceptor"

    @property
    def other(self) -> Side:
        """The opposite end."""
        return Side.ACCEPTOR if self is Side.REQUESTOR else Side.REQUESTOR


@dataclass(frozen=True, slots=True)
class Peer:
    """Network facts about the outside end; `host` is an IP address as text."""

    host: str
    port: int
    tls_version: str = ""
    cipher: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionAccepted:
    """A TCP connection arrived; the TLS handshake has not begun."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """The peer could not be authenticated. `reason` is exact and for the audit trail, never for the peer.

    `claimed` is the subject name of the certificate that was shown, empty when there was none.
    """

    reason: str
    claimed: str = ""


@dataclass(frozen=True, slots=True)
class PeerAuthenticated:
    """The handshake is complete and the certificate was mapped to a subject."""

    peer: Peer
    subject: Subject


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes arrived from one side. `data` is only valid during the call that handles this event."""

    side: Side
    data: memoryview


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """One side closed its sending direction, or its connection broke."""

    side: Side
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamConnected:
    """The connection asked for by OpenUpstream stands; `host` is the destination that answered, empty when not told."""

    host: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamUnreachable:
    """No destination of the route answered."""

    reason: str


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """A timer set by SetTimer ran out."""

    name: str


@dataclass(frozen=True, slots=True)
class PolicyReplaced:
    """A new policy is in force: remembered decisions are void."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """An administrator, a revocation or a shutdown ends this connection now."""

    reason: str


@dataclass(frozen=True, slots=True)
class AuditFailed:
    """The audit spool could not take a record: what it describes must not happen."""

    reason: str


Event = (
    ConnectionAccepted
    | HandshakeFailed
    | PeerAuthenticated
    | DataReceived
    | StreamEnded
    | UpstreamConnected
    | UpstreamUnreachable
    | TimerExpired
    | PolicyReplaced
    | SessionEnded
    | AuditFailed
)
