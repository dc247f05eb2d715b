"""The repository's listeners: syslog over mutual TLS (RFC 5425), and when asked for over plain TCP (RFC 6587) and UDP (RFC 5426).

A thread for each connection, durable before it is confirmed. A TLS peer that fails to authenticate becomes a Security Alert (Node
Authentication), a flood of them one for each peer and minute (`audit.aggregate`). The handshake never runs where it could block
another connection. Quiet connections stay. Nobody authenticates over plain TCP and UDP: what comes that way is stored with its
transport and without a peer certificate, and that it may come is recorded at every start.
"""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from securepacs.audit import events
from securepacs.audit.aggregate import FailureAggregator, Refusals
from securepacs.audit.framing import DEFAULT_LIMIT, FrameReader
from securepacs.audit.message import AuditMessage, EventOutcomeIndicator
from securepacs.audit.repository.acceptor import Acceptor
from securepacs.audit.repository.datagrams import DatagramReceiver
from securepacs.audit.repository.indexer import IndexerPool
from securepacs.audit.repository.ingest import Ingest
from securepacs.audit.repository.repository import Repository
from securepacs.audit.repository.streams import Peer, authenticated_peer, receive, reset
from securepacs.codes import AUDIT_RECORDING_STOPPED, NODE_AUTHENTICATION, SECURITY_CONFIGURATION, CodedValue
from securepacs.errors import ConfigError, Unavailable

TLS, TCP = "tls", "tcp"  # transports of receipts; the third is datagrams.TRANSPORT
_DROPPED_SECONDS = 60.0  # at least so long between two alerts about dropped datagrams
Address = tuple[str, int]
_logger = logging.getLogger(__name__)


class RepositoryServer:
    """Listens once made; `start` begins to accept. `context` must require client certificates (ITI-19: mutual).

    `unsafe_tcp` and `unsafe_udp` are addresses to take unprotected syslog at; none unless given. `indexers` processes read the XML
    of bursts (None: one for each core but one).
    """

    def __init__(
        self,
        repository: Repository,
        *,
        host: str,
        port: int,
        context: ssl.SSLContext,
        unsafe_tcp: Address | None = None,
        unsafe_udp: Address | None = None,
        record_limit: int = DEFAULT_LIMIT,
        max_connections: int = 500,
        handshake_seconds: float = 10.0,
        frame_seconds: float = 60.0,
        indexers: int | None = None,
    ) -> None:
        if context.verify_mode != ssl.CERT_REQUIRED:
            raise ConfigError("the audit repository needs mutual TLS", key="trust", standard="IHE ITI-19")
        self._repository = repository
        self._context = context
        self._record_limit = record_limit
        self._handshake_seconds = handshake_seconds
        self._frame_seconds = frame_seconds
        self._pool = IndexerPool(indexers)
        self._refusals = FailureAggregator()
        self._dropped, self._dropped_told = 0, 0.0
        self._guard = threading.Lock()
        self._tcp: Acceptor | None = None
        self._udp: DatagramReceiver | None = None
        self._tls = Acceptor(
            host, port, self._serve_tls, name="repository", max_connections=max_connections, idle=self._tell_due
        )  # fmt: skip
        try:
            if unsafe_tcp is not None:
                self._tcp = Acceptor(*unsafe_tcp, self._serve_tcp, name="repository-tcp", max_connections=max_connections)
            if unsafe_udp is not None:
                self._udp = DatagramReceiver(
                    repository, *unsafe_udp, record_limit=record_limit, on_dropped=self._count_dropped
                )  # fmt: skip
        except Unavailable:
            for each in (self._tls, self._tcp):
                if each is not None:
                    each.stop()
            raise

    @property
    def port(self) -> int:
        """The TCP port of the TLS listener."""
        return self._tls.port

    @property
    def tcp_port(self) -> int:
        """The port of the plain TCP listener; 0 when there is none."""
        return self._tcp.port if self._tcp else 0

    @property
    def udp_port(self) -> int:
        """The UDP port; 0 when there is none."""
        return self._udp.port if self._udp else 0

    def start(self) -> None:
        """Record the start and accept connections."""
        self._activity(started=True)
        self._tell_unprotected()
        for each in (self._tls, self._tcp, self._udp):
            if each is not None:
                each.start()

    def stop(self) -> None:
        """End all connections, wait for what they handed over to be stored, and record the stop."""
        for each in (self._tls, self._tcp, self._udp):
            if each is not None:
                each.stop()
        self._pool.close()
        with self._guard:
            told, dropped, self._dropped = self._refusals.end(), self._dropped, 0
        self._tell(told)
        self._tell_dropped(dropped)
        self._activity(started=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # --- one connection ----------------------------------------------------------------------------------------------
    def _serve_tls(self, plain: socket.socket, address: str) -> None:
        with self._shaken_hands(plain, address) as connection:
            if connection is None:
                return
            peer = authenticated_peer(connection, address)
            if self._receive(connection, FrameReader(limit=self._record_limit), peer, TLS):
                with suppress(OSError):  # answering close_notify tells the sender that all it sent is stored
                    connection.settimeout(self._handshake_seconds)
                    connection.unwrap()

    def _serve_tcp(self, plain: socket.socket, address: str) -> None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        reader = FrameReader(limit=self._record_limit, by_line=True)
        if not self._receive(plain, reader, Peer(address), TCP):
            reset(plain)

    def _receive(self, connection: socket.socket, reader: FrameReader, peer: Peer, transport: str) -> bool:
        """Return True when the stream ended in order and everything of it is durable."""
        ingest = Ingest(self._repository, self._pool)
        try:
            return receive(connection, reader, ingest, peer, transport=transport, frame_seconds=self._frame_seconds)
        except Unavailable as error:  # the store failed: the sender keeps what was not stored and tries again
            _logger.error("audit repository: a connection was closed because records cannot be stored: %s", error)
            return False

    @contextmanager
    def _shaken_hands(self, plain: socket.socket, address: str) -> Iterator[ssl.SSLSocket | None]:
        """Yield the TLS connection, or None after recording why there is none."""
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = self._context.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except (OSError, ValueError):  # it was reset before it was looked at
            _logger.info("audit repository: %s left before the handshake", address)
            yield None
            return
        try:
            self._tls.replace(connection)
            connection.settimeout(self._handshake_seconds)
            refusal = _handshake(connection)
            if refusal is not None:
                self._refused(address, refusal)
            yield None if refusal else connection
        finally:
            connection.close()

    # --- what the repository records about itself --------------------------------------------------------------------
    def _refused(self, address: str, error: OSError) -> None:
        reason = (error.reason or "") if isinstance(error, ssl.SSLError) else (error.strerror or "time-out")
        if isinstance(error, ssl.SSLEOFError | ConnectionError):  # a port scan or a health check, no attempt to authenticate
            _logger.info("audit repository: %s left before the end of the handshake", address)
            return
        detail = f"{reason} {getattr(error, 'verify_message', '')}".strip()
        with self._guard:
            told = self._refusals.refused(address, detail, at=datetime.now(UTC))
        try:
            self._tell(told)
        except Unavailable as failure:
            _logger.error("audit repository: a refusal cannot be recorded: %s", failure)

    def _count_dropped(self, count: int) -> None:
        with self._guard:
            self._dropped += count

    def _tell_due(self) -> None:
        dropped = 0
        with self._guard:
            told = self._refusals.due(at=datetime.now(UTC))
            if self._dropped and time.monotonic() - self._dropped_told > _DROPPED_SECONDS:
                dropped, self._dropped, self._dropped_told = self._dropped, 0, time.monotonic()
        try:
            self._tell(told)
            self._tell_dropped(dropped)
        except Unavailable as error:
            _logger.error("audit repository: refusals cannot be recorded: %s", error)

    def _tell(self, told: list[Refusals]) -> None:
        for each in told:
            many = "" if each.count == 1 else f"{each.count} times since {each.since:%H:%M:%S}Z: "
            self._alert(NODE_AUTHENTICATION, f"TLS handshake refused: {many}{each.reason}", peer=each.peer)

    def _tell_dropped(self, count: int) -> None:
        if count:
            text = f"{count} datagrams were dropped: they came over UDP faster than they could be taken"
            self._alert(AUDIT_RECORDING_STOPPED, text)

    def _tell_unprotected(self) -> None:
        ports = {"TCP": self.tcp_port, "UDP": self.udp_port}
        if any(ports.values()):
            where = ", ".join(f"{name} port {port}" for name, port in ports.items() if port)
            _logger.info("audit repository: records of unauthenticated senders are taken: %s", where)
            self._alert(
                SECURITY_CONFIGURATION, f"records of unauthenticated senders are taken: {where}", EventOutcomeIndicator.SUCCESS
            )

    def _alert(
        self,
        kind: CodedValue,
        description: str,
        outcome: EventOutcomeIndicator = EventOutcomeIndicator.SERIOUS_FAILURE,
        *,
        peer: str = "",
    ) -> None:
        source = self._repository.source
        self._note(
            events.security_alert(
                source=source,
                at=datetime.now(UTC),
                alert_type=kind,
                reporter=events.participant(source.AuditSourceID, host=self._repository.hostname),
                performers=(events.participant(peer, host=peer),) if peer else (),
                node_id=peer or source.AuditSourceID,
                alert_description=description,
                outcome=outcome,
            )
        )

    def _activity(self, *, started: bool) -> None:
        source = self._repository.source
        application = events.participant(source.AuditSourceID, host=self._repository.hostname)
        self._note(events.application_activity(source=source, at=datetime.now(UTC), started=started, application=application))

    def _note(self, message: AuditMessage) -> None:
        self._repository.record(message, at=datetime.now(UTC))


def spare_collector() -> None:
    """Have the cyclic garbage collector look seldom; for a process that does nothing but serve, once everything is imported.

    What records leave behind has no cycles; to look for some after every 700 objects costs more than a twentieth of a busy server.
    """
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _handshake(connection: ssl.SSLSocket) -> OSError | None:
    try:
        connection.do_handshake()
    except OSError as error:
        return error
    return None
