"""C-MOVE requests under way, so that their sub-operations can be recorded under the person who asked (PS3.4 C.4.2.1).

A C-MOVE passes on the ingress side; its C-STORE sub-operations come back on another association, perhaps in another worker, and say
where they come from only by Move Originator AE title and Message ID. Both are chosen by viewers, so several moves may share them:
the move destination and the study tell them apart, and what stays ambiguous is recorded under nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

MAX_MOVES = 256
AFTERLIFE = timedelta(minutes=15)  # an archive may go on after the association that asked is gone


@dataclass(frozen=True, slots=True)
class Mover:
    """Who asked for a C-MOVE, as records name them."""

    user_id: str
    name: str = ""
    roles: tuple[str, ...] = ()
    host: str = ""
    certificate_serial: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """One C-MOVE. No `study_instance_uids`: it asked for a whole patient, or for more studies than are kept."""

    originator_ae_title: str
    message_id: int
    destination_ae_title: str
    mover: Mover
    study_instance_uids: tuple[str, ...] = ()
    expires: datetime | None = None

    def explains(self, originator: str, message_id: int, destination: str, study: str, at: datetime) -> bool:
        """Return whether a C-STORE sub-operation with these values can belong to this move."""
        return (
            (self.originator_ae_title, self.message_id, self.destination_ae_title) == (originator, message_id, destination)
            and (not self.study_instance_uids or study in self.study_instance_uids)
            and (self.expires is None or at < self.expires)
        )


class MoveBook(Protocol):
    """Where moves are kept; one implementation for one process, one for all workers."""

    def begin(self, move: Move) -> int:
        """Keep a move before it goes to the archive; return its number. When there are too many, the oldest is forgotten."""
        ...

    def end(self, number: int) -> None:
        """Its final response came."""
        ...

    def abandon(self, number: int, at: datetime) -> None:
        """The association ended without one: the archive may still go on for a while."""
        ...

    def movers(self, originator: str, message_id: int, destination: str, study: str, at: datetime) -> tuple[Mover, ...]:
        """Return everybody who can have asked for a sub-operation, each once."""
        ...


def movers_among(
    moves: Iterable[Move], originator: str, message_id: int, destination: str, study: str, at: datetime
) -> tuple[Mover, ...]:
    """Return the movers of those moves that explain a sub-operation, each once."""
    found = (move.mover for move in moves if move.explains(originator, message_id, destination, study, at))
    return tuple(dict.fromkeys(found))


class Moves:
    """The moves of one process."""

    def __init__(self) -> None:
        self._moves: dict[int, Move] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._moves)

    def begin(self, move: Move) -> int:
        """Keep a move."""
        while len(self._moves) >= MAX_MOVES:
            del self._moves[next(iter(self._moves))]
        self._number += 1
        self._moves[self._number] = move
        return self._number

    def end(self, number: int) -> None:
        """Forget it."""
        self._moves.pop(number, None)

    def abandon(self, number: int, at: datetime) -> None:
        """Keep it a little longer."""
        if number in self._moves:
            self._moves[number] = replace(self._moves[number], expires=at + AFTERLIFE)

    def movers(self, originator: str, message_id: int, destination: str, study: str, at: datetime) -> tuple[Mover, ...]:
        """Return everybody who can have asked."""
        return movers_among(self._moves.values(), originator, message_id, destination, study, at)
