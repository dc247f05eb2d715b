"""Sending audit records over plain TCP (RFC 6587, octet counting): anybody on the way reads and alters them."""

from __future__ import annotations

import socket

from securepacs.audit.stream_sender import StreamSender

DEFAULT_PORT = 514


class SyslogTcpSender(StreamSender):
    """One unprotected connection to a syslog receiver (RFC 6587 3.4.1). Not for several threads, except `interrupt`.

    Always counts octets: records may hold line ends, and nothing of them is changed. `close` gives True when the peer ended its
    side in order after ours.
    """

    def __init__(self, host: str, port: int, *, connect_seconds: float = 10.0, send_seconds: float = 60.0) -> None:
        super().__init__(host, port, connect_seconds=connect_seconds, send_seconds=send_seconds)

    def _protect(self, plain: socket.socket) -> socket.socket:
        return plain

    def _end(self, connection: socket.socket) -> bool:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):  # syslog receivers say nothing; what one says all the same is not for us
            pass
        return True
