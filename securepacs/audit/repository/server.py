"""The repository's listener: syslog over mutual TLS (RFC 5425), a thread for each connection, durable before it is confirmed.

A peer that fails to authenticate becomes a Security Alert (Node Authentication), a flood of them one for each peer and minute
(`audit.aggregate`). What a connection sent before it broke is kept, a cut-off record as truncated. The handshake never runs where
it could block another connection. Quiet connections stay.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Self

from cryptography import x509

from securepacs.audit import events
from securepacs.audit.aggregate import FailureAggregator, Refusals
from securepacs.audit.framing import DEFAULT_LIMIT, Frame, FrameReader
from securepacs.audit.message import AuditMessage, EventOutcomeIndicator
from securepacs.audit.repository.indexer import IndexerPool
from securepacs.audit.repository.ingest import Ingest
from securepacs.audit.repository.receipt import Receipt
from securepacs.audit.repository.repository import Repository
from securepacs.codes import NODE_AUTHENTICATION
from securepacs.errors import ConfigError, Unavailable

TRANSPORT = "tls"
_READ_SIZE = 64 * 1024
_LOOK_SECONDS = 5.0  # how often refusals that were counted are looked after
_BATCH = 128  # records handed on together while more is there to be read
_STOP_SECONDS = 10.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Peer:
    address: str
    subject: str = ""
    sha256: str = ""


class RepositoryServer:
    """Listens once made; `start` begins to accept. `context` must require client certificates (ITI-19: mutual).

    `indexers` processes read the XML of bursts (None: one for each core but one).
    """

    def __init__(
        self,
        repository: Repository,
        *,
        host: str,
        port: int,
        context: ssl.SSLContext,
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
        self._max_connections = max_connections
        self._handshake_seconds = handshake_seconds
        self._frame_seconds = frame_seconds
        self._pool = IndexerPool(indexers)
        self._refusals = FailureAggregator()
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}", retryable=False) from None
        self._thread = threading.Thread(target=self._accept, name="audit-repository-accept", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Record the start and accept connections."""
        self._activity(started=True)
        self._thread.start()

    def stop(self) -> None:
        """End all connections, wait for what they handed over to be stored, and record the stop."""
        self._stopping.set()
        with suppress(OSError):  # a listener is never connected; this wakes accept
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)
        self._listener.close()
        with self._guard:
            standing = dict(self._connections)
        for connection in standing.values():
            _shut_down(connection)
        for thread in standing:
            thread.join(_STOP_SECONDS)
        self._pool.close()
        with self._guard:
            told = self._refusals.end()
        self._tell(told)
        self._activity(started=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # --- accepting ---------------------------------------------------------------------------------------------------
    def _accept(self) -> None:
        self._listener.settimeout(_LOOK_SECONDS)
        while not self._stopping.is_set():
            try:
                plain, address = self._listener.accept()
                plain.settimeout(None)
            except TimeoutError:
                self._tell_due()
                continue
            except OSError as error:
                if not self._stopping.is_set():  # out of file descriptors, or the peer left while it waited
                    _logger.error("audit repository: accepting failed: %s", error.strerror)
                    self._stopping.wait(0.2)
                continue
            with self._guard:
                full = len(self._connections) >= self._max_connections
                if not full:
                    full = not self._begin(plain, str(address[0]))
            if full:
                _logger.warning("audit repository: %d connections stand, one more was refused", self._max_connections)
                plain.close()

    def _begin(self, plain: socket.socket, address: str) -> bool:
        """Start the thread of a connection; False when the system has no more threads."""
        thread = threading.Thread(target=self._serve, args=(plain, address), name=f"audit-repository-{address}", daemon=True)
        self._connections[thread] = plain
        try:
            thread.start()
        except RuntimeError:
            del self._connections[thread]
            return False
        return True

    def _tell_due(self) -> None:
        with self._guard:
            told = self._refusals.due(at=datetime.now(UTC))
        try:
            self._tell(told)
        except Unavailable as error:
            _logger.error("audit repository: refusals cannot be recorded: %s", error)

    # --- one connection ----------------------------------------------------------------------------------------------
    def _serve(self, plain: socket.socket, address: str) -> None:
        try:
            with self._shaken_hands(plain, address) as connection:
                if connection is not None:
                    self._receive(connection, _peer_of(connection, address))
        except Unavailable as error:  # the store failed: the sender keeps what was not stored and tries again
            _logger.error("audit repository: a connection was closed because records cannot be stored: %s", error)
        finally:
            plain.close()
            with self._guard:
                self._connections.pop(threading.current_thread(), None)

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
        with self._guard:
            self._connections[threading.current_thread()] = connection
        try:
            if self._stopping.is_set():  # the stop may have come before it could see this connection
                _shut_down(connection)
            connection.settimeout(self._handshake_seconds)
            refusal = _handshake(connection)
            if refusal is not None:
                self._refused(address, refusal)
            yield None if refusal else connection
        finally:
            connection.close()

    def _refused(self, address: str, error: OSError) -> None:
        reason = (error.reason or "") if isinstance(error, ssl.SSLError) else (error.strerror or "time-out")
        if isinstance(error, ssl.SSLEOFError | ConnectionError):  # a port scan or a health check, no attempt to authenticate
            _logger.info("audit repository: %s left before the end of the handshake", address)
            return
        detail = f"{reason} {getattr(error, 'verify_message', '')}".strip()
        with self._guard:
            told = self._refusals.refused(address, detail, at=datetime.now(UTC))
        self._tell(told)

    def _tell(self, told: list[Refusals]) -> None:
        for each in told:
            many = "" if each.count == 1 else f"{each.count} times since {each.since:%H:%M:%S}Z: "
            self._note(
                events.security_alert(
                    source=self._repository.source,
                    at=datetime.now(UTC),
                    alert_type=NODE_AUTHENTICATION,
                    reporter=events.participant(self._repository.source.AuditSourceID, host=self._repository.hostname),
                    performers=(events.participant(each.peer, host=each.peer),),
                    node_id=each.peer,
                    alert_description=f"TLS handshake refused: {many}{each.reason}",
                    outcome=EventOutcomeIndicator.SERIOUS_FAILURE,
                )
            )

    def _receive(self, connection: ssl.SSLSocket, peer: _Peer) -> None:
        """Read, store, read on. Returns when the peer is done, breaks the framing, or stalls inside a record."""
        reader = FrameReader(limit=self._record_limit)
        ingest = Ingest(self._repository, self._pool)
        clean = False
        try:
            try:
                clean = self._read(connection, reader, ingest, peer)
            except OSError as error:
                _logger.info("audit repository: connection of %s ended: %s", peer.address, error.strerror or "time-out")
            if reader.error is not None:
                _logger.warning("audit repository: %s broke the framing: %s", peer.address, reader.error)
            if (rest := reader.end()) is not None:
                self._store([rest], peer, ingest)
            ingest.drain()
        finally:
            ingest.close()
        if clean:
            with suppress(OSError):  # answering close_notify tells the sender that all it sent is stored
                connection.settimeout(self._handshake_seconds)
                connection.unwrap()

    def _read(self, connection: ssl.SSLSocket, reader: FrameReader, ingest: Ingest, peer: _Peer) -> bool:
        """Take records until the stream ends; True when it ended between two of them."""
        frames: list[Frame] = []
        try:
            while reader.error is None:
                connection.settimeout(self._frame_seconds if reader.inside_frame else None)
                data = connection.recv(_READ_SIZE)
                if not data:
                    return not reader.inside_frame
                frames += reader.feed(data)
                if len(frames) >= _BATCH or not (connection.pending() or _readable(connection)):
                    self._store(frames, peer, ingest)
                    frames = []
        finally:
            if frames:
                self._store(frames, peer, ingest)
        return False

    def _store(self, frames: list[Frame], peer: _Peer, ingest: Ingest) -> None:
        if not frames:
            return
        now = datetime.now(UTC)
        receipts = [
            Receipt.of_frame(
                each,
                received=now,
                transport=TRANSPORT,
                peer_address=peer.address,
                peer_subject=peer.subject,
                peer_sha256=peer.sha256,
            )
            for each in frames
        ]
        ingest.put(receipts, now)

    def _activity(self, *, started: bool) -> None:
        application = events.participant(self._repository.source.AuditSourceID, host=self._repository.hostname)
        self._note(
            events.application_activity(
                source=self._repository.source, at=datetime.now(UTC), started=started, application=application
            )
        )

    def _note(self, message: AuditMessage) -> None:
        self._repository.record(message, at=datetime.now(UTC))


def _handshake(connection: ssl.SSLSocket) -> OSError | None:
    try:
        connection.do_handshake()
    except OSError as error:
        return error
    return None


def _peer_of(connection: ssl.SSLSocket, address: str) -> _Peer:
    der = connection.getpeercert(binary_form=True)
    if der is None:  # cannot be with CERT_REQUIRED; a peer without certificate must never be taken for one that has
        raise Unavailable("the TLS layer gave no peer certificate", retryable=False)
    try:
        subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except ValueError:  # OpenSSL accepted what cryptography cannot parse; the digest identifies it
        subject = ""
    return _Peer(address, subject, sha256(der).hexdigest())


def _readable(connection: ssl.SSLSocket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _shut_down(connection: socket.socket) -> None:
    """Wake the thread that reads from a connection; it closes it."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
