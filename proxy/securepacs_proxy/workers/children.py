"""Forking children and talking to them over socket pairs. The parent has no threads, or a fork could inherit a held lock."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from securepacs.errors import MalformedError
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.faults import fault

_log = logging.getLogger(__name__)
_CHILD_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGINT)
_ORDER_SECONDS: Final = 5.0  # a child that takes no order for so long is treated as dead


@dataclass
class Child:
    """A living child process as its parent sees it."""

    name: str
    pid: int
    pipe: socket.socket
    since: float
    ready: bool = False
    fault: str = ""  # its last words
    lines: LineReader = field(default_factory=LineReader)

    def send(self, message: Message) -> None:
        """Give an order; a child that is dying misses it, and what replaces it starts with the newest settings."""
        try:
            self.pipe.sendall(encode(message))
        except OSError as error:
            _log.warning("%s does not take orders: %s", self.name, error.strerror or error)

    def receive(self) -> list[Message] | None:
        """Return the messages that arrived, None when the child closed its end."""
        try:
            data = self.pipe.recv(262_144)
            return self.lines.feed(data) if data else None
        except OSError:
            return None
        except MalformedError as error:  # it died within a line
            _log.error("%s is not understood: %s", self.name, error.message)
            return None


def fork(name: str, main: Callable[[socket.socket], int], *, close: Iterable[int], now: float) -> Child:
    """Start `main(pipe)` in a new process, which never returns here; descriptors in `close` belong to the parent alone."""
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _run_child(name, main, theirs, [ours.fileno(), *close])
    theirs.close()
    ours.settimeout(_ORDER_SECONDS)
    return Child(name, pid, ours, now)


def _run_child(name: str, main: Callable[[socket.socket], int], pipe: socket.socket, close: list[int]) -> NoReturn:
    status = 70  # EX_SOFTWARE
    last_words = pipe.dup()  # an event loop that fails closes its own
    try:
        for number in _CHILD_SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in (signal.SIGINT, signal.SIGHUP) else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for descriptor in close:
            os.close(descriptor)
        status = main(pipe)
    except BaseException as error:
        _log.critical("%s failed: %s", name, fault(error))
        with contextlib.suppress(OSError):
            last_words.sendall(encode({"type": "failed", "fault": fault(error)}))
    finally:
        logging.shutdown()
        os._exit(status)
