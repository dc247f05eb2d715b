"""The sharer of blocks: a process of its own, because a database may keep it waiting. Started when [shared] is set.

It writes what the supervisor changed, and tells the supervisor the whole list when it changed, and now and then when it did not.
While the database fails the changes wait here and in a file of the supervisor, and the last known list goes on to count.
"""

from __future__ import annotations

import logging
import select
import socket
from time import monotonic

from securepacs.errors import ConfigError
from securepacs_proxy.blocks import BlockChange
from securepacs_proxy.config import SharedSection
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.reload import Snapshot
from securepacs_proxy.shared import SharedBlocks

_log = logging.getLogger(__name__)
SHARER = "sharer"
_POLL_SECONDS = 0.3
_AGAIN_SECONDS = 30.0  # a supervisor that could not follow, its disk being full, is told again


def sharer_main(pipe: socket.socket, *, snapshot: Snapshot) -> int:
    """Share blocks until told to stop or the supervisor is gone; the exit code of the process."""
    if snapshot.config.shared is not None:
        Sharer(pipe, snapshot.config.shared).run()
    return 0


class Sharer:
    """The state of the process."""

    def __init__(self, pipe: socket.socket, section: SharedSection) -> None:
        self._pipe = pipe
        self._table = SharedBlocks(section)
        self._waiting: list[BlockChange] = []
        self._told: tuple[int, float] = (-1, 0.0)
        self._failing: bool | None = None  # None: not tried yet

    def run(self) -> None:
        """Serve until `drain` or the end of the supervisor."""
        import psycopg

        lines = LineReader()
        self._send({"type": "ready"})
        while True:
            if select.select([self._pipe], [], [], _POLL_SECONDS)[0]:
                data = self._pipe.recv(262_144)
                orders = lines.feed(data)
                self._waiting += [BlockChange.from_dict(order["change"]) for order in orders if order["type"] == "share"]
                if not data or any(order["type"] == "drain" for order in orders):
                    break
            try:
                self._turn()
            except (psycopg.Error, ConfigError, OSError) as error:
                self._fail(error)
        self._table.close()

    def _turn(self) -> None:
        pushed = tuple(self._waiting)
        if pushed:
            self._table.push(pushed)
            self._waiting = []
        number, now = self._table.number(), monotonic()
        if pushed or number != self._told[0] or now > self._told[1] + _AGAIN_SECONDS:
            rows = [change.to_dict() for change in self._table.read()]
            self._send({"type": "shared", "blocks": rows, "done": [change.to_dict() for change in pushed]})
            self._told = number, now
        if self._failing:
            self._send({"type": "alarm", "text": "the database of shared blocks answers again", "bad": False})
        self._failing = False

    def _fail(self, error: Exception) -> None:
        self._table.close()
        self._told = -1, 0.0
        if not self._failing:
            why = error.message if isinstance(error, ConfigError) else type(error).__name__
            _log.error("the database of shared blocks fails: %s", str(error).splitlines()[0] if str(error) else why)
            text = f"the database of shared blocks fails, the last known list counts and changes wait: {why}"
            self._send({"type": "alarm", "text": text, "bad": True})
        self._failing = True

    def _send(self, message: Message) -> None:
        try:
            self._pipe.sendall(encode(message))
        except OSError as error:
            _log.error("the supervisor does not listen: %s", error.strerror or error)
