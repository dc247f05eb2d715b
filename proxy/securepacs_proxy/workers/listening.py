"""Ports of a gateway: bound once by the supervisor, shared by all workers; and the count of connections over all workers."""

from __future__ import annotations

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
