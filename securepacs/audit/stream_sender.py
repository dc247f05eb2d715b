"""What senders over plain TCP and over TLS have in common: one connection, octet-counted frames."""

from __future__ import annotations

import select
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

from securepacs.audit.syslog import frame
from securepacs.errors import Unavailable


class StreamSender(ABC):
    """One connection to a syslog receiver. Not for several threads, except `interrupt`."""

    def __init__(self, host: str, port: int, *, connect_seconds: float, send_seconds: float) -> None:
        self._address = (host, port)
        self._connect_seconds = connect_seconds
        self._send_seconds = send_seconds
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Connect and shake hands. Raises Unavailable; a peer that refuses our certificate may say so only later (TLS 1.3)."""
        try:
            plain = socket.create_connection(self._address, timeout=self._connect_seconds)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            raise Unavailable(f"the syslog receiver does not answer: {reason(error)}") from None
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = self._protect(plain)
        except (OSError, ValueError) as error:
            plain.close()
            raise Unavailable(f"no TLS with the syslog receiver: {reason(error)}") from None
        self._socket.settimeout(self._send_seconds)

    @abstractmethod
    def _protect(self, plain: socket.socket) -> socket.socket:
        """Return the connection to speak over."""

    @abstractmethod
    def _end(self, connection: socket.socket) -> bool:
        """End in order and tell whether the peer did the same; OSError and ValueError mean that it did not."""

    def send(self, records: Sequence[bytes]) -> None:
        """Send records in one write. Returning says nothing about delivery. Raises Unavailable when the connection is gone."""
        connection = self._connected()
        self.check()
        try:
            connection.sendall(b"".join(map(frame, records)))
        except OSError as error:
            self.abort()
            raise Unavailable(f"the connection to the syslog receiver broke: {reason(error)}") from None

    def check(self) -> None:
        """Raise Unavailable when the peer has closed or refused; costs one look at the socket."""
        connection = self._connected()
        try:
            if not _readable(connection):
                return
            connection.settimeout(0)
            closed = connection.recv(4096) == b""
        except (ssl.SSLWantReadError, BlockingIOError):  # session tickets: nothing for us
            closed = False
        except OSError as error:
            self.abort()
            raise Unavailable(f"the syslog receiver ended the connection: {reason(error)}") from None
        if closed:
            self.abort()
            raise Unavailable("the syslog receiver closed the connection")
        connection.settimeout(self._send_seconds)

    def close(self, *, seconds: float = 10.0) -> bool:
        """Close in order; True when the peer answered with an orderly end, so has read everything that was sent."""
        connection, self._socket = self._socket, None
        if connection is None:
            return False
        try:
            connection.settimeout(max(seconds, 0.001))
            return self._end(connection)
        except (OSError, ValueError):  # ValueError: the other side was faster and the TLS layer is gone
            return False
        finally:
            connection.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """Make a `send` or `close` that blocks in another thread fail now."""
        connection = self._socket
        if connection is not None:
            with suppress(OSError):  # it may be broken already; SSLSocket.shutdown would take the TLS layer from that thread
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise Unavailable("not connected to the syslog receiver")
        return self._socket


def reason(error: OSError | ValueError) -> str:
    """Say in a few words what went wrong."""
    if isinstance(error, ssl.SSLError):
        return " ".join(filter(None, (error.reason or "TLS error", getattr(error, "verify_message", ""))))
    if isinstance(error, OSError):
        return error.strerror or "time-out"
    return "the host name is not valid"


def _readable(connection: socket.socket) -> bool:
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
