"""The control socket: a Unix socket in the spool folder, for its owner only, where `gateway status` asks.

A request is one line of JSON, the answer one line: `{"type": "answer", "workers": {name: what the worker said}}`; the supervisor
answers under its own name. `by` of a request is always the user at the other end, as the kernel knows it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from securepacs.errors import ConfigError, MalformedError
from securepacs_proxy.control import LineReader, Message, encode
from securepacs_proxy.status import SOCKET_NAME, SUPERVISOR, is_running, short_name

_CREDENTIALS = struct.Struct("3i")  # process, user, group: unix(7)
_MAX_VISITORS = 16
_REQUESTS = frozenset({"status", "end", "block", "unblock", "blocks", "reload"})
_REQUEST_BYTES = 4096
_ANSWER_SECONDS = 2.0  # a visitor that does not read its answer is left


@dataclass
class _Visitor:
    sock: socket.socket
    lines: LineReader = field(default_factory=lambda: LineReader(_REQUEST_BYTES))
    number: int = 0
    expected: set[str] = field(default_factory=set)
    answers: dict[str, Message] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """The workers whose answers complete a reply, and what the supervisor says itself."""

    workers: Sequence[str] = ()
    own: Message | None = None


class Desk:
    """Receives requests and collects the answers of the workers. `ask(number, request)` passes one on."""

    def __init__(self, folder: Path, ask: Callable[[int, Message], Asked]) -> None:
        self._path = folder / SOCKET_NAME
        self._ask = ask
        self._visitors: dict[int, _Visitor] = {}
        self._number = 0
        self._listener = _listen(self._path)

    @property
    def descriptors(self) -> list[int]:
        """What to watch for input."""
        return [self._listener.fileno(), *self._visitors]

    def serve(self, descriptor: int) -> None:
        """Handle input on one of `descriptors`."""
        if descriptor == self._listener.fileno():
            self._admit()
        elif descriptor in self._visitors:
            self._read(self._visitors[descriptor])

    def answer(self, number: int, worker: str, message: Message) -> None:
        """Take the answer of one worker; the last one completes the reply."""
        for visitor in tuple(self._visitors.values()):
            if visitor.number == number:
                visitor.answers[worker] = message
                if visitor.expected <= visitor.answers.keys():
                    self._reply(visitor)

    def gone(self, worker: str) -> None:
        """A worker has ended and answers nobody any more."""
        for visitor in tuple(self._visitors.values()):
            if worker in visitor.expected - visitor.answers.keys():
                visitor.expected.discard(worker)
                if visitor.expected <= visitor.answers.keys():
                    self._reply(visitor)

    def close(self) -> None:
        """Close everything and remove the socket."""
        for visitor in tuple(self._visitors.values()):
            self._dismiss(visitor)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _admit(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        if len(self._visitors) >= _MAX_VISITORS:
            sock.close()
            return
        sock.settimeout(_ANSWER_SECONDS)
        self._visitors[sock.fileno()] = _Visitor(sock)

    def _read(self, visitor: _Visitor) -> None:
        try:
            data = visitor.sock.recv(_REQUEST_BYTES)
            requests = visitor.lines.feed(data)
        except (OSError, MalformedError):
            data, requests = b"", []
        if not data or any(request["type"] not in _REQUESTS for request in requests):
            self._dismiss(visitor)
            return
        for request in requests[:1]:
            self._number += 1
            visitor.number = self._number
            asked = self._ask(self._number, {**request, "by": _user(visitor.sock)})
            visitor.expected = set(asked.workers)
            if asked.own is not None:
                visitor.answers[SUPERVISOR] = asked.own
            if not visitor.expected:
                self._reply(visitor)

    def _reply(self, visitor: _Visitor) -> None:
        with contextlib.suppress(OSError):  # a visitor that left before its answer
            visitor.sock.sendall(encode({"type": "answer", "workers": visitor.answers}))
        self._dismiss(visitor)

    def _dismiss(self, visitor: _Visitor) -> None:
        self._visitors.pop(visitor.sock.fileno(), None)
        visitor.sock.close()


def _user(sock: socket.socket) -> str:
    """Return the name of the user at the other end."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(credentials)[1]
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _listen(path: Path) -> socket.socket:
    """Bind a Unix socket of mode 0600; a stale one is replaced, a living one means that the gateway runs already."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} is not a socket", key="audit.spool", hint="remove the file")
        if is_running(path):
            raise ConfigError(
                f"a gateway with the spool {path.parent} is running",
                key="audit.spool",
                hint="stop it, or give each gateway its own spool",
            )
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        with short_name(path) as name:
            listener.bind(name)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot make {path}: {error.strerror or error}", key="audit.spool") from None
    finally:
        os.umask(previous)
    listener.listen(8)
    listener.setblocking(False)
    return listener
