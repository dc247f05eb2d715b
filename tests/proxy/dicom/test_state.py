from __future__ import annotations

from securepacs_proxy.dicom.pdu import PduType
from securepacs_proxy.dicom.state import TRANSITIONS, Action, State, as_markdown
from securepacs_proxy.events import Side


def test_every_state_can_be_left_and_every_state_but_the_first_two_reached() -> None:
    left = {state for state, _, _ in TRANSITIONS}
    reached = {after for _, after in TRANSITIONS.values()}
    # HANDSHAKE and CONNECTING are left by events, not by PDUs
    assert set(State) - left == {State.HANDSHAKE, State.CLOSED}
    assert set(State) - reached == {State.HANDSHAKE, State.AWAIT_REQUEST, State.AWAIT_ANSWER}


def test_every_action_is_used() -> None:
    assert {action for action, _ in TRANSITIONS.values()} == set(Action)


def test_whoever_is_connected_may_abort() -> None:
    both = {state for state in State if (state, Side.ACCEPTOR, PduType.ABORT) in TRANSITIONS}
    assert both == set(State) - {State.HANDSHAKE, State.AWAIT_REQUEST, State.CONNECTING, State.CLOSED}
    assert all((state, Side.REQUESTOR, PduType.ABORT) in TRANSITIONS for state in both)


def test_data_flows_only_while_its_sender_has_not_asked_for_release() -> None:
    flows = {(state, side) for state, side, kind in TRANSITIONS if kind is PduType.P_DATA_TF}
    assert flows == {
        (State.ESTABLISHED, Side.REQUESTOR),
        (State.ESTABLISHED, Side.ACCEPTOR),
        (State.REQUESTOR_RELEASES, Side.ACCEPTOR),
        (State.ACCEPTOR_RELEASES, Side.REQUESTOR),
    }


def test_the_table_can_be_printed() -> None:
    text = as_markdown()
    assert text.count("\n| ") == len(TRANSITIONS) + 1
    assert "| ESTABLISHED | requestor | P-DATA-TF | check messages, pass what is permitted | ESTABLISHED |" in text
