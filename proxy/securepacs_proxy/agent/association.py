"""One association through the agent: its request is held until the card is open, then bytes pass both ways until one side ends.

Not interpreted: everything but the length of PDUs, which tells where an A-ABORT may stand. One thread, both sockets non-blocking:
an OpenSSL connection must not be used by two threads.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from securepacs.errors import ProtocolError, SecurePacsError, TokenError, TokenNotPresent, Unavailable
from securepacs_proxy.agent.door import Door, Login
from securepacs_proxy.dicom.pdu import Abort, AssociateRJ, PduType, encode

_log = logging.getLogger(__name__)
_HEADER = struct.Struct(">BxI")
_REQUEST_LIMIT = 1 << 20
_REQUEST_SECONDS = 30.0
_CHUNK = 256 * 1024
_CLOSE_SECONDS = 2.0
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
TRY_AGAIN = encode(AssociateRJ(result=2, source=3, reason=1))  # transient, presentation, temporary congestion (PS3.8 9.3.4)
ABORT = encode(Abort(source=2, reason=0))


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
            missing = _HEADER.size - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) == _HEADER.size:
                _, self._left = _HEADER.unpack(self._header)
                self._header = b""


class _Flow:
    """One direction: what was read and is not written yet."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.waiting = memoryview(b"")
        self.boundary = PduBoundary()
        self.ended = False


class Association:
    """One connection of the viewer. `run` returns when it is over; `end` may be called from any thread."""

    def __init__(self, viewer: socket.socket, door: Door, connect: Callable[[Login], ssl.SSLSocket], login_seconds: float) -> None:
        self._viewer = viewer
        self._door = door
        self._connect = connect
        self._login_seconds = login_seconds
        self._bell, self._listener = socket.socketpair()
        self._why = ""
        self.login: Login | None = None

    def end(self, why: str) -> None:
        """Have the association aborted."""
        self._why = why
        with suppress(OSError):
            self._bell.send(b"!")

    def run(self) -> None:
        """Serve the association to its end."""
        try:
            request = self._request()
            if request:
                self._relay(request)
        except (OSError, ProtocolError) as error:
            _log.info("an association ended: %s", error)
        finally:
            for sock in (self._viewer, self._bell, self._listener):
                sock.close()

    def _request(self) -> bytes:
        """Read the A-ASSOCIATE-RQ; anything else is not answered. Empty when the viewer only knocked."""
        self._viewer.settimeout(_REQUEST_SECONDS)
        header = _read(self._viewer, _HEADER.size)
        if not header:
            return b""
        kind, length = _HEADER.unpack(header)
        if kind != PduType.ASSOCIATE_RQ or length > _REQUEST_LIMIT:
            raise ProtocolError("the viewer does not speak DICOM", standard="PS3.8 9.3")
        return header + _read(self._viewer, length)

    def _relay(self, request: bytes) -> None:
        try:
            gateway = self._open()
        except SecurePacsError as error:
            _log.warning("an association was refused: %s", error)
            self._viewer.sendall(TRY_AGAIN)
            _linger(self._viewer)
            return
        try:
            self._pump(gateway, request)
        finally:
            gateway.close()

    def _open(self) -> ssl.SSLSocket:
        self.login = login = self._door.enter(seconds=self._login_seconds)
        try:
            connection = self._connect(login)
        except TokenError as error:
            self._door.lost(login, removed=any(isinstance(one, TokenNotPresent) for one in (error, error.__cause__)))
            raise
        if self._door.login is not login:  # closed while the handshake went on
            connection.close()
            raise TokenError(self._why or "the card was logged out")
        return connection

    def _pump(self, gateway: ssl.SSLSocket, request: bytes) -> None:
        out, back = _Flow(self._viewer, gateway), _Flow(gateway, self._viewer)
        out.waiting = memoryview(request)
        out.boundary.feed(out.waiting)
        for sock in (self._viewer, gateway):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        while not (out.ended or back.ended):
            reads: list[socket.socket] = [self._listener]
            writes: list[socket.socket] = []
            for flow in (out, back):
                self._move(flow)
                (writes if flow.waiting else reads).append(flow.target if flow.waiting else flow.source)
            if out.ended or back.ended:
                break
            ready, _, _ = select.select(reads, writes, [])
            if self._listener in ready:
                self._abort(out, back)
                return
        for flow in (out, back):
            self._finish(flow)
        with suppress(OSError, ValueError):
            gateway.settimeout(_CLOSE_SECONDS)
            gateway.unwrap()
        _linger(self._viewer)

    def _move(self, flow: _Flow) -> None:
        """Read and write until the operating system has nothing more to give or take."""
        while not flow.ended:
            if not flow.waiting:
                data = _received(flow.source)
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

    def _finish(self, flow: _Flow) -> None:
        with suppress(OSError):
            flow.target.settimeout(_CLOSE_SECONDS)
            if flow.waiting:
                flow.target.sendall(flow.waiting)

    def _abort(self, *flows: _Flow) -> None:
        """Tell both sides, each where a PDU may begin; a side in the middle of one is just cut."""
        _log.warning("an association was aborted: %s", self._why)
        for flow in flows:
            if not flow.waiting and flow.boundary.reached:
                with suppress(OSError):
                    flow.target.settimeout(_CLOSE_SECONDS / 4)
                    flow.target.sendall(ABORT)
        with suppress(OSError):
            self._viewer.shutdown(socket.SHUT_WR)


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            if data:
                raise Unavailable("the viewer closed in the middle of its request")
            return b""
        data += part
    return data


def _received(sock: socket.socket) -> bytes | None:
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


def _linger(sock: socket.socket) -> None:
    """Let the last bytes arrive: closing a socket with unread input would destroy them."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(_CLOSE_SECONDS)
        while sock.recv(_CHUNK):
            pass


class Associations:
    """The live associations of the agent."""

    def __init__(self) -> None:
        self._live: set[Association] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._live)

    def run(self, association: Association) -> None:
        """Serve one association in this thread, counted while it lives."""
        with self._lock:
            self._live.add(association)
        try:
            association.run()
        except SecurePacsError as error:
            _log.info("an association ended: %s", error)
        finally:
            with self._lock:
                self._live.discard(association)

    def end_all(self, why: str) -> None:
        """Abort every association that lives by a login."""
        with self._lock:
            live = [association for association in self._live if association.login is not None]
        for association in live:
            association.end(why)
