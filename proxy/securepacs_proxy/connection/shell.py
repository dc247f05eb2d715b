"""What all connections of one worker share: buffers, admission, identity, the audit spool, the clock, the live sessions."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from OpenSSL import SSL

from securepacs.audit.message import AuditMessage
from securepacs.policy.subject import Subject
from securepacs_proxy.connection.others import Deliveries, InnerPort, NoDeliveries, VerifyDestination
from securepacs_proxy.connection.peers import AuthenticatedPeer, Limits
from securepacs_proxy.connection.relayed import RelayedConnection
from securepacs_proxy.events import Event
from securepacs_proxy.relay import Relay
from securepacs_proxy.sessions import Session, SessionTable
from securepacs_proxy.tls_bio import Buffers
from securepacs_proxy.ways import ClientTls

_log = logging.getLogger(__name__)
OnDurable = Callable[[BaseException | None], None]


class AuditSubmit(Protocol):
    """A spool that takes records without waiting."""

    def submit(self, message: AuditMessage, on_durable: OnDurable, /) -> None:
        """Call `on_durable(None)` from any thread when the record is durable, or with the error; may raise instead."""
        ...


class Admission(Protocol):
    """Whether one more connection may come, over all workers."""

    def admit(self) -> bool: ...

    def turned_away(self, host: str) -> None: ...

    def changed(self, count: int) -> None: ...

    def opened(self, host: str) -> str: ...

    def authenticated(self, subject: Subject) -> None: ...

    def closed(self, host: str, subject: Subject | None) -> None: ...

    def crashed(self, session: Session, reason: str) -> None: ...


def _no_reverse(_connection_id: str) -> Relay:
    raise RuntimeError("this shell makes no relay for agents that wait")


def _all_good(_peer: AuthenticatedPeer, answer: Callable[[str], None]) -> None:
    answer("")


class Shell:
    """The environment of every connection of a worker. Settings may be replaced while connections live; they keep their limits."""

    def __init__(
        self,
        *,
        make_relay: Callable[[str], Relay],
        identify: Callable[[x509.Certificate, tuple[x509.Certificate, ...]], Subject],
        spool: AuditSubmit,
        admission: Admission,
        client_tls: Mapping[str, ClientTls] | None = None,
        verify: Callable[[AuthenticatedPeer, Callable[[str], None]], None] = _all_good,
        make_reverse_relay: Callable[[str], Relay] = _no_reverse,
        deliveries: Deliveries | None = None,
        verify_destination: VerifyDestination | None = None,
        limits: Limits | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        self.make_relay = make_relay
        self.make_reverse_relay = make_reverse_relay
        self.deliveries: Deliveries = deliveries or NoDeliveries()
        self.identify = identify
        self.client_tls = client_tls or {}
        self.verify = verify  # answers once, now or later in the loop: "" or why the certificate is not accepted
        self.verify_destination = verify_destination
        self.limits = limits or Limits()
        self.buffers = buffers or Buffers()
        self.sessions = SessionTable()
        self._spool = spool
        self._admission = admission
        self._connections: dict[str, RelayedConnection] = {}
        self._last = datetime.min.replace(tzinfo=UTC)
        self._loop = asyncio.get_running_loop()

    def accept(self, context: SSL.Context | InnerPort) -> asyncio.BaseProtocol:
        """Return the protocol of a new outside connection: a relayed one, or one that closes at once when there are too many."""
        if not self._admission.admit():
            return _TurnedAway(self)
        connection = RelayedConnection(self, secrets.token_hex(8), context)
        self._connections[connection.id] = connection
        self._admission.changed(len(self._connections))
        return connection.protocol

    def forget(self, connection: RelayedConnection) -> None:
        """A connection is over."""
        self._connections.pop(connection.id, None)
        session = connection.session
        self.deliveries.withdraw(session)
        if self.sessions.remove(session):
            self._admission.closed("" if session.inner else session.peer.host, session.subject)
        self._admission.changed(len(self._connections))

    def turned_away(self, host: str, reason: str = "too many connections") -> None:
        """Count a connection that was not admitted."""
        self.sessions.totals.turned_away += 1
        self._admission.turned_away(f"{host}, {reason}")

    def opened(self, session: Session) -> bool:
        """Begin the session of a connection whose peer is known now; False when the peer has too many.

        The address of an archive that calls out carries the traffic of everybody, so no limit of one address holds for it.
        """
        refusal = "" if session.inner else self._admission.opened(session.peer.host)
        if refusal:
            self.turned_away(session.peer.host, refusal)
        else:
            self.sessions.add(session)
        return not refusal

    def authenticated(self, subject: Subject) -> None:
        """Count an authenticated peer."""
        self.sessions.totals.authenticated += 1
        self._admission.authenticated(subject)

    def crashed(self, connection: RelayedConnection, reason: str) -> None:
        """Count a connection that was cut because its relay failed; `reason` says where, without data."""
        self.sessions.totals.crashes += 1
        self._admission.crashed(connection.session, reason)

    @property
    def connect_seconds(self) -> float:
        """How long a destination has to answer."""
        return self.limits.connect_seconds

    def connection(self, connection_id: str) -> RelayedConnection | None:
        """Return a live connection."""
        return self._connections.get(connection_id)

    @property
    def connections(self) -> tuple[RelayedConnection, ...]:
        """The live connections, handshakes included."""
        return tuple(self._connections.values())

    def broadcast(self, event: Event) -> None:
        """Give an event to every live connection."""
        for connection in self.connections:
            connection.handle(event)

    def now(self) -> datetime:
        """The time for events and records: UTC, never running backwards within one worker."""
        self._last = max(self._last, datetime.now(UTC))
        return self._last

    def submit(self, message: AuditMessage, on_durable: OnDurable) -> None:
        """Hand a record to the spool; `on_durable` is called later, in the loop, with None or the error."""

        def in_loop(error: BaseException | None) -> None:
            try:
                self._loop.call_soon_threadsafe(on_durable, error)
            except RuntimeError:  # the loop has ended, and with it everybody who waited
                _log.debug("a record became durable after the end of its worker")

        try:
            self._spool.submit(message, in_loop)
        except Exception as error:  # whatever kept the record from the spool, the connection must know
            in_loop(error)

    def record(self, message: AuditMessage) -> None:
        """Hand a record to the spool for which nobody waits; a failure is logged."""

        def log_failure(error: BaseException | None) -> None:
            if error is not None:
                self.sessions.totals.audit_failures += 1
                _log.error("an audit record was not written: %s", error)

        self.submit(message, log_failure)


class _TurnedAway(asyncio.Protocol):
    """A connection too many: closed before a handshake costs anything."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        name = transport.get_extra_info("peername") or ("", 0)
        self._shell.turned_away(str(name[0]))
        transport.close()
