"""Sending audit records over TLS (RFC 5425): one connection, and the forwarder that keeps a destination up to date.

Syslog has no acknowledgement, and closing TLS loses what was on its way. What the forwarder counts as delivered:
1. what the peer confirmed by answering our close_notify (it has read everything by then), at a clean stop;
2. what was sent longer than `window_seconds` ago, or more than `window_bytes` before the newest, on a connection that still stands.
Everything else is sent again on the next connection: at least once, in order, duplicates marked by the repository.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from securepacs.audit.group import notify
from securepacs.audit.segments import Cursor, SpoolReader, SpoolRecord
from securepacs.audit.syslog import frame
from securepacs.errors import Unavailable

DEFAULT_PORT = 6514
_BATCH_BYTES = 256 * 1024
_logger = logging.getLogger(__name__)


class SyslogTlsSender:
    """One TLS connection to a syslog receiver. Not for several threads, except `interrupt`."""

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
        self._address = (host, port)
        self._context = context
        self._server_hostname = server_hostname or host
        self._connect_seconds = connect_seconds
        self._send_seconds = send_seconds
        self._socket: ssl.SSLSocket | None = None

    def connect(self) -> None:
        """Connect and shake hands. Raises Unavailable; a peer that refuses our certificate may say so only later (TLS 1.3)."""
        try:
            plain = socket.create_connection(self._address, timeout=self._connect_seconds)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            raise Unavailable(f"the syslog receiver does not answer: {_reason(error)}") from None
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = self._context.wrap_socket(plain, server_hostname=self._server_hostname, suppress_ragged_eofs=False)
        except (OSError, ValueError) as error:
            plain.close()
            raise Unavailable(f"no TLS with the syslog receiver: {_reason(error)}") from None
        self._socket.settimeout(self._send_seconds)

    def send(self, records: Sequence[bytes]) -> None:
        """Send records in one write. Returning says nothing about delivery. Raises Unavailable when the connection is gone."""
        connection = self._connected()
        self.check()
        try:
            connection.sendall(b"".join(map(frame, records)))
        except OSError as error:
            self.abort()
            raise Unavailable(f"the connection to the syslog receiver broke: {_reason(error)}") from None

    def check(self) -> None:
        """Raise Unavailable when the peer has closed or refused; costs one look at the socket."""
        connection = self._connected()
        try:
            if not (connection.pending() or _readable(connection)):
                return
            connection.settimeout(0)
            closed = connection.recv(4096) == b""
        except (ssl.SSLWantReadError, BlockingIOError):  # session tickets: nothing for us
            closed = False
        except OSError as error:
            self.abort()
            raise Unavailable(f"the syslog receiver ended the connection: {_reason(error)}") from None
        if closed:
            self.abort()
            raise Unavailable("the syslog receiver closed the connection")
        connection.settimeout(self._send_seconds)

    def close(self, *, seconds: float = 10.0) -> bool:
        """Close in order; True when the peer answered our close_notify, so has read everything that was sent."""
        connection, self._socket = self._socket, None
        if connection is None:
            return False
        try:
            connection.settimeout(max(seconds, 0.001))
            connection.unwrap()
        except (OSError, ValueError):  # ValueError: the other side was faster and the TLS layer is gone
            return False
        finally:
            connection.close()
        return True

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

    def _connected(self) -> ssl.SSLSocket:
        if self._socket is None:
            raise Unavailable("not connected to the syslog receiver")
        return self._socket


@dataclass(frozen=True, slots=True)
class ForwarderStatus:
    """A moment's view: `sent` counts records put on the wire, repetitions included; `error` is why it is not connected."""

    connected: bool = False
    sent: int = 0
    connections: int = 0
    error: str = ""


@dataclass(slots=True)
class _Source:
    """One spool folder as one destination sees it. `window` holds (sequence, size, moment sent) of what may be lost."""

    folder: Path
    cursor: Cursor
    confirmed: int
    saved: int
    reader: SpoolReader
    window: deque[tuple[int, int, float]] = field(default_factory=deque)
    window_size: int = 0

    def rewind(self) -> None:
        self.reader.close()
        self.reader = SpoolReader(self.folder, after=self.confirmed)
        self.window.clear()
        self.window_size = 0

    def sent(self, records: Sequence[SpoolRecord], now: float) -> None:
        for record in records:
            self.window.append((record.sequence, len(record.data), now))
            self.window_size += len(record.data)

    def confirm_before(self, moment: float, size: int) -> None:
        while self.window and (self.window[0][2] <= moment or self.window_size - self.window[0][1] >= size):
            self.confirmed, taken, _ = self.window.popleft()
            self.window_size -= taken

    def save(self) -> None:
        if self.confirmed != self.saved:
            self.cursor.save(self.confirmed)
            self.saved = self.confirmed


class Forwarder:
    """A thread that delivers the records of spool folders to one destination, each folder in its order.

    `name` names the cursor files, so it must stay the same over restarts and differ between destinations. `on_change` is called
    from the thread when a connection is made or lost.
    """

    def __init__(
        self,
        folders: Sequence[Path | str],
        sender: SyslogTlsSender,
        *,
        name: str,
        window_bytes: int = 8 * 1024 * 1024,
        window_seconds: float = 300.0,
        first_delay: float = 0.5,
        longest_delay: float = 60.0,
        poll_seconds: float = 0.1,
        on_change: Callable[[ForwarderStatus], None] | None = None,
    ) -> None:
        self._sender = sender
        self._window_bytes = window_bytes
        self._window_seconds = window_seconds
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._next_save = 0.0
        self._status = ForwarderStatus()
        self._sources = [self._source(Path(folder), name) for folder in folders]
        self._thread = threading.Thread(target=self._run, name=f"audit-forwarder-{name}", daemon=True)

    @staticmethod
    def _source(folder: Path, name: str) -> _Source:
        cursor = Cursor(folder, name)
        reached = cursor.load() or 0
        return _Source(folder, cursor, reached, -1, SpoolReader(folder, after=reached))

    @property
    def status(self) -> ForwarderStatus:
        """What it is doing."""
        return self._status

    def start(self) -> None:
        """Begin to deliver. The cursors are saved first, so that the spool keeps what this destination has not seen."""
        for source in self._sources:
            source.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            source.save()
        self._thread.start()

    def wake(self) -> None:
        """Look at the spool now, not at the next poll."""
        self._wake.set()

    def stop(self, *, drain_seconds: float = 10.0) -> bool:
        """Deliver what is there, close in order and end, all within `drain_seconds`.

        True when the peer confirmed everything; otherwise the rest stays in the spool and is sent (again) after the next start.
        """
        self._deadline = time.monotonic() + drain_seconds
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(drain_seconds)
        if self._thread.is_alive():
            self._sender.interrupt()
            self._thread.join()
        complete = all(not source.window and not source.reader.read(at_most=1) for source in self._sources)
        for source in self._sources:
            source.reader.close()
        return complete

    # --- the thread --------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        delay = self._first_delay
        while not self._stopping.is_set() or time.monotonic() < self._deadline:
            began = time.monotonic()
            try:
                self._sender.connect()
                self._change(connected=True, connections=self._status.connections + 1, error="")
                if self._deliver():
                    break
            except (Unavailable, OSError) as error:
                self._sender.abort()
                self._change(connected=False, error=str(error))
            if time.monotonic() - began > delay:
                delay = self._first_delay
            self._pause(delay)
            delay = min(2 * delay, self._longest_delay)
        self._sender.abort()
        self._change(connected=False)
        self._save(now=True)

    def _deliver(self) -> bool:
        """Send over the standing connection until told to stop; True when the end was in order."""
        for source in self._sources:
            source.rewind()
        while True:
            sent = sum(self._send_some(source) for source in self._sources)
            self._confirm()
            if sent:
                continue
            if self._stopping.is_set():
                return self._finish()
            self._sender.check()
            self._wake.wait(self._poll_seconds)
            self._wake.clear()

    def _send_some(self, source: _Source) -> int:
        if self._stopping.is_set() and time.monotonic() > self._deadline:
            return 0
        records = source.reader.read(at_most=_BATCH_BYTES)
        if records:
            self._sender.send([record.data for record in records])
            source.sent(records, time.monotonic())
            self._status = replace(self._status, sent=self._status.sent + len(records))
        return len(records)

    def _confirm(self) -> None:
        moment = time.monotonic() - self._window_seconds
        for source in self._sources:
            source.confirm_before(moment, self._window_bytes)
        self._save()

    def _finish(self) -> bool:
        if self._sender.close(seconds=max(self._deadline - time.monotonic(), 0.1)):
            for source in self._sources:
                source.confirm_before(time.monotonic(), 0)
        return True

    def _save(self, *, now: bool = False) -> None:
        if now or time.monotonic() >= self._next_save:
            self._next_save = time.monotonic() + 1.0
            for source in self._sources:
                try:
                    source.save()
                except Unavailable as error:  # costs repetitions after a restart, and keeps segments; delivery goes on
                    _logger.error("audit forwarder: %s", error)

    def _pause(self, seconds: float) -> None:
        """Wait out the back-off; a stop shortens it, new records do not."""
        if self._stopping.wait(seconds):
            time.sleep(max(min(self._first_delay, self._deadline - time.monotonic()), 0))

    def _change(self, *, connected: bool, connections: int | None = None, error: str | None = None) -> None:
        before = self._status
        self._status = replace(
            before,
            connected=connected,
            connections=before.connections if connections is None else connections,
            error=before.error if error is None else error,
        )
        if (before.connected, before.error) != (self._status.connected, self._status.error):
            _logger.log(
                logging.INFO if connected else logging.WARNING, "audit forwarder: connected=%s %s", connected, self._status.error
            )
            if self._on_change is not None:
                notify(self._on_change, self._status)


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return " ".join(filter(None, (error.reason or "TLS error", getattr(error, "verify_message", ""))))
    if isinstance(error, OSError):
        return error.strerror or "time-out"
    return "the host name is not valid"
