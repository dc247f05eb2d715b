"""Connections that wait for a delivery: the greeting, who may wait, and what ends the waiting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.message import AuditSourceIdentification
from securepacs.policy.subject import Subject, SubjectKind
from securepacs_proxy.commands import Audit, Close, Command, Offer, Send, SetTimer
from securepacs_proxy.dicom.moves import Move, Mover
from securepacs_proxy.events import (
    AuditFailed,
    DataReceived,
    Event,
    HandshakeFailed,
    Peer,
    PeerAuthenticated,
    PolicyReplaced,
    SessionEnded,
    Side,
    StreamEnded,
    TimerExpired,
    UpstreamConnected,
)
from securepacs_proxy.reverse import GREETING, KEPT, REFUSED, ReverseRelay, ReverseSettings
from securepacs_proxy.sessions import Session
from securepacs_proxy.workers.moves import SharedMoves
from securepacs_proxy.workers.reverse import SharedWaiting, WorkerWaiting
from tests.support.dicom_wire import NOW
from tests.support.gateway import text_of

ROLES = frozenset({"radiologist"})
KIM = Subject(SubjectKind.PERSON, user_id="kim@hospital.example", name="Dr Kim", roles=ROLES, assurance="hardware")
LEE = replace(KIM, user_id="lee@hospital.example", name="Dr Lee")
PEER = Peer("192.0.2.7", 50_000, tls_version="TLSv1.3")
SETTINGS = ReverseSettings("gw1", "SECUREPACS", AuditSourceIdentification(AuditSourceID="gw1"))
CLOSED = [Close(Side.REQUESTOR), Close(Side.ACCEPTOR)]


class Talk:
    """A relay and what it has asked for."""

    def __init__(self, refusal: str = "", subject: Subject = KIM) -> None:
        self.refusal = refusal
        self.asked: list[tuple[str, str]] = []
        self.relay = ReverseRelay(SETTINGS, self._judge, association_id="one")
        self.commands: list[Command] = []
        self.tell(PeerAuthenticated(PEER, subject))

    def _judge(self, subject: Subject, ae_title: str) -> str:
        self.asked.append((subject.user_id, ae_title))
        return self.refusal

    def tell(self, event: Event) -> list[Command]:
        made = self.relay.handle(event, at=NOW)
        self.commands += made
        return made

    def say(self, data: bytes, side: Side = Side.REQUESTOR) -> list[Command]:
        return self.tell(DataReceived(side, memoryview(data)))

    @property
    def texts(self) -> list[str]:
        return [text_of(command.message) for command in self.commands if isinstance(command, Audit)]


@given(st.lists(st.integers(1, 28), max_size=8))
def test_a_greeting_in_any_pieces_is_one_offer(cuts: list[int]) -> None:
    talk, line = Talk(), GREETING + b"VIEWER1\n"
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(line)], strict=True):
        talk.say(line[start:stop])
    assert talk.asked == [("kim@hospital.example", "VIEWER1")]
    assert [command for command in talk.commands if not isinstance(command, SetTimer | Audit)] == [
        Send(Side.REQUESTOR, KEPT),
        Offer("VIEWER1"),
    ]
    assert "waits for what is sent to VIEWER1" in talk.texts[0]  # on record before anything else
    assert talk.relay.waits


def test_octets_pass_both_ways_and_one_end_ends_both() -> None:
    talk = Talk()
    talk.say(GREETING + b"VIEWER1\n")
    assert talk.tell(UpstreamConnected()) == []
    assert talk.say(b"from the archive", Side.ACCEPTOR) == [Send(Side.REQUESTOR, b"from the archive")]
    assert talk.say(b"from the viewer") == [Send(Side.ACCEPTOR, b"from the viewer")]
    assert not talk.relay.waits
    *records, first, second = talk.tell(StreamEnded(Side.ACCEPTOR))
    assert [first, second] == CLOSED
    assert len(records) == 1  # the end of what a person's login began
    assert talk.relay.finished
    assert talk.say(b"late") == []


def test_who_may_not_receive_is_refused_on_record() -> None:
    talk = Talk("none of its roles may receive for VIEWER1")
    made = talk.say(GREETING + b"VIEWER1\n")
    assert made[1:] == [Send(Side.REQUESTOR, REFUSED), *CLOSED]
    assert "none of its roles" in talk.texts[0]


@pytest.mark.parametrize(
    "line",
    [b"\n", b"GET / HTTP/1.1\r\n", GREETING + b"\n", GREETING + b"A" * 17 + b"\n", GREETING + b"A\x01\n", GREETING + b"\xff\n",
     GREETING + b"VIEWER1\nmore", b"x" * 200],
)  # fmt: skip
def test_what_is_no_greeting_ends_it(line: bytes) -> None:
    talk = Talk()
    assert talk.say(line)[-2:] == CLOSED
    assert talk.asked == []
    assert "greeting" in talk.texts[0]


@pytest.mark.parametrize(
    "event",
    [
        DataReceived(Side.REQUESTOR, memoryview(b"x")),
        SessionEnded("blocked"),
        AuditFailed("disk full"),
        StreamEnded(Side.REQUESTOR),
    ],
)
def test_what_ends_the_waiting(event: Event) -> None:
    talk = Talk()
    talk.say(GREETING + b"VIEWER1\n")
    assert talk.tell(event)[-2:] == CLOSED


def test_silence_and_failed_handshakes_end_it() -> None:
    assert Talk().tell(TimerExpired("reverse.greeting"))[-2:] == CLOSED
    relay = ReverseRelay(SETTINGS, lambda *_: "", association_id="one")
    record, *closing = relay.handle(HandshakeFailed("its certificate was revoked", "CN=Dr Kim"), at=NOW)
    assert isinstance(record, Audit)
    assert "revoked" in text_of(record.message)
    assert closing == CLOSED


def test_new_rules_are_asked_again() -> None:
    talk = Talk()
    talk.say(GREETING + b"VIEWER1\n")
    policy = PolicyReplaced(policy=None)  # type: ignore[arg-type]
    assert talk.tell(policy) == []
    talk.refusal = "AE title VIEWER1 is blocked"
    assert talk.tell(policy)[-2:] == CLOSED


def test_a_defect_closes_and_says_nothing_of_the_data() -> None:
    def broken(_subject: Subject, _ae_title: str) -> str:
        raise ValueError("secret")

    relay = ReverseRelay(SETTINGS, broken, association_id="one")
    relay.handle(PeerAuthenticated(PEER, KIM), at=NOW)
    assert relay.handle(DataReceived(Side.REQUESTOR, memoryview(GREETING + b"V\n")), at=NOW)[-2:] == CLOSED


# --- over all workers ---------------------------------------------------------------------------------------------------


def session(name: str, subject: Subject = KIM) -> Session:
    return Session(name, PEER, NOW, subject=subject)


class Workers:
    """Two workers in one loop."""

    def __init__(self) -> None:
        moves, waiting = SharedMoves(2), SharedWaiting(2)
        self.moves = [moves.of(number) for number in range(2)]
        self.waiting = [waiting.of(number, self.moves[number]) for number in range(2)]
        self.delivered: list[tuple[int, str, socket.socket]] = []
        for number, one in enumerate(self.waiting):
            one.listen(self._taker(number), lambda: NOW)

    def _taker(self, number: int) -> Callable[[str, socket.socket], bool]:
        def take(name: str, end: socket.socket) -> bool:
            self.delivered.append((number, name, end))
            return True

        return take

    def close(self) -> None:
        for one in self.waiting:
            one.close()
        for _, _, end in self.delivered:
            end.close()


def in_loop(work: Callable[[Workers], object]) -> None:
    async def run() -> None:
        workers = Workers()
        try:
            await work(workers)  # type: ignore[misc]
        finally:
            workers.close()

    asyncio.run(run())


async def opened(worker: WorkerWaiting, ae_title: str = "VIEWER1") -> str:
    """Take one; return "" or why there is none."""
    found = await worker.open(ae_title)
    if isinstance(found, str):
        return found
    found[0].close()
    assert (found[1].host, found[1].port) == (PEER.host, PEER.port)
    return ""


def test_one_worker_finds_what_waits_in_another_once() -> None:
    async def work(workers: Workers) -> None:
        workers.waiting[1].offer(session("a"), "VIEWER1")
        found = await workers.waiting[0].open("VIEWER1")
        assert not isinstance(found, str)
        assert [entry[:2] for entry in workers.delivered] == [(1, "a")]
        workers.delivered[0][2].send(b"through")
        assert await asyncio.get_running_loop().sock_recv(found[0], 10) == b"through"
        found[0].close()
        assert await opened(workers.waiting[0]) == "nobody waits for VIEWER1"
        assert await opened(workers.waiting[0], "OTHER") == "nobody waits for OTHER"

    in_loop(work)


def test_what_is_sent_goes_to_who_asked() -> None:
    async def work(workers: Workers) -> None:
        workers.waiting[0].offer(session("kim"), "VIEWER1")
        workers.waiting[1].offer(session("lee", LEE), "VIEWER1")
        assert await opened(workers.waiting[0]) == "several people wait for VIEWER1"
        number = workers.moves[1].begin(Move("VIEWER1", 1, "VIEWER1", Mover(LEE.user_id)))
        assert await opened(workers.waiting[0]) == ""
        assert [entry[:2] for entry in workers.delivered] == [(1, "lee")]
        assert await opened(workers.waiting[0]) == "nobody who asked waits for VIEWER1"
        workers.moves[1].end(number)
        assert await opened(workers.waiting[0]) == ""  # the only person who waits, for reports nobody asks for

    in_loop(work)


def test_a_connection_that_is_gone_is_passed_over() -> None:
    async def work(workers: Workers) -> None:
        first, second = session("a"), session("b")
        for one in (first, second):
            workers.waiting[1].offer(one, "VIEWER1")
        slot = workers.waiting[1]._slots.pop("a")  # gone, while another worker still sees it
        assert await opened(workers.waiting[0]) == ""
        assert [entry[1] for entry in workers.delivered] == ["b"]
        assert await opened(workers.waiting[0]) == "the agent that waited for VIEWER1 is gone"
        workers.waiting[1]._slots["a"] = slot
        workers.waiting[1].withdraw(first)
        assert await opened(workers.waiting[0]) == "nobody waits for VIEWER1"

    in_loop(work)


def test_a_replaced_worker_has_nobody_waiting() -> None:
    moves, shared = SharedMoves(1), SharedWaiting(1)
    shared.of(0, moves.of(0)).offer(session("a"), "VIEWER1")
    assert list(shared.waiting("VIEWER1"))
    shared.of(0, moves.of(0))
    assert list(shared.waiting("VIEWER1")) == []
