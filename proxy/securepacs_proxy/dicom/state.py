"""The association seen from the middle as a printable table (PS3.8 9.2, both ends at once).

Rules: everything that affects which PDU may come when stands here. `TRANSITIONS[state, side, pdu]` is what to do and where that
leads; a pair that is absent is a violation and ends the association. An Action may refuse, then the state is CLOSED instead.
"""

from __future__ import annotations

from enum import Enum

from securepacs_proxy.dicom.pdu import PduType
from securepacs_proxy.events import Side


class State(Enum):
    """Where a relayed association stands."""

    HANDSHAKE = "the TLS handshake is under way"
    AWAIT_REQUEST = "the peer is known, A-ASSOCIATE-RQ has not come"
    CONNECTING = "the request is permitted, the archive is being called"
    AWAIT_ANSWER = "A-ASSOCIATE-RQ has gone to the archive"
    ESTABLISHED = "data may flow both ways"
    REQUESTOR_RELEASES = "the requestor asked for release"
    ACCEPTOR_RELEASES = "the acceptor asked for release"
    COLLISION = "both asked for release, the requestor answers first"
    COLLISION_ANSWERED = "both asked for release, the requestor has answered"
    CLOSED = "nothing more is relayed"


class Action(Enum):
    """What the relay does with a PDU that may come."""

    DECIDE_REQUEST = "check, decide, record, call the archive"
    RELAY_ANSWER = "write the acceptance anew and pass it on"
    RELAY_REJECTION = "pass the rejection on and close"
    RELAY_DATA = "check messages, pass what is permitted"
    RELAY_RELEASE = "pass A-RELEASE on"
    FINISH_RELEASE = "pass A-RELEASE-RP on, record, close"
    RELAY_ABORT = "pass A-ABORT on, record, close"


_R, _A = Side.REQUESTOR, Side.ACCEPTOR

TRANSITIONS: dict[tuple[State, Side, PduType], tuple[Action, State]] = {
    (State.AWAIT_REQUEST, _R, PduType.ASSOCIATE_RQ): (Action.DECIDE_REQUEST, State.CONNECTING),
    (State.AWAIT_REQUEST, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.CONNECTING, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.AWAIT_ANSWER, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.AWAIT_ANSWER, _A, PduType.ASSOCIATE_AC): (Action.RELAY_ANSWER, State.ESTABLISHED),
    (State.AWAIT_ANSWER, _A, PduType.ASSOCIATE_RJ): (Action.RELAY_REJECTION, State.CLOSED),
    (State.AWAIT_ANSWER, _A, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.ESTABLISHED, _R, PduType.P_DATA_TF): (Action.RELAY_DATA, State.ESTABLISHED),
    (State.ESTABLISHED, _A, PduType.P_DATA_TF): (Action.RELAY_DATA, State.ESTABLISHED),
    (State.ESTABLISHED, _R, PduType.RELEASE_RQ): (Action.RELAY_RELEASE, State.REQUESTOR_RELEASES),
    (State.ESTABLISHED, _A, PduType.RELEASE_RQ): (Action.RELAY_RELEASE, State.ACCEPTOR_RELEASES),
    (State.ESTABLISHED, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.ESTABLISHED, _A, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    # Whoever was asked may still send data before it answers (PS3.8 Sta7, AR-6).
    (State.REQUESTOR_RELEASES, _A, PduType.P_DATA_TF): (Action.RELAY_DATA, State.REQUESTOR_RELEASES),
    (State.REQUESTOR_RELEASES, _A, PduType.RELEASE_RP): (Action.FINISH_RELEASE, State.CLOSED),
    (State.REQUESTOR_RELEASES, _A, PduType.RELEASE_RQ): (Action.RELAY_RELEASE, State.COLLISION),
    (State.REQUESTOR_RELEASES, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.REQUESTOR_RELEASES, _A, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.ACCEPTOR_RELEASES, _R, PduType.P_DATA_TF): (Action.RELAY_DATA, State.ACCEPTOR_RELEASES),
    (State.ACCEPTOR_RELEASES, _R, PduType.RELEASE_RP): (Action.FINISH_RELEASE, State.CLOSED),
    (State.ACCEPTOR_RELEASES, _R, PduType.RELEASE_RQ): (Action.RELAY_RELEASE, State.COLLISION),
    (State.ACCEPTOR_RELEASES, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.ACCEPTOR_RELEASES, _A, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.COLLISION, _R, PduType.RELEASE_RP): (Action.RELAY_RELEASE, State.COLLISION_ANSWERED),
    (State.COLLISION, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.COLLISION, _A, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.COLLISION_ANSWERED, _A, PduType.RELEASE_RP): (Action.FINISH_RELEASE, State.CLOSED),
    (State.COLLISION_ANSWERED, _R, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
    (State.COLLISION_ANSWERED, _A, PduType.ABORT): (Action.RELAY_ABORT, State.CLOSED),
}


def as_markdown() -> str:
    """Return the table for the documentation."""
    lines = ["| state | side | PDU | action | next state |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {state.name} | {side.value} | {pdu.standard_name} | {action.value} | {after.name} |"
        for (state, side, pdu), (action, after) in TRANSITIONS.items()
    ]
    return "\n".join([*lines, "", "Anything that is not in the table ends the association with A-ABORT and a Security Alert.", ""])
