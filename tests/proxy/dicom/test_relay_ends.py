"""How associations end: release, abort, loss, timers, orders from above, and errors of the gateway itself."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from securepacs.policy.subject import AccessRequest, Decision
from securepacs_proxy.commands import Audit, Close, Send, SetTimer
from securepacs_proxy.dicom.state import State
from securepacs_proxy.events import AuditFailed, SessionEnded, Side, StreamEnded, TimerExpired
from tests.support.dicom_wire import (
    PERSON,
    Conversation,
    TablePolicy,
    abort,
    associate_rq,
    find_rq,
    names,
    release_rp,
    release_rq,
    split_pdus,
    store_rq,
    store_rsp,
)

R, A = Side.REQUESTOR, Side.ACCEPTOR
LOGOUT = "User Authentication/Logout"
BEGIN, TRANSFERRED = "Begin Transferring DICOM Instances", "DICOM Instances Transferred"
ABORT = bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 0))


def kinds(talk: Conversation) -> list[str]:
    return [type(command).__name__ for command in talk.commands]


def test_release_by_the_requestor() -> None:
    talk = Conversation(subject=PERSON).associate()
    assert talk.requestor(release_rq()) == [SetTimer("artim", 30.0), Send(A, release_rq())]
    talk.commands.clear()
    talk.acceptor(release_rp())
    assert kinds(talk) == ["Audit", "Send", "Close", "Close"]
    assert talk.take(R) == release_rp()
    assert names(talk.records) == [LOGOUT]
    assert talk.records[0].ActiveParticipant[0].UserIsRequestor
    assert talk.relay.finished


def test_release_by_the_archive_lets_the_requestor_finish_its_data() -> None:
    talk = Conversation().associate()
    talk.acceptor(release_rq())
    assert talk.take(R) == release_rq()
    talk.requestor(store_rq())
    assert talk.take(A) == store_rq()
    talk.requestor(release_rp())
    assert talk.take(A) == release_rp()
    assert names(talk.records) == [BEGIN, f"{TRANSFERRED} (8)"]


def test_release_collision_ends_when_both_have_answered() -> None:
    talk = Conversation().associate()
    talk.requestor(release_rq())
    talk.acceptor(release_rq())
    assert (talk.take(A), talk.take(R)) == (release_rq(), release_rq())
    talk.requestor(release_rp())
    assert talk.take(A) == release_rp()
    assert not talk.relay.finished
    talk.acceptor(release_rp())
    assert talk.take(R) == release_rp()
    assert talk.relay.finished
    assert talk.records == []


def test_data_after_ones_own_release_request_is_a_violation() -> None:
    talk = Conversation().associate()
    talk.requestor(release_rq() + store_rq())
    assert talk.relay.finished
    assert talk.take(A) == release_rq() + ABORT


@pytest.mark.parametrize("side", [R, A])
def test_an_abort_is_passed_on_as_it_came(side: Side) -> None:
    talk = Conversation(subject=PERSON).associate()
    talk.feed(side, abort())
    assert talk.take(side.other) == bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0))
    assert talk.take(side) == b""
    assert names(talk.records) == [LOGOUT]
    assert kinds(talk) == ["Audit", "Send", "Close", "Close"]
    assert talk.records[0].ActiveParticipant[0].UserIsRequestor is (side is R)


@pytest.mark.parametrize("side", [R, A])
def test_a_lost_side_aborts_the_other(side: Side) -> None:
    talk = Conversation(subject=PERSON).associate()
    talk.handle(StreamEnded(side, "connection reset"))
    assert talk.take(side.other) == ABORT
    assert talk.take(side) == b""
    assert names(talk.records) == [LOGOUT]
    assert kinds(talk)[-2:] == ["Close", "Close"]


def test_an_abort_is_never_written_into_a_pdu() -> None:
    """The last bytes of an image are missing: ten bytes of A-ABORT would complete it, and the archive would store a forged one."""
    talk = Conversation().associate()
    request = store_rq(pixels=b"p" * 100)
    talk.requestor(request[:-10])
    talk.take(A)
    talk.handle(StreamEnded(R))
    assert talk.take(A) == b""
    assert kinds(talk)[-2:] == ["Close", "Close"]


def test_an_order_to_end_aborts_both_and_is_the_reason_on_record() -> None:
    talk = Conversation(subject=PERSON).associate()
    talk.handle(SessionEnded("the certificate was revoked"))
    assert (talk.take(R), talk.take(A)) == (ABORT, ABORT)
    assert names(talk.records) == [LOGOUT]
    event = talk.records[0]
    assert event.EventIdentification.EventOutcomeDescription == "session ended: the certificate was revoked"
    assert event.ActiveParticipant[0].UserIsRequestor is False


def test_an_idle_association_ends() -> None:
    talk = Conversation(subject=PERSON, idle_seconds=60.0).associate()
    talk.wait(50)
    talk.requestor(find_rq())
    talk.wait(10)
    assert talk.handle(TimerExpired("idle")) == [SetTimer("idle", 50.0)]
    talk.wait(50)
    talk.handle(TimerExpired("idle"))
    assert talk.relay.finished
    assert names(talk.records) == ["Query", LOGOUT]
    assert talk.take(R) == ABORT


def test_a_clock_that_runs_backwards_does_not_lengthen_the_wait() -> None:
    talk = Conversation(idle_seconds=60.0).associate()
    talk.wait(-500)
    assert talk.handle(TimerExpired("idle")) == [SetTimer("idle", 60.0)]


def test_timers_of_other_states_do_nothing() -> None:
    talk = Conversation().associate()
    assert talk.handle(TimerExpired("artim")) == []
    assert talk.handle(TimerExpired("handshake")) == []


def test_a_release_without_answer_times_out() -> None:
    talk = Conversation().associate()
    talk.requestor(release_rq())
    talk.take(A)
    talk.handle(TimerExpired("artim"))
    assert (talk.take(R), talk.take(A)) == (ABORT, ABORT)


# --- audit ------------------------------------------------------------------------------------------------------------


def test_without_audit_nothing_goes_on() -> None:
    talk = Conversation(subject=PERSON).associate()
    talk.requestor(store_rq())
    talk.sent[A].clear()  # the shell drops what waits behind a record that failed
    talk.handle(AuditFailed("disk full"))
    assert (talk.take(R), talk.take(A)) == (ABORT, ABORT)
    assert talk.relay.finished
    assert kinds(talk)[-2:] == ["Close", "Close"]


def test_audit_that_fails_with_the_farewell_still_closes() -> None:
    talk = Conversation(subject=PERSON).associate()
    talk.requestor(release_rq())
    talk.acceptor(release_rp())
    commands = talk.handle(AuditFailed("disk full"))
    assert commands == [Send(R, ABORT), Send(A, ABORT), Close(R), Close(A)]


def test_audit_that_fails_aborts_no_side_that_may_sit_inside_a_pdu() -> None:
    talk = Conversation().associate()
    request = store_rq(pixels=b"p" * 100)
    talk.requestor(request[:-10])
    talk.requestor(request[-10:])
    talk.take(A)
    talk.handle(AuditFailed("disk full"))
    assert talk.take(A) == b""
    assert talk.take(R) == ABORT


def test_audit_that_fails_before_the_association_only_closes() -> None:
    talk = Conversation()
    assert talk.handle(AuditFailed("disk full")) == [Close(R), Close(A)]


# --- defects ----------------------------------------------------------------------------------------------------------


class BrokenPolicy(TablePolicy):
    def decide(self, request: AccessRequest) -> Decision:
        raise ZeroDivisionError("PAT1 must not be seen in a log")


def test_an_error_of_the_gateway_ends_the_association_visibly(caplog: pytest.LogCaptureFixture) -> None:
    talk = Conversation(BrokenPolicy()).authenticate()
    with caplog.at_level(logging.CRITICAL):
        talk.requestor(associate_rq())
    assert talk.relay.finished
    assert talk.take(R) == ABORT
    assert names(talk.records) == ["Security Alert/Node Authentication (8)"]
    assert "ZeroDivisionError" in caplog.text
    assert "PAT1" not in caplog.text


def test_an_error_while_ending_still_closes(caplog: pytest.LogCaptureFixture) -> None:
    talk = Conversation().associate()
    talk.at = talk.at.replace(tzinfo=None)  # a record without zone cannot be built
    commands = talk.requestor(b"\xff" * 20)
    assert commands == [Close(R), Close(A)]
    assert talk.relay.finished
    assert "UsageError" in caplog.text


@pytest.mark.parametrize(
    "event",
    [
        lambda talk: talk.requestor(store_rq()),
        lambda talk: talk.handle(StreamEnded(A)),
        lambda talk: talk.handle(SessionEnded("x")),
    ],
)
def test_after_the_end_nothing_matters(event: Callable[[Conversation], list[object]]) -> None:
    talk = Conversation().associate()
    talk.handle(SessionEnded("x"))
    assert event(talk) == []
    assert talk.relay.state is State.CLOSED


def test_records_come_before_what_they_describe() -> None:
    talk = Conversation(subject=PERSON).associate()
    commands = talk.requestor(store_rq(1) + find_rq(2))
    kinds_ = [type(each) for each in commands]
    assert kinds_ == [Audit, Send, Audit, Send]
    talk.acceptor(store_rsp(1))
    assert split_pdus(talk.take(R)) == [store_rsp(1)]
