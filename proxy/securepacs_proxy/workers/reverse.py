"""Agents that wait for deliveries, over all workers: who waits stands in shared memory, and an association is handed to the worker
that has the connection, as one end of a socket pair (SCM_RIGHTS).

What is sent to an AE title goes to the person who has a C-MOVE to it under way. While nobody asked, it goes to the one person who
waits for it; when several wait, it is refused: images must not reach whoever connected last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from securepacs_proxy.commands import Destination
from securepacs_proxy.dicom.records import UNKNOWN, clean
from securepacs_proxy.sessions import Session
from securepacs_proxy.workers.moves import WorkerMoves
from securepacs_proxy.workers.slots import SharedSlots

_log = logging.getLogger(__name__)
MAX_WAITING = 1024  # in one worker
_SLOT_BYTES = 1024
_TAKEN = b"+"
_ANSWER_SECONDS = 2.0  # for another worker to say whether the connection is still there
_LETTER_BYTES = 64


class SharedWaiting:
    """The memory, and a mailbox for each worker; made before workers are forked."""

    def __init__(self, workers: int) -> None:
        self.slots = SharedSlots(workers, MAX_WAITING, _SLOT_BYTES)
        self._mail = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
        for inbox, outbox in self._mail:
            inbox.setblocking(False)
            outbox.setblocking(False)

    def of(self, worker: int, moves: WorkerMoves) -> WorkerWaiting:
        """Return what one worker works with; nobody waits in it yet."""
        return WorkerWaiting(self, self.slots.of(worker), self._mail[worker][0], moves)

    def send(self, worker: int, session: str, end: socket.socket) -> bool:
        """Hand one end of a socket pair to a worker; False when it takes no mail."""
        try:
            socket.send_fds(self._mail[worker][1], [session.encode("ascii")], [end.fileno()])
        except OSError:
            return False
        return True

    def waiting(self, ae_title: str) -> Iterator[_Waiting]:
        """Yield the connections that wait for an AE title, in any worker."""
        for slot, text in self.slots:
            row = json.loads(text)
            if row["ae"] == ae_title:
                yield _Waiting(self.slots.owner(slot), row["id"], row["user"], row["host"], row["port"])


@dataclass(frozen=True, slots=True)
class _Waiting:
    worker: int
    session: str
    user_id: str
    host: str
    port: int


class WorkerWaiting:
    """The waiting connections of one worker, and the sight of all. Implements `connection.Deliveries`."""

    def __init__(self, shared: SharedWaiting, own: range, inbox: socket.socket, moves: WorkerMoves) -> None:
        self._shared = shared
        self._free = list(reversed(own))
        self._slots: dict[str, int] = {}
        self._inbox = inbox
        self._moves = moves
        self._now: Callable[[], datetime] | None = None

    def listen(self, deliver: Callable[[str, socket.socket], bool], now: Callable[[], datetime]) -> None:
        """Take mail in the running loop; `deliver(session, end)` says whether the connection was there."""
        self._now = now
        asyncio.get_running_loop().add_reader(self._inbox.fileno(), self._take_mail, deliver)

    def close(self) -> None:
        """Take no more mail; who waits is no longer found."""
        asyncio.get_running_loop().remove_reader(self._inbox.fileno())
        for session in tuple(self._slots):
            self._withdraw(session)

    def offer(self, session: Session, ae_title: str) -> None:
        """Keep a connection where every worker sees it; beyond MAX_WAITING it is not found."""
        user = _user_id(session)
        row = {"id": session.id, "ae": ae_title, "user": user, "host": session.peer.host, "port": session.peer.port}
        text = json.dumps(row, separators=(",", ":")).encode()
        if self._free and len(text) <= self._shared.slots.text_limit:
            self._slots[session.id] = slot = self._free.pop()
            self._shared.slots.write(slot, text)
        else:
            _log.error("connection %s waits for a delivery and cannot be kept", session.id)

    def withdraw(self, session: Session) -> None:
        """Forget a connection."""
        self._withdraw(session.id)

    async def open(self, ae_title: str) -> tuple[socket.socket, Destination] | str:
        """Take a connection that waits for an AE title; return a socket that leads to it and where its agent is, or why not."""
        found = list(self._shared.waiting(ae_title))
        if not found:
            return f"nobody waits for {ae_title}"
        people = {one.user_id for one in found}
        asked = self._moves.movers_to(ae_title, self._now() if self._now is not None else datetime.max)
        if asked:
            people &= asked
        if len(people) != 1:
            return f"{'several people wait' if people else 'nobody who asked waits'} for {ae_title}"
        for one in found:
            if one.user_id in people:
                end = await self._claim(one)
                if end is not None:
                    return end, Destination(one.host, one.port, reverse=ae_title)
        return f"the agent that waited for {ae_title} is gone"

    # --- inside ---------------------------------------------------------------------------------------------------------

    async def _claim(self, one: _Waiting) -> socket.socket | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            with theirs:
                if not self._shared.send(one.worker, one.session, theirs):
                    ours.close()
                    return None
            async with asyncio.timeout(_ANSWER_SECONDS):
                if await asyncio.get_running_loop().sock_recv(ours, len(_TAKEN)) == _TAKEN:
                    return ours
        except (TimeoutError, OSError):
            _log.warning("a worker does not hand over a connection that waits")
        except BaseException:
            ours.close()
            raise
        ours.close()
        return None

    def _take_mail(self, deliver: Callable[[str, socket.socket], bool]) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                letter, descriptors, _, _ = socket.recv_fds(self._inbox, _LETTER_BYTES, 1)
                for descriptor in descriptors:
                    self._hand_over(letter.decode("ascii"), descriptor, deliver)

    def _hand_over(self, session: str, descriptor: int, deliver: Callable[[str, socket.socket], bool]) -> None:
        if session not in self._slots:  # taken, or gone, since it was seen
            os.close(descriptor)
            return
        self._withdraw(session)
        end = socket.socket(fileno=descriptor)
        end.setblocking(False)
        with contextlib.suppress(OSError):
            end.send(_TAKEN)  # before anything of the connection
        if not deliver(session, end):
            end.close()

    def _withdraw(self, session: str) -> None:
        slot = self._slots.pop(session, None)
        if slot is not None:
            self._shared.slots.write(slot, b"")
            self._free.append(slot)


def _user_id(session: Session) -> str:
    """Return the user ID as records and moves name it."""
    return (clean(session.subject.user_id) if session.subject is not None else "") or UNKNOWN
