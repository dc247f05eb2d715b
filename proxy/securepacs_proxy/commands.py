"""What must be done, in the imperative. Relays return these in order; the shell alone executes them.

`Audit` is a barrier: the shell executes no later command of the same connection before the record is durable.
"""

from __future__ import annotations

from dataclasses import dataclass

from securepacs.audit.message import AuditMessage
from securepacs_proxy.events import Side


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an archive or a destination outside listens; `tls` names the settings of the shell for it, empty for plain TCP.

    With `reverse` it does not listen: it is the AE title for which an agent keeps a connection open.
    """

    host: str
    port: int
    tls: str = ""
    reverse: str = ""


@dataclass(frozen=True, slots=True)
class OpenUpstream:
    """Connect to the first of `destinations` that answers; the shell reports UpstreamConnected or UpstreamUnreachable."""

    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """Let what is called by `ae_title` be delivered over this connection; the shell reports UpstreamConnected when it is."""

    ae_title: str


@dataclass(frozen=True, slots=True)
class Send:
    """Write to one side. A memoryview points into the buffer of the event and must be written or copied before returning."""

    side: Side
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Audit:
    """Make the record durable before anything that follows."""

    message: AuditMessage


@dataclass(frozen=True, slots=True)
class SetTimer:
    """(Re)start the named timer; `seconds` of None stops it."""

    name: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Close:
    """Close one side after everything sent to it has left."""

    side: Side


Command = OpenUpstream | Offer | Send | Audit | SetTimer | Close
