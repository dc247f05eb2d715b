"""Taking syslog frames from one connection, with or without TLS: read, store, read on.

What a connection sent before it broke is kept, a cut-off record as truncated, and so are the octets that begin no frame. Nothing of
a connection is stored after records of it that could not be stored.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from cryptography import x509

from securepacs.audit.framing import DEFAULT_LIMIT, Frame, FrameReader
from securepacs.audit.repository.ingest import Ingest
from securepacs.audit.repository.receipt import Receipt
from securepacs.errors import Unavailable

_READ_SIZE = 64 * 1024
_BATCH = 128  # records handed on together while more is there to be read
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sends: its address, and of an authenticated one the subject (RFC 4514) and digest of its certificate."""

    address: str
    subject: str = ""
    sha256: str = ""


def receive(
    connection: socket.socket, reader: FrameReader, ingest: Ingest, peer: Peer, *, transport: str, frame_seconds: float
) -> bool:
    """Store what comes until the peer is done, breaks the framing, or stalls inside a record.

    True when the stream ended between two records; everything is durable then. Raises Unavailable when something could not be
    stored.
    """
    clean = False
    try:
        try:
            clean = _read(connection, reader, ingest, peer, transport, frame_seconds)
        except OSError as error:
            _logger.info("audit repository: connection of %s ended: %s", peer.address, error.strerror or "time-out")
        if reader.error is not None:
            _logger.warning("audit repository: %s broke the framing: %s", peer.address, reader.error)
        if (rest := reader.end()) is not None:
            _store([rest], peer, ingest, transport)
        ingest.drain()
    finally:
        ingest.close()
    return clean


def _read(connection: socket.socket, reader: FrameReader, ingest: Ingest, peer: Peer, transport: str, frame_seconds: float) -> bool:
    frames: list[Frame] = []
    try:
        while reader.error is None:
            connection.settimeout(frame_seconds if reader.inside_frame else None)
            data = connection.recv(_READ_SIZE)
            if not data:
                return not reader.inside_frame
            frames += reader.feed(data)
            if len(frames) >= _BATCH or not _more(connection):
                _store(frames, peer, ingest, transport)
                frames = []
        _read_rest(connection, reader, frame_seconds)
    finally:
        if frames:
            _store(frames, peer, ingest, transport)
    return False


def _read_rest(connection: socket.socket, reader: FrameReader, frame_seconds: float) -> None:
    """After broken framing take what has arrived already, and no more: the sender is to notice, and begin anew."""
    connection.settimeout(frame_seconds)
    for _ in range(DEFAULT_LIMIT // _READ_SIZE):
        data = connection.recv(_READ_SIZE) if _more(connection) else b""
        if not data:
            return
        reader.feed_rest(data)


def _store(frames: list[Frame], peer: Peer, ingest: Ingest, transport: str) -> None:
    if not frames:
        return
    now = datetime.now(UTC)
    receipts = [
        Receipt.of_frame(
            each,
            received=now,
            transport=transport,
            peer_address=peer.address,
            peer_subject=peer.subject,
            peer_sha256=peer.sha256,
        )
        for each in frames
    ]
    ingest.put(receipts, now)


def authenticated_peer(connection: ssl.SSLSocket, address: str) -> Peer:
    """Return the peer of a connection that required a certificate. Raises Unavailable when there is none."""
    der = connection.getpeercert(binary_form=True)
    if der is None:  # cannot be with CERT_REQUIRED; a peer without certificate must never be taken for one that has
        raise Unavailable("the TLS layer gave no peer certificate", retryable=False)
    try:
        subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except ValueError:  # OpenSSL accepted what cryptography cannot parse; the digest identifies it
        subject = ""
    return Peer(address, subject, sha256(der).hexdigest())


def reset(connection: socket.socket) -> None:
    """Have the coming close be a reset: over plain TCP an orderly end would tell the sender that everything is stored."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _more(connection: socket.socket) -> bool:
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
