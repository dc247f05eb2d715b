"""Ports of a gateway: bound once by the supervisor, shared by all workers; and the count of connections over all workers."""

from __future__ import annotations

import hashlib
import mmap
import socket
import struct
from collections.abc import Sequence

from securepacs.errors import ConfigError
from securepacs_proxy.reload import Listener
from securepacs_proxy.ways import Egress

_BACKLOG = 4096
_SLOT = struct.Struct("=Q")


def bind(listeners: Sequence[Listener | Egress]) -> list[socket.socket]:
    """Bind and listen on every port; port 0 lets the system choose. Raises ConfigError."""
    sockets: list[socket.socket] = []
    for listener in listeners:
        try:
            sockets.append(_bind(listener))
        except OSError as error:
            for open_socket in sockets:
                open_socket.close()
            raise ConfigError(
                f"cannot listen on {listener.host} port {listener.port}: {error.strerror or error}",
                key="egress" if isinstance(listener, Egress) else "listener",
                hint="is another program listening there, or does the port need a privilege?",
            ) from None
    return sockets


def _bind(listener: Listener | Egress) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class PeerCounts:
    """How often each peer was counted, over all workers, in shared memory of a fixed size whatever the number of peers.

    A count-min sketch: each worker writes a table of its own and reads all; an estimate is never too low, and too high only when
    other peers share all four places of a peer. Kept per `window`: an estimate begins anew when the window does.
    """

    _ROWS = 4
    _COLUMNS = 4096
    _CELL = struct.Struct("=q")

    def __init__(self, workers: int) -> None:
        self._size = (self._ROWS * self._COLUMNS + 1) * self._CELL.size  # the first cell tells the window
        self._memory = mmap.mmap(-1, workers * self._size)
        self._workers = workers

    def add(self, worker: int, peer: str, delta: int, *, window: int = 0) -> None:
        """Count in the table of one worker, which alone writes it."""
        start = worker * self._size
        if self._CELL.unpack_from(self._memory, start)[0] != window:
            self.clear(worker)
            self._CELL.pack_into(self._memory, start, window)
        for place in self._places(peer):
            (count,) = self._CELL.unpack_from(self._memory, start + place)
            self._CELL.pack_into(self._memory, start + place, max(count + delta, 0))

    def estimate(self, peer: str, *, window: int = 0) -> int:
        """Return how often a peer was counted, by all workers."""
        starts = [
            start
            for start in range(0, self._workers * self._size, self._size)
            if self._CELL.unpack_from(self._memory, start)[0] == window
        ]
        places = self._places(peer)
        return min(int(sum(self._CELL.unpack_from(self._memory, start + place)[0] for start in starts)) for place in places)

    def clear(self, worker: int) -> None:
        """Forget what one worker counted, because it died or a window ended."""
        self._memory[worker * self._size : (worker + 1) * self._size] = bytes(self._size)

    def _places(self, peer: str) -> list[int]:
        digest = hashlib.blake2b(peer.encode("utf-8", "replace"), digest_size=2 * self._ROWS).digest()
        columns = struct.unpack(f"={self._ROWS}H", digest)
        return [(1 + row * self._COLUMNS + column % self._COLUMNS) * self._CELL.size for row, column in enumerate(columns)]


class ConnectionCounts:
    """How many connections each worker has, in memory that all processes of a gateway share. Each slot has one writer."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * _SLOT.size)
        self._workers = workers

    def set(self, worker: int, count: int) -> None:
        """Note the connections of one worker; zero when it died."""
        _SLOT.pack_into(self._memory, worker * _SLOT.size, count)

    def total(self) -> int:
        """Return the connections of all workers, now."""
        return sum(_SLOT.unpack_from(self._memory, worker * _SLOT.size)[0] for worker in range(self._workers))


def address_of(sock: socket.socket) -> str:
    """Return where a socket listens, as it is written."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
