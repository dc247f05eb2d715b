"""Asking a running gateway who is connected, over its control socket; the socket is open to the owner of the spool folder only."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from securepacs.errors import MalformedError, Unavailable, UsageError
from securepacs_proxy.control import LineReader, Message, encode

SOCKET_NAME = "control.sock"
SUPERVISOR = "supervisor"  # as it answers, and as it calls itself in records
_ANSWER_SECONDS = 10.0


def ask(spool: Path, request: Message) -> dict[str, Message]:
    """Send a request to the gateway that uses `spool`; return what each worker answered. Raises Unavailable."""
    path = spool / SOCKET_NAME
    lines = LineReader()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_ANSWER_SECONDS)
        try:
            with short_name(path) as name:
                sock.connect(name)
            sock.sendall(encode(request))
            while data := sock.recv(262_144):
                for answer in lines.feed(data):
                    return dict(answer["workers"])
        except (OSError, MalformedError) as error:
            raise Unavailable(f"no gateway answers at {path}: {error}", hint="is it running, and are you its user?") from None
    raise Unavailable(f"the gateway at {path} gave no answer", hint="try again")


def order(spool: Path, request: Message) -> Message:
    """Send a request that the supervisor answers itself, and return that answer. Raises Unavailable, UsageError when it refuses."""
    answer = ask(spool, request)[SUPERVISOR]
    if answer.get("error"):
        raise UsageError(str(answer["error"]), hint=str(answer.get("hint", "")))
    return answer


def sessions(spool: Path) -> list[dict[str, Any]]:
    """Return all live sessions of a gateway, oldest first, each with the name of its worker."""
    answers = ask(spool, {"type": "status"})
    rows = ({**session, "worker": worker} for worker, answer in answers.items() for session in answer.get("sessions", ()))
    return sorted(rows, key=lambda row: str(row["since"]))


def end_session(spool: Path, session: str, *, reason: str) -> bool:
    """End one live session; False when no worker has it."""
    answers = ask(spool, {"type": "end", "session": session, "reason": reason})
    return any(answer.get("count") for answer in answers.values())


def is_running(path: Path) -> bool:
    """Say whether anybody listens on a control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, short_name(path) as name:
        return sock.connect_ex(name) == 0


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Name a socket through its folder's descriptor: the address of a Unix socket holds 107 bytes, a path may be longer."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
