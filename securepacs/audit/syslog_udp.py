"""Sending audit records over UDP (RFC 5426): unprotected, and nobody tells when one is lost.

What is known of a datagram is only that it left. An ICMP error (nobody listens there) makes the receiver unavailable; all else that
happens on the way is not noticed.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Sequence

from securepacs.audit.stream_sender import reason
from securepacs.errors import Unavailable

DEFAULT_PORT = 514
LARGEST = {socket.AF_INET: 65_507, socket.AF_INET6: 65_527}  # octets of a datagram's data
_BURST = 32 * 1024  # octets between two pauses: a receiver's buffer is often no more than 208 KiB
_PAUSE_SECONDS = 0.005
_ERROR_MILLISECONDS = 50
_logger = logging.getLogger(__name__)


class SyslogUdpSender:
    """A way to a syslog receiver by datagrams, one for each record. Not for several threads.

    A record that no datagram holds is cut to what one does, as IHE ITI-20 lets senders do, and that is logged. `close` gives True
    when no error came back.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._since_pause = 0

    def connect(self) -> None:
        """Look the host up; nothing is sent. Raises Unavailable."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(address)
        except (OSError, ValueError) as error:
            self.abort()
            raise Unavailable(f"the syslog receiver is not known: {reason(error)}") from None

    def send(self, records: Sequence[bytes]) -> None:
        """Send a datagram for each record, with pauses. Raises Unavailable when the receiver's system says that nobody listens."""
        sending = self._connected()
        try:
            for record in records:
                data = self._fitting(record, LARGEST[sending.family])
                sending.send(data)
                self._since_pause += len(data)
                if self._since_pause >= _BURST:
                    self._since_pause = 0
                    time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            self.abort()
            raise Unavailable(f"the syslog receiver does not take datagrams: {reason(error)}") from None

    def check(self) -> None:
        """Raise Unavailable when an error came back."""
        number = self._connected().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.abort()
            raise Unavailable(f"the syslog receiver does not take datagrams: {os.strerror(number)}")

    def close(self, *, seconds: float = 10.0) -> bool:
        """Wait a moment for an error to come back; True when there is none."""
        if self._socket is None:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLERR)
        poll.poll(min(1000 * seconds, _ERROR_MILLISECONDS))
        try:
            self.check()
        except Unavailable:
            return False
        self.abort()
        return True

    def abort(self) -> None:
        """Let go of the socket."""
        sending, self._socket = self._socket, None
        if sending is not None:
            sending.close()

    def interrupt(self) -> None:
        """Nothing here blocks."""

    @staticmethod
    def _fitting(record: bytes, largest: int) -> bytes:
        if len(record) <= largest:
            return record
        end = largest
        while end and record[end] & 0xC0 == 0x80:  # not inside a character
            end -= 1
        _logger.warning("audit: a record of %d octets was cut to %d: no datagram holds more", len(record), end)
        return record[:end]

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise Unavailable("not connected to the syslog receiver")
        return self._socket
