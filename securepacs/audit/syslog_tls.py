"""Sending audit records over TLS (RFC 5425)."""

from __future__ import annotations

import socket
import ssl

from securepacs.audit.stream_sender import StreamSender

DEFAULT_PORT = 6514


class SyslogTlsSender(StreamSender):
    """One TLS connection to a syslog receiver (RFC 5425). Not for several threads, except `interrupt`.

    `close` gives True when the peer answered our close_notify.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        connect_seconds: float = 10.0,
        send_seconds: float = 60.0,
    ) -> None:
        super().__init__(host, port, connect_seconds=connect_seconds, send_seconds=send_seconds)
        self._context = context
        self._server_hostname = server_hostname or host

    def _protect(self, plain: socket.socket) -> socket.socket:
        return self._context.wrap_socket(plain, server_hostname=self._server_hostname, suppress_ragged_eofs=False)

    def _end(self, connection: socket.socket) -> bool:
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()
            return True
        return False
