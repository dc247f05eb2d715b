"""One relayed connection: turns what happens on its two ends into events and executes the relay's commands in order.

Rules of this file:
1. Commands are executed strictly in the order given. An Audit command is a barrier: later commands of this connection wait until
   the record is durable (consecutive records wait together), other connections go on.
2. A command that waits owns its bytes: views are copied. When too much waits, both ends are not read.
3. A record that cannot be made durable undoes nothing that was sent, but everything that waited behind it is dropped, and the
   relay is told. Records the relay then asks for are tried without waiting.
4. Events never nest: commands do not call back into the relay.
5. A relay that breaks its promise and raises ends its own connection, closed, without an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from securepacs.errors import SecurePacsError
from securepacs_proxy.commands import Audit, Close, Command, Destination, Offer, OpenUpstream, Send, SetTimer
from securepacs_proxy.connection.ends import LINGER_SECONDS, End, Hold, TlsEnd
from securepacs_proxy.connection.others import InnerEnd, InnerPort, connect_first, connect_within
from securepacs_proxy.connection.peers import AuthenticatedPeer
from securepacs_proxy.connection.timers import Timers
from securepacs_proxy.events import (
    AuditFailed,
    ConnectionAccepted,
    DataReceived,
    Event,
    HandshakeFailed,
    Peer,
    PeerAuthenticated,
    Side,
    StreamEnded,
    TimerExpired,
    UpstreamConnected,
    UpstreamUnreachable,
)
from securepacs_proxy.faults import fault
from securepacs_proxy.reverse import ALPN, ReverseRelay
from securepacs_proxy.sessions import Session, SessionState
from securepacs_proxy.tls_bio import TlsServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine
    from typing import Any

    from cryptography import x509
    from OpenSSL import SSL

    from securepacs.policy.subject import Subject
    from securepacs_proxy.connection.shell import Shell

_log = logging.getLogger(__name__)


class RelayedConnection:
    """Joins two ends and one relay. Created when the outside peer connects; forgets itself when both ends are gone."""

    def __init__(self, shell: Shell, connection_id: str, context: SSL.Context | InnerPort) -> None:
        self.id = connection_id
        self._shell = shell
        self._loop = asyncio.get_running_loop()
        self._inner = context if isinstance(context, InnerPort) else None
        self._relay = (self._inner or shell).make_relay(connection_id)
        self._outside = InnerEnd(self, shell.buffers) if isinstance(context, InnerPort) else TlsEnd(self, shell.buffers, context)
        self._inside: End | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timers = Timers(self._loop)
        self._waiting: deque[Command] = deque()
        self._waiting_bytes = 0
        self._barrier = 0  # records not yet durable
        self._barrier_round = 0  # callbacks of an earlier round are stale
        self._audit_broken = False
        self._authenticated = False
        self._refused = False
        self._failed = False
        self._done = False
        self.certificate: x509.Certificate | None = None
        self.chain: tuple[x509.Certificate, ...] = ()
        self.destination: tuple[x509.Certificate, ...] = ()  # the path of a destination that is called with TLS
        self.ending = False  # somebody waits for a good moment to end it
        self.session = Session(connection_id, Peer("", 0), shell.now(), inner=self._inner is not None)

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """The protocol object of the outside end, for asyncio."""
        return self._outside

    # --- what the shell calls -------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Let the relay judge an event and execute what it asks for."""
        if self._done or self._failed:
            return
        try:
            commands = self._relay.handle(event, at=self._shell.now())
        except Exception as error:  # rule 5: the one place where a defect of a relay is turned into a closed connection
            self._crash(error)
            return
        for command in commands:
            if self._barrier and not (isinstance(command, Audit) and not self._waiting):
                self._wait(command)
            else:
                self._execute(command)
        if self._waiting_bytes > self._shell.limits.waiting_bytes or len(self._waiting) > self._shell.limits.waiting_commands:
            self._hold_both()
        self._finish_if_over()

    def deliver(self, inside: socket.socket) -> None:
        """Deliver what comes through `inside`, a socket within the gateway, over this connection that was offered for it."""
        self._connect(self._join(inside))

    @property
    def waits(self) -> bool:
        """Whether it only waits for a delivery."""
        return isinstance(self._relay, ReverseRelay) and self._relay.waits

    def cut(self) -> None:
        """End both sides at once, without a word."""
        self._outside.abort()
        if self._inside is not None:
            self._inside.abort()
        if self._connecting is not None:
            self._connecting.cancel()

    # --- what the ends report -------------------------------------------------------------------------------------------

    def on_opened(self, host: str, port: int) -> None:
        """The TCP connection stands, the handshake has not begun."""
        self.session.peer = Peer(host, port)
        if not self._shell.opened(self.session):
            self._failed = True
            self.cut()
            return
        self._timers.start(_HANDSHAKE_TIMER, self._shell.limits.handshake_seconds, self._handshake_expired)
        self.handle(ConnectionAccepted(self.session.peer))
        if self._inner is not None:
            self._identify_inner(self._inner, host)

    def _identify_inner(self, inner: InnerPort, host: str) -> None:
        """There is no handshake on an inner port: the address says who it is."""
        try:
            subject = inner.identify(host)
        except SecurePacsError as error:
            self.on_handshake_failed(error.message, "")
            return
        self._timers.stop(_HANDSHAKE_TIMER)
        self._authenticated = True
        self.session.subject, self.session.state = subject, SessionState.AUTHENTICATED
        self._shell.authenticated(subject)
        self.handle(PeerAuthenticated(self.session.peer, subject))

    def on_established(self, tls: TlsServer) -> None:
        """The TLS handshake is complete: find out who it is, and whether the certificate still counts."""
        certificate = tls.peer_certificate
        if certificate is None:
            self.on_handshake_failed("no certificate was shown", "")
            return
        try:
            subject = self._shell.identify(certificate, tls.peer_chain)
        except SecurePacsError as error:
            self.on_handshake_failed(str(error), certificate.subject.rfc4514_string())
            return
        if tls.application_protocol == ALPN:
            self._relay = self._shell.make_reverse_relay(self.id)
        self.certificate, self.chain = certificate, tls.peer_chain
        peer = AuthenticatedPeer(certificate, self.chain, subject, self.session.peer.host)
        self._shell.verify(peer, lambda refusal: self._on_verified(tls, subject, refusal))
        if not self._authenticated and not self._refused:  # the answer comes later
            self._outside.hold(Hold.NOT_READY)

    def _on_verified(self, tls: TlsServer, subject: Subject, refusal: str) -> None:
        if self._authenticated or self._refused or self._done or self._outside.lost or self.certificate is None:
            return
        self._outside.release(Hold.NOT_READY)
        if refusal:
            self.on_handshake_failed(refusal, self.certificate.subject.rfc4514_string())
            return
        self._timers.stop(_HANDSHAKE_TIMER)
        self._authenticated = True
        session = self.session
        peer = Peer(session.peer.host, session.peer.port, tls_version=tls.version, cipher=tls.cipher)
        session.peer, session.subject, session.state = peer, subject, SessionState.AUTHENTICATED
        self._shell.authenticated(subject)
        self.handle(PeerAuthenticated(peer, subject))

    def on_handshake_failed(self, reason: str, claimed: str) -> None:
        """The peer is not who may connect; the relay records it and closes."""
        self._timers.stop(_HANDSHAKE_TIMER)
        if not self._refused:
            self._refused = True
            self._shell.sessions.totals.handshakes_failed += 1
            self.handle(HandshakeFailed(reason, claimed))
            self._loop.call_later(self._patience, self._give_up, self._outside)

    def on_data(self, side: Side, data: memoryview) -> None:
        """Bytes arrived in clear."""
        if side is Side.REQUESTOR:
            if not self._authenticated:
                return
            self.session.received += len(data)
        self.handle(DataReceived(side, data))

    def on_ended(self, side: Side, reason: str) -> None:
        """One end will send nothing more."""
        if side is Side.ACCEPTOR and self._inside is None:
            return  # a destination that was tried and is not the one
        if side is Side.REQUESTOR and not self._authenticated:
            self.on_handshake_failed("the connection was closed during the handshake", "")
        else:
            self.handle(StreamEnded(side, reason))

    def on_writable(self, side: Side, writable: bool) -> None:
        """Read one end only as fast as the other takes it."""
        source = self._inside if side is Side.REQUESTOR else self._outside
        if source is not None:
            (source.release if writable else source.hold)(Hold.OTHER_SIDE_IS_SLOW)

    def on_lost(self, side: Side) -> None:
        """One socket is gone; what is left of the connection gets a limited time to end by itself."""
        if side is Side.ACCEPTOR and self._inside is None:
            return
        other = self._outside if side is Side.ACCEPTOR else self._inside
        if other is not None and not other.lost:
            other.release(Hold.OTHER_SIDE_IS_SLOW)
            self._loop.call_later(self._patience, self._give_up, other)
        self._finish_if_over()

    @property
    def _patience(self) -> float:
        """How long a record and a graceful close may take together."""
        return 2 * LINGER_SECONDS + self._shell.limits.audit_seconds

    # --- executing commands ---------------------------------------------------------------------------------------------

    def _execute(self, command: Command) -> None:
        match command:
            case Send(side=side, data=data):
                self._send(side, data)
            case Audit():
                self._audit(command)
            case SetTimer(name=name, seconds=None):
                self._timers.stop(name)
            case SetTimer(name=name, seconds=float(seconds)):
                self._timers.start(name, seconds, self.handle, TimerExpired(name))
            case OpenUpstream(destinations=destinations):
                self._connect(self._open_upstream(destinations))
            case Offer(ae_title=ae_title):
                self._outside.keep_alive()
                self._shell.deliveries.offer(self.session, ae_title)
            case Close(side=Side.REQUESTOR):
                self.session.state = SessionState.CLOSING
                self._outside.close()
            case Close(side=Side.ACCEPTOR):
                self._close_inside()

    def _send(self, side: Side, data: bytes | memoryview) -> None:
        if side is Side.REQUESTOR:
            self.session.sent += len(data)
            self._outside.send(data)
        elif self._inside is not None:
            self._inside.send(data)

    def _close_inside(self) -> None:
        if self._inside is not None:
            self._inside.close()
        elif self._connecting is not None:
            self._connecting.cancel()

    def _audit(self, command: Audit) -> None:
        if self._audit_broken:
            self._shell.record(command.message)
            return
        self._barrier += 1
        if self._barrier == 1:
            seconds, text = self._shell.limits.audit_seconds, "the audit spool does not answer"
            self._timers.start(_AUDIT_TIMER, seconds, self._record_failed, self._barrier_round, text)
        round_ = self._barrier_round
        self._shell.submit(command.message, lambda error: self._on_durable(round_, error))

    def _on_durable(self, round_: int, error: BaseException | None) -> None:
        """A record became durable, or not. Runs in the loop."""
        if round_ != self._barrier_round:
            return
        if error is not None:
            self._record_failed(round_, str(error) or type(error).__name__)
            return
        self._barrier -= 1
        if self._barrier:
            return
        self._timers.stop(_AUDIT_TIMER)
        self._barrier_round += 1
        while self._waiting and (not self._barrier or isinstance(self._waiting[0], Audit)):
            command = self._waiting.popleft()
            if isinstance(command, Send):
                self._waiting_bytes -= len(command.data)
            self._execute(command)
        if not self._waiting:
            self._release_both()
        self._finish_if_over()

    def _record_failed(self, round_: int, reason: str) -> None:
        if round_ != self._barrier_round:
            return
        self._timers.stop(_AUDIT_TIMER)
        self._barrier_round += 1
        self._barrier = 0
        self._audit_broken = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._shell.sessions.totals.audit_failures += 1
        _log.error("audit record of connection %s was not written: %s", self.id, reason)
        self._release_both()
        self.handle(AuditFailed(reason))

    def _wait(self, command: Command) -> None:
        if isinstance(command, Send):
            if isinstance(command.data, memoryview):
                command = Send(command.side, bytes(command.data))
            self._waiting_bytes += len(command.data)
        self._waiting.append(command)

    async def _open_upstream(self, destinations: tuple[Destination, ...]) -> None:
        found = await connect_first(destinations, self, self._shell)
        if isinstance(found, str):
            self.handle(UpstreamUnreachable(found))
        else:
            end, destination = found
            self._connected(end, f"{destination.host}:{destination.port}", destination.host)

    async def _join(self, inside: socket.socket) -> None:
        self._connected(await connect_within(inside, self, self._shell.buffers), "delivery", "")

    def _connected(self, end: End, place: str, host: str) -> None:
        if self._failed or self._outside.lost:
            end.abort()
            return
        self._inside, self.destination = end, end.chain
        self.session.archive, self.session.state = place, SessionState.RELAYING
        self.handle(UpstreamConnected(host))
        end.release(Hold.NOT_READY)

    def _connect(self, work: Coroutine[Any, Any, None]) -> None:
        self._connecting = self._loop.create_task(work)
        self._connecting.add_done_callback(self._connecting_is_over)

    def _connecting_is_over(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a defect of the shell: the event loop logs it
        self._finish_if_over()

    # --- timers, holds, the end -----------------------------------------------------------------------------------------

    def _handshake_expired(self) -> None:
        what = "handshake was not complete" if self.certificate is None else "revocation status of its certificate was not known"
        self.on_handshake_failed(f"the {what} after {self._shell.limits.handshake_seconds:g} s", "")

    def _hold_both(self) -> None:
        self._outside.hold(Hold.COMMANDS_WAIT)
        if self._inside is not None:
            self._inside.hold(Hold.COMMANDS_WAIT)

    def _release_both(self) -> None:
        self._outside.release(Hold.COMMANDS_WAIT)
        if self._inside is not None:
            self._inside.release(Hold.COMMANDS_WAIT)

    def _crash(self, error: Exception) -> None:
        self._failed = True
        _log.critical("the relay of connection %s failed: %s; connection cut", self.id, fault(error))
        self._shell.crashed(self, fault(error))
        self._waiting.clear()
        self._barrier = 0
        self._barrier_round += 1
        self.cut()
        self._loop.call_soon(self._finish_if_over)

    def _give_up(self, end: End) -> None:
        if not end.lost:
            end.abort()

    def _finish_if_over(self) -> None:
        if self._done or not self._outside.lost or self._barrier or self._waiting:
            return
        if self._inside is None and self._connecting is not None:
            return
        if self._inside is not None and not self._inside.lost:
            return
        self._done = True
        self._timers.clear()
        self._shell.forget(self)


_HANDSHAKE_TIMER = "shell.handshake"
_AUDIT_TIMER = "shell.audit"
