"""C-MOVE requests under way in memory that all workers of a gateway share: visible to every one before the request goes on.

Each worker writes slots of its own; all read all. A slot holds its length, a checksum and JSON; a slot that is read while it is
written fails its checksum and counts as changed, so it is read again.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from securepacs_proxy.dicom.moves import AFTERLIFE, MAX_MOVES, Move, Mover, movers_among

_HEAD = struct.Struct("=II")  # length of the text, CRC-32 over it
_SLOT_BYTES = 2048
_READS = 8
_EMPTY = bytes(_HEAD.size)


class SharedMoves:
    """The memory, made before workers are forked."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * MAX_MOVES * _SLOT_BYTES)
        self._workers = workers

    def of(self, worker: int) -> WorkerMoves:
        """Return the book of one worker, empty: a worker that was replaced leaves nothing behind."""
        book = WorkerMoves(self, worker * MAX_MOVES)
        for number in range(MAX_MOVES):
            self.write(book.first + number, b"")
        return book

    def write(self, slot: int, text: bytes) -> None:
        """Fill a slot; empty text frees it."""
        at = slot * _SLOT_BYTES
        head = _HEAD.pack(len(text), zlib.crc32(text)) if text else _EMPTY
        self._memory[at : at + _HEAD.size + len(text)] = head + text

    def read(self, slot: int) -> bytes:
        """Return the text of a slot, b"" when it is free or changes all the time."""
        at = slot * _SLOT_BYTES
        for _ in range(_READS):
            length, checksum = _HEAD.unpack_from(self._memory, at)
            if not length:
                return b""
            text = self._memory[at + _HEAD.size : at + min(_HEAD.size + length, _SLOT_BYTES)]
            if len(text) == length and zlib.crc32(text) == checksum:
                return text
        return b""

    def __iter__(self) -> Iterator[Move]:
        for slot in range(self._workers * MAX_MOVES):
            text = self.read(slot)
            if text:
                yield _decode(text)


@dataclass
class WorkerMoves:
    """The moves of one worker, and the sight of all. Implements `dicom.moves.MoveBook`."""

    shared: SharedMoves
    first: int

    def __post_init__(self) -> None:
        self._slots: dict[int, tuple[int, Move]] = {}  # number -> (slot, move), oldest first
        self._free = list(range(self.first + MAX_MOVES - 1, self.first - 1, -1))
        self._number = 0

    def begin(self, move: Move) -> int:
        """Keep a move where every worker sees it."""
        if not self._free:
            self.end(next(iter(self._slots)))
        slot = self._free.pop()
        self._number += 1
        self._slots[self._number] = (slot, move)
        self.shared.write(slot, _encode(move))
        return self._number

    def end(self, number: int) -> None:
        """Forget it."""
        slot, _ = self._slots.pop(number, (None, None))
        if slot is not None:
            self.shared.write(slot, b"")
            self._free.append(slot)

    def abandon(self, number: int, at: datetime) -> None:
        """Keep it a little longer."""
        if number in self._slots:
            slot, move = self._slots[number]
            move = replace(move, expires=at + AFTERLIFE)
            self._slots[number] = (slot, move)
            self.shared.write(slot, _encode(move))

    def movers(self, originator: str, message_id: int, destination: str, study: str, at: datetime) -> tuple[Mover, ...]:
        """Return everybody, in any worker, who can have asked."""
        return movers_among(self.shared, originator, message_id, destination, study, at)


def _encode(move: Move) -> bytes:
    """Write a move as JSON that fits; studies that do not fit are left out, and then any study matches."""
    mover = move.mover
    row = {
        "ae": [move.originator_ae_title, move.message_id, move.destination_ae_title],
        "who": [mover.user_id, mover.name, list(mover.roles), mover.host, mover.certificate_serial],
        "studies": list(move.study_instance_uids),
        "expires": move.expires.isoformat() if move.expires else "",
    }
    limit = _SLOT_BYTES - _HEAD.size
    for key, value in ((None, None), ("studies", []), ("who", [mover.user_id[:256], "", [], mover.host, mover.certificate_serial])):
        if key is not None:
            row[key] = value
        text = json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= limit:
            return text
    raise ValueError("a user name does not fit into a slot")


def _decode(text: bytes) -> Move:
    row = json.loads(text)
    (originator, message_id, destination), (user_id, name, roles, host, serial) = row["ae"], row["who"]
    expires = datetime.fromisoformat(row["expires"]) if row["expires"] else None
    mover = Mover(user_id, name, tuple(roles), host, serial)
    return Move(originator, message_id, destination, mover, tuple(row["studies"]), expires)
