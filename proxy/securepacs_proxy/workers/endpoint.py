"""The endpoint of [metrics]: GET /metrics, /health and /ready over HTTP/1.1, on a loopback address or a Unix socket.

/health says that the supervisor turns. /ready says that every process is up and none is being stopped: peers may be sent here.
One request a connection; a head of at most 4 KiB; whoever does not read the answer is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from securepacs.errors import ConfigError
from securepacs_proxy.config import MetricsSection
from securepacs_proxy.control import Message
from securepacs_proxy.metrics import CONTENT_TYPE
from securepacs_proxy.status import is_running, short_name

_MAX_VISITORS = 32
_HEAD_BYTES = 4096
_SECONDS = 5.0  # for the request to arrive, and for workers to answer
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass
class _Visitor:
    sock: socket.socket
    since: float
    head: bytes = b""
    number: int = 0
    expected: set[str] = field(default_factory=set)
    answers: dict[str, Message] = field(default_factory=dict)


class Endpoint:
    """Serves in the supervisor's loop. `ask(number)` asks the workers, `missing()` says what is not ready, `write` makes a page."""

    def __init__(
        self,
        section: MetricsSection,
        *,
        ask: Callable[[int], list[str]],
        missing: Callable[[], list[str]],
        write: Callable[[Mapping[str, Message]], bytes],
    ) -> None:
        self._section = section
        self._ask = ask
        self._missing = missing
        self._write = write
        self._number = 0  # counts down: those of the control socket count up
        self._visitors: dict[int, _Visitor] = {}
        self._listener = _listen(section)

    @property
    def descriptors(self) -> list[int]:
        """What to watch for input."""
        return [self._listener.fileno(), *self._visitors]

    def serve(self, descriptor: int) -> None:
        """Handle input on one of `descriptors`."""
        if descriptor == self._listener.fileno():
            with contextlib.suppress(OSError):
                sock, _ = self._listener.accept()
                if len(self._visitors) >= _MAX_VISITORS:
                    sock.close()
                    return
                sock.setblocking(False)
                self._visitors[sock.fileno()] = _Visitor(sock, time.monotonic())
        elif descriptor in self._visitors:
            self._read(self._visitors[descriptor])

    def answer(self, number: int, worker: str, message: Message) -> None:
        """Take the answer of one worker; the last one completes the page."""
        for visitor in tuple(self._visitors.values()):
            if visitor.number == number:
                visitor.answers[worker] = message
                if visitor.expected <= visitor.answers.keys():
                    self._metrics(visitor)

    def check_time(self) -> None:
        """Answer without those workers that are silent, and leave visitors that are."""
        for visitor in tuple(self._visitors.values()):
            if time.monotonic() - visitor.since > _SECONDS:
                if visitor.number:
                    self._metrics(visitor)
                else:
                    self._dismiss(visitor)

    def close(self) -> None:
        """Close everything and remove the socket."""
        for visitor in tuple(self._visitors.values()):
            self._dismiss(visitor)
        self._listener.close()
        if self._section.socket is not None:
            self._section.socket.unlink(missing_ok=True)

    def _read(self, visitor: _Visitor) -> None:
        try:
            data = visitor.sock.recv(_HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        visitor.head += data
        if not data or visitor.number:
            self._dismiss(visitor)
        elif b"\r\n\r\n" in visitor.head:
            self._respond(visitor)
        elif len(visitor.head) > _HEAD_BYTES:
            self._reply(visitor, 400)

    def _respond(self, visitor: _Visitor) -> None:
        words = visitor.head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._reply(visitor, 400)
        elif words[0] != "GET":
            self._reply(visitor, 405)
        elif words[1] == "/health":
            self._reply(visitor, 200, b"ok\n")
        elif words[1] == "/ready":
            missing = self._missing()
            body = json.dumps({"ready": not missing, "missing": missing}).encode() + b"\n"
            self._reply(visitor, 503 if missing else 200, body, "application/json")
        elif words[1] == "/metrics":
            self._number -= 1
            visitor.number = self._number
            visitor.expected = set(self._ask(self._number))
            if not visitor.expected:
                self._metrics(visitor)
        else:
            self._reply(visitor, 404)

    def _metrics(self, visitor: _Visitor) -> None:
        self._reply(visitor, 200, self._write(visitor.answers), CONTENT_TYPE)

    def _reply(self, visitor: _Visitor, status: int, body: bytes = b"", content_type: str = "text/plain") -> None:
        reason = _REASONS[status]
        body = body or f"{reason}\n".encode()
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        head += "Connection: close\r\n\r\n"
        with contextlib.suppress(OSError):  # who went, or does not read, gets nothing
            visitor.sock.sendall(head.encode() + body)
        self._dismiss(visitor)

    def _dismiss(self, visitor: _Visitor) -> None:
        self._visitors.pop(visitor.sock.fileno(), None)
        visitor.sock.close()


def _listen(section: MetricsSection) -> socket.socket:
    try:
        if section.socket is not None:
            return _listen_unix(section)
        host, port = section.listen or ("127.0.0.1", 0)
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setblocking(False)
        return listener
    except OSError as error:
        key = "metrics.listen" if section.socket is None else "metrics.socket"
        raise ConfigError(f"cannot listen for metrics: {error.strerror or error}", key=key, hint="is it in use?") from None


def _listen_unix(section: MetricsSection) -> socket.socket:
    """Bind a Unix socket of mode 0660: who may read is a matter of its folder and group."""
    path = section.socket
    if path is None:
        raise ConfigError("no socket is named", key="metrics.socket")
    if path.is_socket() and not is_running(path):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o117)
    try:
        with short_name(path) as name:
            listener.bind(name)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(previous)
    listener.listen(8)
    listener.setblocking(False)
    return listener
