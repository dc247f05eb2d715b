"""Connections that wait at the gateway for what is sent to the viewer, so that no port opens on the workstation and NAT works.

For every AE title of the viewer some connections are open while somebody is logged in. When the first octets of an association
arrive on one, it is joined to the port of the viewer on loopback, and another takes its place.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from securepacs.errors import SecurePacsError, TokenError, TokenNotPresent, Unavailable
from securepacs_proxy.agent.association import Associations
from securepacs_proxy.agent.caller import uid_of_peer
from securepacs_proxy.agent.config import ViewerSection
from securepacs_proxy.agent.door import Door, Login
from securepacs_proxy.agent.pump import TRY_AGAIN, Bell, pump, received
from securepacs_proxy.connection.ends import keep_alive
from securepacs_proxy.reverse import ALPN, GREETING, KEPT

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 30.0
_VIEWER_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Delivery:
    """One connection to the gateway that waits, and the association that comes over it. `run` returns when it is over."""

    def __init__(self, viewer: ViewerSection, login: Login, gateway: ssl.SSLSocket) -> None:
        self._viewer = viewer
        self._gateway = gateway
        self._bell = Bell()
        self.login: Login | None = login

    def end(self, why: str) -> None:
        """Have it ended; an association is aborted."""
        self._bell.ring(why)

    def wait(self) -> bytes:
        """Return the first octets of an association; empty when the gateway or the bell ended the waiting."""
        self._gateway.setblocking(False)
        while True:
            data = received(self._gateway)
            if data is not None:
                return data
            ready, _, _ = select.select([self._gateway, self._bell.heard], [], [])
            if self._bell.heard in ready:
                return b""

    def run(self, first: bytes) -> None:
        """Join the association that begins with `first` to the viewer."""
        try:
            with self._call_viewer() as viewer:
                pump(viewer, self._gateway, self._bell, to_viewer=first)
        except (OSError, SecurePacsError) as error:
            _log.warning("an association for %s was refused: %s", self._viewer.ae_title, error)
            with suppress(OSError):
                self._gateway.settimeout(_VIEWER_SECONDS)
                self._gateway.sendall(TRY_AGAIN)

    def close(self) -> None:
        """Close the connection to the gateway."""
        self._gateway.close()
        self._bell.close()

    def _call_viewer(self) -> socket.socket:
        """Connect to the port of the viewer; another user's program may listen there instead, and gets nothing."""
        viewer = socket.create_connection((self._viewer.host, self._viewer.port), _VIEWER_SECONDS)
        uid = uid_of_peer(viewer)
        if uid != os.getuid():
            viewer.close()
            raise Unavailable(f"the program on port {self._viewer.port} belongs to user id {uid}")
        return viewer


class Deliveries:
    """Keeps connections waiting for every viewer while somebody is logged in. `connect(login)` opens mutual TLS with ALPN."""

    def __init__(
        self,
        viewers: Sequence[ViewerSection],
        door: Door,
        connect: Callable[[Login], ssl.SSLSocket],
        associations: Associations,
        on_change: Callable[[], None],
    ) -> None:
        self._door = door
        self._connect = connect
        self._associations = associations
        self._on_change = on_change
        self._waiting: set[Delivery] = set()
        self._lock = threading.Lock()
        self._viewers = viewers
        self.trouble: dict[str, str] = dict.fromkeys((viewer.ae_title for viewer in viewers), "nobody has logged in at the card")
        """By AE title: why nothing can be delivered, "" when it can."""

    def start(self) -> None:
        """Start keeping, one thread a connection."""
        for viewer in self._viewers:
            for _ in range(viewer.connections):
                threading.Thread(target=self._keep, args=(viewer,), name=f"reverse {viewer.ae_title}", daemon=True).start()

    def end_all(self, why: str) -> None:
        """End what waits; associations are ended with the others."""
        with self._lock:
            waiting = tuple(self._waiting)
        for delivery in waiting:
            delivery.end(why)

    def _keep(self, viewer: ViewerSection) -> None:
        """Keep one connection waiting for ever; after a failure, longer and longer pauses."""
        pause = _FIRST_PAUSE
        while not self._door.closed:
            login = self._door.wait_for_login()
            if login is None:
                return
            try:
                delivery = self._open(viewer, login)
            except (SecurePacsError, OSError) as error:
                self._tell(viewer, str(error))
                threading.Event().wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._tell(viewer, "")
            since = time.monotonic()
            self._serve(viewer, delivery)
            pause = _FIRST_PAUSE
            if time.monotonic() - since < _FIRST_PAUSE:  # the card signs for every connection: never in a tight loop
                threading.Event().wait(_FIRST_PAUSE / 4)

    def _serve(self, viewer: ViewerSection, delivery: Delivery) -> None:
        with self._lock:
            self._waiting.add(delivery)
        if self._door.login is not delivery.login:
            delivery.end("the card was logged out meanwhile")
        try:
            first = delivery.wait()
        except OSError:
            first = b""
        finally:
            with self._lock:
                self._waiting.discard(delivery)
        if not first:
            delivery.close()
            return
        _log.info("an association for %s begins", viewer.ae_title)
        threading.Thread(target=self._associate, args=(delivery, first), daemon=True).start()

    def _associate(self, delivery: Delivery, first: bytes) -> None:
        try:
            self._associations.run(delivery, lambda: delivery.run(first))
        finally:
            delivery.close()

    def _open(self, viewer: ViewerSection, login: Login) -> Delivery:
        try:
            gateway = self._connect(login)
        except TokenError as error:
            self._door.lost(login, removed=any(isinstance(one, TokenNotPresent) for one in (error, error.__cause__)))
            raise
        try:
            if gateway.selected_alpn_protocol() != ALPN:
                raise Unavailable("the gateway delivers nothing in reverse", hint="a newer gateway does")
            gateway.settimeout(_ANSWER_SECONDS)
            gateway.sendall(GREETING + viewer.ae_title.encode("ascii") + b"\n")
            answer = gateway.recv(len(KEPT))
            if answer + (gateway.recv(len(KEPT) - len(answer)) if answer and answer != KEPT else b"") != KEPT:
                raise Unavailable(f"the gateway does not let this card receive for {viewer.ae_title}")
            keep_alive(gateway)
        except BaseException:
            gateway.close()
            raise
        return Delivery(viewer, login, gateway)

    def _tell(self, viewer: ViewerSection, trouble: str) -> None:
        if self.trouble[viewer.ae_title] != trouble:
            self.trouble[viewer.ae_title] = trouble
            if trouble:
                _log.warning("nothing can be delivered to %s: %s", viewer.ae_title, trouble)
            self._on_change()
