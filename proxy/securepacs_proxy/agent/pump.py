"""Bytes between the viewer and the gateway until one side ends or somebody ends both.

Not interpreted: everything but the length of PDUs, which tells where an A-ABORT may stand. One thread, both sockets non-blocking:
an OpenSSL connection must not be used by two threads.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
from contextlib import suppress

from securepacs_proxy.dicom.pdu import Abort, AssociateRJ, encode

_log = logging.getLogger(__name__)
HEADER = struct.Struct(">BxI")
_CHUNK = 256 * 1024
CLOSE_SECONDS = 2.0
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
TRY_AGAIN = encode(AssociateRJ(result=2, source=3, reason=1))  # transient, presentation, temporary congestion (PS3.8 9.3.4)
ABORT = encode(Abort(source=2, reason=0))


class Bell:
    """Wakes a thread that waits for sockets; `why` is the reason of the last ring."""

    def __init__(self) -> None:
        self._button, self.heard = socket.socketpair()
        self.why = ""

    def ring(self, why: str) -> None:
        """Have the thread end what it does; may be called from any thread, also when it has ended."""
        self.why = why
        with suppress(OSError):
            self._button.send(b"!")

    def close(self) -> None:
        """Take it down."""
        self._button.close()
        self.heard.close()


class PduBoundary:
    """Follows the PDUs of one direction; `reached` when everything fed so far ends with a whole PDU (PS3.8 9.3.1)."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    @property
    def reached(self) -> bool:
        return not self._header and not self._left

    def feed(self, data: memoryview) -> None:
        """Take the next bytes."""
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                continue
            missing = HEADER.size - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) == HEADER.size:
                _, self._left = HEADER.unpack(self._header)
                self._header = b""


class _Flow:
    """One direction: what was read and is not written yet."""

    def __init__(self, source: socket.socket, target: socket.socket, first: bytes) -> None:
        self.source, self.target = source, target
        self.waiting = memoryview(first)
        self.boundary = PduBoundary()
        self.boundary.feed(self.waiting)
        self.ended = False


def pump(viewer: socket.socket, gateway: ssl.SSLSocket, bell: Bell, *, to_gateway: bytes = b"", to_viewer: bytes = b"") -> None:
    """Move bytes until the association is over; what was read before goes first. A ring of the bell aborts both sides."""
    out, back = _Flow(viewer, gateway, to_gateway), _Flow(gateway, viewer, to_viewer)
    for sock in (viewer, gateway):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    while not (out.ended or back.ended):
        reads: list[socket.socket] = [bell.heard]
        writes: list[socket.socket] = []
        for flow in (out, back):
            _move(flow)
            (writes if flow.waiting else reads).append(flow.target if flow.waiting else flow.source)
        if out.ended or back.ended:
            break
        ready, _, _ = select.select(reads, writes, [])
        if bell.heard in ready:
            _abort(bell.why, out, back)
            with suppress(OSError):
                viewer.shutdown(socket.SHUT_WR)
            return
    for flow in (out, back):
        _finish(flow)
    with suppress(OSError, ValueError):
        gateway.settimeout(CLOSE_SECONDS)
        gateway.unwrap()
    linger(viewer)


def _move(flow: _Flow) -> None:
    """Read and write until the operating system has nothing more to give or take."""
    while not flow.ended:
        if not flow.waiting:
            data = received(flow.source)
            if data is None:
                return
            if not data:
                flow.ended = True
                return
            flow.waiting = memoryview(data)
            flow.boundary.feed(flow.waiting)
        sent = _sent(flow.target, flow.waiting)
        if not sent:
            return
        flow.waiting = flow.waiting[sent:]


def _finish(flow: _Flow) -> None:
    with suppress(OSError):
        flow.target.settimeout(CLOSE_SECONDS)
        if flow.waiting:
            flow.target.sendall(flow.waiting)


def _abort(why: str, *flows: _Flow) -> None:
    """Tell both sides, each where a PDU may begin; a side in the middle of one is just cut."""
    _log.warning("an association was aborted: %s", why)
    for flow in flows:
        if not flow.waiting and flow.boundary.reached:
            with suppress(OSError):
                flow.target.settimeout(CLOSE_SECONDS / 4)
                flow.target.sendall(ABORT)


def received(sock: socket.socket) -> bytes | None:
    """Return what has arrived, empty at the end, None when nothing waits."""
    try:
        data = sock.recv(_CHUNK)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
        return None
    except (ssl.SSLZeroReturnError, ssl.SSLEOFError, ConnectionError):
        return b""
    if _QUICKACK is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
    return data


def _sent(sock: socket.socket, data: memoryview) -> int:
    try:
        return sock.send(data)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
        return 0


def linger(sock: socket.socket) -> None:
    """Let the last bytes arrive: closing a socket with unread input would destroy them."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(CLOSE_SECONDS)
        while sock.recv(_CHUNK):
            pass
