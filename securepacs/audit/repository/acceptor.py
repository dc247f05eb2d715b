"""Accepting stream connections: a thread for each, bounded in number, ended together.

What is done with a connection is up to `serve(socket, address)`; it runs in the connection's own thread, so that no peer can block
another one.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from securepacs.errors import Unavailable

LOOK_SECONDS = 5.0  # how often `idle` is called when nobody connects
STOP_SECONDS = 10.0
_logger = logging.getLogger(__name__)


class Acceptor:
    """Listens on a TCP port once made; `start` begins to accept. `idle` is called now and then from the accepting thread."""

    def __init__(
        self,
        host: str,
        port: int,
        serve: Callable[[socket.socket, str], None],
        *,
        name: str,
        max_connections: int,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._serve = serve
        self._idle = idle
        self._name = name
        self._max_connections = max_connections
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        try:
            self._listener = socket.create_server((host, port), family=family_of(host), backlog=128)
        except OSError as error:
            raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}", retryable=False) from None
        self._thread = threading.Thread(target=self._accept, name=f"audit-{name}-accept", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def replace(self, connection: socket.socket) -> None:
        """Let `connection` (the TLS layer) stand for the socket the calling thread was given; ends it when a stop came before."""
        with self._guard:
            self._connections[threading.current_thread()] = connection
        if self._stopping.is_set():
            shut_down(connection)

    def stop(self) -> None:
        """Accept no more, end every connection, and wait for their threads."""
        self._stopping.set()
        with suppress(OSError):  # a listener is never connected; this wakes accept
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)
        self._listener.close()
        with self._guard:
            standing = dict(self._connections)
        for connection in standing.values():
            shut_down(connection)
        for thread in standing:
            thread.join(STOP_SECONDS)

    def _accept(self) -> None:
        self._listener.settimeout(LOOK_SECONDS)
        while not self._stopping.is_set():
            try:
                plain, address = self._listener.accept()
                plain.settimeout(None)
            except TimeoutError:
                self._idle()
                continue
            except OSError as error:
                if not self._stopping.is_set():  # out of file descriptors, or the peer left while it waited
                    _logger.error("audit repository: accepting failed: %s", error.strerror)
                    self._stopping.wait(0.2)
                continue
            with self._guard:
                full = len(self._connections) >= self._max_connections
                if not full:
                    full = not self._begin(plain, str(address[0]))
            if full:
                _logger.warning("audit repository: %d connections stand, one more was refused", self._max_connections)
                plain.close()

    def _begin(self, plain: socket.socket, address: str) -> bool:
        """Start the thread of a connection; False when the system has no more threads."""
        thread = threading.Thread(target=self._run, args=(plain, address), name=f"audit-{self._name}-{address}", daemon=True)
        self._connections[thread] = plain
        try:
            thread.start()
        except RuntimeError:
            del self._connections[thread]
            return False
        return True

    def _run(self, plain: socket.socket, address: str) -> None:
        try:
            self._serve(plain, address)
        finally:
            plain.close()
            with self._guard:
                self._connections.pop(threading.current_thread(), None)


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a host to listen on."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def shut_down(connection: socket.socket) -> None:
    """Wake the thread that reads from a connection; it closes it."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
