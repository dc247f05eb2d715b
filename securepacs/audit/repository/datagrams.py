"""Receiving syslog over UDP (RFC 5426): one datagram, one record; off unless it is asked for, because nothing protects it.

One thread takes datagrams from the socket as fast as they come, another stores them. UDP tells a sender nothing: what was taken is
kept in memory until it could be stored, and what the system had to drop meanwhile is counted and reported.
"""

from __future__ import annotations

import logging
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256

from securepacs.audit.framing import DEFAULT_LIMIT
from securepacs.audit.repository.acceptor import family_of
from securepacs.audit.repository.receipt import Receipt
from securepacs.audit.repository.repository import Repository
from securepacs.errors import Unavailable

TRANSPORT = "udp"
_LARGEST = 65_535  # octets of a datagram
_BUFFER = 16 * 1024 * 1024  # asked of the system; it gives what its own limits allow
_MAX_WAITING = 64 * 1024 * 1024  # octets in memory; beyond it the system's buffer fills
_BATCH = 1000
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 0.5
_SO_RXQ_OVFL = getattr(socket, "SO_RXQ_OVFL", 40)  # Linux: datagrams dropped so far, with each that was not
_OPENED = re.compile(rb"<(?:[\w.-]+:)?AuditMessage[\s>]")
_CLOSED = re.compile(rb"</(?:[\w.-]+:)?AuditMessage\s*>[\s\0]*\Z")
_logger = logging.getLogger(__name__)


class DatagramReceiver:
    """Listens on a UDP port once made; `start` begins to take records. Their senders are not authenticated.

    `on_dropped(count)` tells how many datagrams the system dropped because they came faster than they could be taken.
    """

    def __init__(
        self,
        repository: Repository,
        host: str,
        port: int,
        *,
        record_limit: int = DEFAULT_LIMIT,
        on_dropped: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._repository = repository
        self._record_limit = record_limit
        self._on_dropped = on_dropped
        self._dropped = 0
        self._waiting: deque[Receipt] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._ended = False
        self._socket = socket.socket(family_of(host), socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"cannot listen on {host}:{port} (UDP): {error.strerror}", retryable=False) from None
        for option in (getattr(socket, "SO_RCVBUFFORCE", 33), socket.SO_RCVBUF):
            with suppress(OSError):  # the first needs a privilege, and is not on every system
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
                break
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self._taking = threading.Thread(target=self._take, name="audit-udp-take", daemon=True)
        self._storing = threading.Thread(target=self._store, name="audit-udp-store", daemon=True)

    @property
    def port(self) -> int:
        """The UDP port it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Take datagrams from now on."""
        self._taking.start()
        self._storing.start()

    def stop(self) -> None:
        """Take what has arrived already, and return when it is stored, or cannot be."""
        self._stopping.set()
        for thread in (self._taking, self._storing):
            if thread.ident is not None:
                thread.join()
        self._socket.close()

    def _take(self) -> None:
        self._socket.settimeout(_LOOK_SECONDS)
        while True:
            ending = self._stopping.is_set()
            if ending:
                self._socket.settimeout(0)
            try:
                data, ancillary, flags, address = self._socket.recvmsg(_LARGEST, socket.CMSG_SPACE(4))
            except (TimeoutError, BlockingIOError):
                if ending:
                    break
                continue
            except OSError as error:
                _logger.error("audit repository: receiving a datagram failed: %s", error.strerror)
                self._stopping.wait(_LOOK_SECONDS)
                continue
            self._count_dropped(ancillary)
            if data:
                self._put(self._receipt(data, str(address[0]), cut=bool(flags & socket.MSG_TRUNC)))
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, receipt: Receipt) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._size < _MAX_WAITING or self._ended)
            self._waiting.append(receipt)
            self._size += len(receipt.raw)
            self._changed.notify_all()

    def _receipt(self, data: bytes, address: str, *, cut: bool) -> Receipt:
        """A record that does not end is marked: the sender, or its way here, cut it to what fits a datagram."""
        kept = data[: self._record_limit]
        return Receipt(
            kept,
            datetime.now(UTC),
            TRANSPORT,
            len(data),
            sha256(data).hexdigest(),
            truncated=cut or len(kept) < len(data) or is_cut_off(data),
            peer_address=address,
        )

    def _count_dropped(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL and len(value) >= 4:
                total = int(struct.unpack("I", value[:4])[0])
                fresh, self._dropped = (total - self._dropped) % 2**32, total
                if fresh:
                    _logger.error("audit repository: %d datagrams were dropped by the system", fresh)
                    self._on_dropped(fresh)

    def _store(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                batch = [self._waiting[number] for number in range(min(len(self._waiting), _BATCH))]
            if not batch:
                return
            try:
                self._repository.store(batch)
            except Unavailable as error:
                _logger.error("audit repository: datagrams wait, because they cannot be stored: %s", error)
                if self._stopping.wait(_RETRY_SECONDS):
                    self._give_up()
                    return
                continue
            with self._changed:
                for receipt in batch:
                    self._waiting.popleft()
                    self._size -= len(receipt.raw)
                self._changed.notify_all()

    def _give_up(self) -> None:
        lost = 0
        with self._changed:
            while self._waiting or not self._ended:
                lost += len(self._waiting)
                self._waiting.clear()
                self._size = 0
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._ended)
        _logger.critical("audit repository: %d datagrams are lost, because they cannot be stored", lost)


def is_cut_off(data: bytes) -> bool:
    """Tell whether an audit message begins in a datagram and does not end in it (IHE ITI-20: senders may truncate over UDP)."""
    return _OPENED.search(data) is not None and _CLOSED.search(data, max(len(data) - 200, 0)) is None
