"""One association that the viewer opens: its request is held until the card is open, then bytes pass both ways."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Protocol

from securepacs.errors import ProtocolError, SecurePacsError, TokenError, TokenNotPresent, Unavailable
from securepacs_proxy.agent.door import Door, Login
from securepacs_proxy.agent.pump import HEADER, TRY_AGAIN, Bell, linger, pump
from securepacs_proxy.dicom.pdu import PduType

_log = logging.getLogger(__name__)
_REQUEST_LIMIT = 1 << 20
_REQUEST_SECONDS = 30.0


class Association:
    """One connection of the viewer. `run` returns when it is over; `end` may be called from any thread."""

    def __init__(self, viewer: socket.socket, door: Door, connect: Callable[[Login], ssl.SSLSocket], login_seconds: float) -> None:
        self._viewer = viewer
        self._door = door
        self._connect = connect
        self._login_seconds = login_seconds
        self._bell = Bell()
        self.login: Login | None = None

    def end(self, why: str) -> None:
        """Have the association aborted."""
        self._bell.ring(why)

    def run(self) -> None:
        """Serve the association to its end."""
        try:
            request = self._request()
            if request:
                self._relay(request)
        except (OSError, ProtocolError) as error:
            _log.info("an association ended: %s", error)
        finally:
            self._viewer.close()
            self._bell.close()

    def _request(self) -> bytes:
        """Read the A-ASSOCIATE-RQ; anything else is not answered. Empty when the viewer only knocked."""
        self._viewer.settimeout(_REQUEST_SECONDS)
        header = _read(self._viewer, HEADER.size)
        if not header:
            return b""
        kind, length = HEADER.unpack(header)
        if kind != PduType.ASSOCIATE_RQ or length > _REQUEST_LIMIT:
            raise ProtocolError("the viewer does not speak DICOM", standard="PS3.8 9.3")
        return header + _read(self._viewer, length)

    def _relay(self, request: bytes) -> None:
        try:
            gateway = self._open()
        except SecurePacsError as error:
            _log.warning("an association was refused: %s", error)
            self._viewer.sendall(TRY_AGAIN)
            linger(self._viewer)
            return
        try:
            pump(self._viewer, gateway, self._bell, to_gateway=request)
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
            raise TokenError(self._bell.why or "the card was logged out")
        return connection


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


class Live(Protocol):
    """An association that lives by a login."""

    login: Login | None

    def end(self, why: str) -> None:
        """Have it aborted."""
        ...


class Associations:
    """The live associations of the agent, those of the viewer and those delivered to it."""

    def __init__(self) -> None:
        self._live: set[Live] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._live)

    def run(self, association: Live, serve: Callable[[], None]) -> None:
        """Serve one association in this thread, counted while it lives."""
        with self._lock:
            self._live.add(association)
        try:
            serve()
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
