"""What one worker is given when it is forked."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from securepacs.policy.subject import Subject
from securepacs_proxy.workers.listening import ConnectionCounts, PeerCounts
from securepacs_proxy.workers.moves import SharedMoves
from securepacs_proxy.workers.records import worker_name
from securepacs_proxy.workers.reverse import SharedWaiting
from securepacs_proxy.workers.visits import SharedVisits


@dataclass(frozen=True)
class Place:
    """What a worker shares with the others: its number, listening sockets, counts, moves, visits, who waits; its time to drain.

    The sockets are those of the listeners, then those of the inner ports.
    """

    number: int
    sockets: Sequence[socket.socket]
    counts: ConnectionCounts
    peers: PeerCounts
    rates: PeerCounts
    drain_seconds: float
    moves: SharedMoves
    visits: SharedVisits
    waiting: SharedWaiting

    @property
    def name(self) -> str:
        """The name of the worker in records and in the log."""
        return worker_name(self.number)


def peer_name(subject: Subject) -> str:
    """Return the name of a subject among the peers; no address contains a colon and a space."""
    return f"{subject.kind.value}: {subject.user_id}"
