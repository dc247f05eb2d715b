"""C-MOVE requests under way in memory that all workers of a gateway share: visible to every one before the request goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from securepacs_proxy.dicom.moves import AFTERLIFE, MAX_MOVES, Move, Mover, movers_among
from securepacs_proxy.workers.slots import SharedSlots

_SLOT_BYTES = 2048


class SharedMoves:
    """The memory, made before workers are forked."""

    def __init__(self, workers: int) -> None:
        self.slots = SharedSlots(workers, MAX_MOVES, _SLOT_BYTES)

    def of(self, worker: int) -> WorkerMoves:
        """Return the book of one worker, empty."""
        return WorkerMoves(self, self.slots.of(worker))

    def __iter__(self) -> Iterator[Move]:
        for _, text in self.slots:
            yield _decode(text)


@dataclass
class WorkerMoves:
    """The moves of one worker, and the sight of all. Implements `dicom.moves.MoveBook`."""

    shared: SharedMoves
    own: range

    def __post_init__(self) -> None:
        self._slots: dict[int, tuple[int, Move]] = {}  # number -> (slot, move), oldest first
        self._free = list(reversed(self.own))
        self._number = 0

    def begin(self, move: Move) -> int:
        """Keep a move where every worker sees it."""
        if not self._free:
            self.end(next(iter(self._slots)))
        slot = self._free.pop()
        self._number += 1
        self._slots[self._number] = (slot, move)
        self.shared.slots.write(slot, self._encode(move))
        return self._number

    def end(self, number: int) -> None:
        """Forget it."""
        slot, _ = self._slots.pop(number, (None, None))
        if slot is not None:
            self.shared.slots.write(slot, b"")
            self._free.append(slot)

    def abandon(self, number: int, at: datetime) -> None:
        """Keep it a little longer."""
        if number in self._slots:
            slot, move = self._slots[number]
            move = replace(move, expires=at + AFTERLIFE)
            self._slots[number] = (slot, move)
            self.shared.slots.write(slot, self._encode(move))

    def movers(self, originator: str, message_id: int, destination: str, study: str, at: datetime) -> tuple[Mover, ...]:
        """Return everybody, in any worker, who can have asked."""
        return movers_among(self.shared, originator, message_id, destination, study, at)

    def movers_to(self, destination: str, at: datetime) -> frozenset[str]:
        """Return the user IDs of everybody, in any worker, with a move to this AE title under way."""
        return frozenset(
            move.mover.user_id
            for move in self.shared
            if move.destination_ae_title == destination and (move.expires is None or at < move.expires)
        )

    def _encode(self, move: Move) -> bytes:
        """Write a move as JSON that fits; studies that do not fit are left out, and then any study matches."""
        mover = move.mover
        short = [mover.user_id[:256], "", [], mover.host, mover.certificate_serial]
        row = {
            "ae": [move.originator_ae_title, move.message_id, move.destination_ae_title],
            "who": [mover.user_id, mover.name, list(mover.roles), mover.host, mover.certificate_serial],
            "studies": list(move.study_instance_uids),
            "expires": move.expires.isoformat() if move.expires else "",
        }
        for key, value in ((None, None), ("studies", []), ("who", short)):
            if key is not None:
                row[key] = value
            text = json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= self.shared.slots.text_limit:
                return text
        raise ValueError("a user name does not fit into a slot")


def _decode(text: bytes) -> Move:
    row = json.loads(text)
    (originator, message_id, destination), (user_id, name, roles, host, serial) = row["ae"], row["who"]
    expires = datetime.fromisoformat(row["expires"]) if row["expires"] else None
    mover = Mover(user_id, name, tuple(roles), host, serial)
    return Move(originator, message_id, destination, mover, tuple(row["studies"]), expires)
