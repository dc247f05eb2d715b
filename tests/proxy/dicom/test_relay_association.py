"""The association phase: who gets through, what the other hop sees, what is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from securepacs.audit.message import AuditMessage
from securepacs.codes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, NODE_AUTHENTICATION
from securepacs.policy.subject import AccessRequest
from securepacs_proxy.commands import Audit, Close, OpenUpstream, Send, SetTimer
from securepacs_proxy.dicom.negotiation import IMPLEMENTATION_CLASS_UID
from securepacs_proxy.dicom.state import State
from securepacs_proxy.dicom.user_identity import Ignored
from securepacs_proxy.events import (
    ConnectionAccepted,
    HandshakeFailed,
    PeerAuthenticated,
    Side,
    StreamEnded,
    TimerExpired,
    UpstreamConnected,
    UpstreamUnreachable,
)
from tests.support.dicom_wire import (
    ARCHIVE,
    CONTEXT_ID,
    CT,
    DEVICE,
    MR,
    PEER,
    PERSON,
    STUDY_GET,
    VERIFICATION,
    Conversation,
    TablePolicy,
    abort,
    associate_ac,
    associate_rj,
    associate_rq,
    names,
    split_pdus,
)

R, A = Side.REQUESTOR, Side.ACCEPTOR
RESTRICTED = "Security Alert/Use of Restricted Function (8)"
NODE = "Security Alert/Node Authentication (8)"


def rejection(result: int, source: int, reason: int) -> bytes:
    return bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason))


def aborted(reason: int = 0) -> bytes:
    return bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, reason))


def alert_text(record: AuditMessage) -> str:
    return record.ParticipantObjectIdentification[0].ParticipantObjectDetail[0].value.decode()


def kinds(talk: Conversation) -> list[str]:
    return [type(command).__name__ for command in talk.commands]


# --- before the association -----------------------------------------------------------------------------------------


def test_a_handshake_timer_is_set_when_the_settings_name_one() -> None:
    talk = Conversation(handshake_seconds=10.0)
    assert talk.handle(ConnectionAccepted(PEER)) == [SetTimer("handshake", 10.0)]
    assert talk.handle(PeerAuthenticated(PEER, DEVICE)) == [SetTimer("handshake", None), SetTimer("artim", 30.0)]


def test_a_slow_handshake_is_recorded_and_closed() -> None:
    talk = Conversation(handshake_seconds=10.0)
    talk.handle(ConnectionAccepted(PEER))
    commands = talk.handle(TimerExpired("handshake"))
    assert [type(each) for each in commands] == [Audit, Close]
    assert "took too long" in alert_text(talk.records[0])


def test_a_failed_handshake_is_recorded_with_its_reason_and_the_claimed_name() -> None:
    talk = Conversation()
    talk.handle(ConnectionAccepted(PEER))
    commands = talk.handle(HandshakeFailed("certificate has expired", "CN=ct9.hospital.example"))
    assert [type(each) for each in commands] == [Audit, Close]
    assert commands[1] == Close(R)
    record = talk.records[0]
    assert record.EventIdentification.EventTypeCode == (NODE_AUTHENTICATION,)
    assert alert_text(record) == "certificate has expired"
    claimed = record.ActiveParticipant[1]
    assert (claimed.UserID, claimed.NetworkAccessPointID) == ("CN=ct9.hospital.example", PEER.host)
    assert talk.relay.finished


def test_a_failed_handshake_without_certificate_names_only_the_address() -> None:
    talk = Conversation()
    talk.handle(ConnectionAccepted(PEER))
    talk.handle(HandshakeFailed("no certificate was shown"))
    assert len(talk.records[0].ActiveParticipant) == 1
    assert talk.records[0].ParticipantObjectIdentification[0].ParticipantObjectID == PEER.host


def test_nothing_is_sent_to_the_archive_when_the_peer_closes_before_asking() -> None:
    talk = Conversation().authenticate()
    talk.handle(StreamEnded(R))
    assert kinds(talk) == ["SetTimer", "Close", "Close"]


# --- what the archive sees ------------------------------------------------------------------------------------------


def test_a_device_is_connected_without_a_login_record() -> None:
    talk = Conversation().authenticate()
    assert talk.requestor(associate_rq()) == [OpenUpstream((ARCHIVE,))]
    assert talk.records == []
    assert talk.sent[A] == b""


def test_a_person_is_logged_in_on_record_before_the_archive_is_called() -> None:
    talk = Conversation(subject=PERSON).authenticate()
    commands = talk.requestor(associate_rq(calling="ANYTHING"))
    assert [type(each) for each in commands] == [Audit, OpenUpstream]
    assert names(talk.records) == ["User Authentication/Login"]
    person, node = talk.records[0].ActiveParticipant
    assert (person.UserID, person.UserName, person.AlternativeUserID) == (PERSON.user_id, PERSON.name, "AETITLES=ANYTHING")
    assert (person.UserIsRequestor, person.NetworkAccessPointID) == (True, PEER.host)
    assert (node.UserID, node.UserIsRequestor) == ("gw1", False)


def test_the_request_is_written_anew() -> None:
    talk = Conversation(max_pdu_length=32768).authenticate()
    talk.requestor(associate_rq(max_length=0))
    commands = talk.handle(UpstreamConnected("198.51.100.5"))
    assert [type(each) for each in commands] == [Send]
    proposal = A_ASSOCIATE_RQ()
    proposal.decode(talk.take(A))
    assert proposal.called_ae_title.strip() == "ARCHIVE"
    assert proposal.calling_ae_title.strip() == "CT1"
    assert len(proposal.presentation_context) == 7
    information = proposal.user_information
    assert information.maximum_length == 32768
    assert information.implementation_class_uid == IMPLEMENTATION_CLASS_UID


@pytest.mark.parametrize(
    ("theirs", "ours", "announced"), [(16384, 131072, 16384), (0, 131072, 131072), (65536, 32768, 32768), (131072, 131072, 131072)]
)
def test_each_hop_announces_the_smaller_maximum(theirs: int, ours: int, announced: int) -> None:
    talk = Conversation(max_pdu_length=ours).authenticate()
    talk.requestor(associate_rq(max_length=theirs))
    talk.handle(UpstreamConnected())
    raw = talk.take(A)
    proposal = A_ASSOCIATE_RQ()
    proposal.decode(raw)
    assert proposal.user_information.maximum_length == announced
    talk.acceptor(associate_ac(raw, max_length=theirs))
    answer = A_ASSOCIATE_AC()
    answer.decode(talk.take(R))
    assert answer.user_information.maximum_length == announced


def identity(kind: int, primary: bytes, *, response: bool = True) -> UserIdentityNegotiation:
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field, item.positive_response_requested = kind, primary, response
    if kind == 2:
        item.secondary_field = b"passcode-marker"
    return item


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("name", [b"kim@hospital.example", b"KIM RADIOLOGIST", b"kim01"])
@pytest.mark.parametrize("response", [True, False])
def test_a_user_name_that_agrees_with_the_certificate_is_taken_off_and_answered(kind: int, name: bytes, response: bool) -> None:
    subject = replace(PERSON, user_names=frozenset({"kim01"}))
    talk = Conversation(subject=subject).authenticate()
    talk.requestor(associate_rq(items=[identity(kind, name, response=response)]))
    talk.handle(UpstreamConnected())
    raw = talk.take(A)
    assert b"passcode-marker" not in raw
    assert name not in raw
    assert f"type {kind}" in talk.records[0].EventIdentification.EventOutcomeDescription
    assert "passcode-marker" not in str(talk.records[0])
    talk.acceptor(associate_ac(raw))
    answer = A_ASSOCIATE_AC()
    answer.decode(talk.take(R))
    found = [item for item in answer.user_information.user_data if item.item_type == 0x59]
    assert [item.server_response for item in found] == ([b""] if response else [])


@pytest.mark.parametrize(
    ("kind", "primary"),
    [(1, b"someone-else"), (2, b"someone-else"), (1, b"\xff\xfe"), (1, b" "), (3, b"ticket"), (4, b"<a/>"), (5, b"a.b.c")],
)
def test_any_other_identity_is_rejected_and_recorded_without_its_content(kind: int, primary: bytes) -> None:
    talk = Conversation(subject=PERSON).authenticate()
    talk.requestor(associate_rq(items=[identity(kind, primary)]))
    assert talk.take(R)[6:] == bytes((0, 1, 2, 1))
    assert talk.take(A) == b""
    assert names(talk.records) == ["Security Alert/Use of Restricted Function (8)", "User Authentication/Login (4)"]
    assert f"type {kind}" in alert_text(talk.records[0])
    assert "someone-else" not in str(talk.records)
    assert "passcode-marker" not in str(talk.records)


def test_an_identity_nobody_looks_at_is_still_taken_off() -> None:
    talk = Conversation(subject=PERSON, identity_rules=Ignored()).authenticate()
    talk.requestor(associate_rq(items=[identity(2, b"someone-else")]))
    talk.handle(UpstreamConnected())
    assert b"someone-else" not in talk.take(A)
    assert "someone-else" not in str(talk.records)


def test_contexts_the_policy_forbids_are_left_out_and_rejected_by_the_user() -> None:
    talk = Conversation(TablePolicy(lambda asked: asked.sop_class_uid != MR)).authenticate()
    talk.requestor(associate_rq(classes=[CT, MR, VERIFICATION]))
    talk.handle(UpstreamConnected())
    raw = talk.take(A)
    proposal = A_ASSOCIATE_RQ()
    proposal.decode(raw)
    assert [each.abstract_syntax for each in proposal.presentation_context] == [CT, VERIFICATION]
    talk.acceptor(associate_ac(raw, reject=[VERIFICATION]))
    answer = A_ASSOCIATE_AC()
    answer.decode(talk.take(R))
    assert [(each.context_id, each.result) for each in answer.presentation_context] == [
        (CONTEXT_ID[CT], 0),
        (CONTEXT_ID[MR], 1),
        (CONTEXT_ID[VERIFICATION], 3),
    ]
    assert talk.relay.state is State.ESTABLISHED


def test_items_of_forbidden_contexts_are_left_out_too() -> None:
    roles = []
    for uid in (CT, MR):
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = uid, True, True
        roles.append(role)
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = MR, b"\x02\0\x03\0\0\0"
    talk = Conversation(TablePolicy(lambda asked: asked.sop_class_uid != MR)).authenticate()
    talk.requestor(associate_rq(classes=[CT, MR], items=[*roles, extended]))
    talk.handle(UpstreamConnected())
    proposal = A_ASSOCIATE_RQ()
    proposal.decode(talk.take(A))
    information = proposal.user_information
    assert list(information.role_selection) == [CT]
    assert information.ext_neg == []


def test_the_acceptance_ends_artim_and_starts_the_idle_timer() -> None:
    talk = Conversation(idle_seconds=60.0).authenticate()
    talk.requestor(associate_rq())
    talk.handle(UpstreamConnected())
    commands = talk.acceptor(associate_ac(talk.take(A)))
    assert commands[:2] == [SetTimer("artim", None), SetTimer("idle", 60.0)]
    answer = A_ASSOCIATE_AC()
    answer.decode(talk.take(R))
    assert answer.user_information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert answer.called_ae_title.strip() == "ARCHIVE"


def test_the_policy_is_asked_for_the_association_and_then_for_each_class_once() -> None:
    talk = Conversation(subject=PERSON).authenticate()
    talk.requestor(associate_rq(classes=[CT, MR]))
    asked = talk.policy.asked
    assert [(each.action, each.sop_class_uid) for each in asked] == [("Associate", ""), ("Associate", CT), ("Associate", MR)]
    first = asked[0]
    assert (first.archive, first.calling_ae_title, first.tls_version, first.toward_archive) == ("ARCHIVE", "CT1", "TLSv1.3", True)


# --- who does not get through ---------------------------------------------------------------------------------------


def denied_when(action: str) -> TablePolicy:
    return TablePolicy(lambda asked: asked.action != action)


@pytest.mark.parametrize(
    ("subject", "policy", "request_", "answer", "records"),
    [
        pytest.param(DEVICE, None, {"called": "ELSEWHERE"}, (1, 1, 7), [RESTRICTED], id="no route"),
        pytest.param(DEVICE, None, {"calling": "CT2"}, (1, 1, 3), [RESTRICTED], id="a device with a foreign AE title"),
        pytest.param(replace(DEVICE, ae_titles=frozenset()), None, {}, (1, 1, 3), [RESTRICTED], id="a device bound to nothing"),
        pytest.param(DEVICE, denied_when("Associate"), {}, (1, 1, 1), [RESTRICTED], id="policy refuses a device"),
        pytest.param(
            PERSON,
            denied_when("Associate"),
            {},
            (1, 1, 1),
            [RESTRICTED, "User Authentication/Login (4)"],
            id="policy refuses a person",
        ),
        pytest.param(
            DEVICE, TablePolicy(lambda asked: not asked.sop_class_uid), {}, (1, 1, 1), [RESTRICTED], id="no context is left"
        ),
    ],
)
def test_refused_associations(
    subject: Any, policy: TablePolicy | None, request_: dict[str, Any], answer: tuple[int, int, int], records: list[str]
) -> None:
    talk = Conversation(policy, subject=subject).authenticate()
    talk.commands.clear()
    talk.requestor(associate_rq(**request_))
    assert kinds(talk) == [*["Audit"] * len(records), "Send", "Close", "Close"]
    assert talk.take(R) == rejection(*answer)
    assert talk.sent[A] == b""
    assert names(talk.records) == records
    assert talk.relay.finished


def test_the_refusal_names_the_policies_and_the_reason() -> None:
    talk = Conversation(denied_when("Associate")).authenticate()
    talk.requestor(associate_rq())
    assert alert_text(talk.records[0]) == "Associate refused: not in the table (policies: table)"
    performer = talk.records[0].ActiveParticipant[1]
    assert (performer.UserID, performer.UserIsRequestor) == (DEVICE.user_id, False)


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        pytest.param(lambda raw: raw[:6] + b"\0\2" + raw[8:], (1, 2, 2), id="another protocol version"),
        pytest.param(
            lambda raw: raw.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9"), (1, 1, 2), id="another application context"
        ),
    ],
)
def test_requests_the_standard_rejects(change: Any, answer: tuple[int, int, int]) -> None:
    talk = Conversation().authenticate()
    talk.requestor(change(associate_rq()))
    assert talk.take(R) == rejection(*answer)
    assert names(talk.records) == [NODE]


@pytest.mark.parametrize("piece", [0, 1])
def test_anything_but_a_request_is_aborted_before_it_is_kept(piece: int) -> None:
    first = [b"\x04\0\0\0\xff\xff" + b"x" * 10, b"GET / HTTP/1.1\r\n\r\n"][piece]
    talk = Conversation().authenticate()
    talk.requestor(first)
    assert talk.take(R) == aborted([2, 1][piece])
    assert names(talk.records) == [NODE]
    assert talk.relay.buffered <= len(first)


def test_an_oversized_request_is_aborted_at_its_header() -> None:
    talk = Conversation().authenticate()
    talk.requestor(b"\x01\0\x7f\xff\xff\xff")
    assert talk.take(R) == aborted(6)


def test_data_before_the_handshake_is_a_violation() -> None:
    talk = Conversation()
    talk.handle(ConnectionAccepted(PEER))
    talk.requestor(associate_rq())
    assert kinds(talk) == ["Audit", "Close", "Close"]


def test_a_second_request_is_a_violation() -> None:
    talk = Conversation().authenticate()
    talk.requestor(associate_rq() * 2)
    assert talk.take(R) == aborted(2)
    assert names(talk.records) == [NODE]


# --- what the archive may answer ------------------------------------------------------------------------------------


def connected(talk: Conversation, **request: Any) -> bytes:
    talk.authenticate()
    talk.requestor(associate_rq(**request))
    talk.handle(UpstreamConnected())
    talk.records.clear()
    return talk.take(A)


def test_the_archives_rejection_is_passed_on_and_the_person_logged_out() -> None:
    talk = Conversation(subject=PERSON)
    connected(talk)
    talk.commands.clear()
    talk.acceptor(associate_rj(2, 3, 2))
    assert talk.take(R) == rejection(2, 3, 2)
    assert kinds(talk) == ["Audit", "Send", "Close", "Close"]
    assert names(talk.records) == ["User Authentication/Logout"]
    assert "2/3/2" in talk.records[0].EventIdentification.EventOutcomeDescription


def proposed_role() -> SCP_SCU_RoleSelectionNegotiation:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    return role


def window() -> AsynchronousOperationsWindowNegotiation:
    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked, item.maximum_number_operations_performed = 5, 5
    return item


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        pytest.param({"contexts": [(99, IMPLICIT_VR_LITTLE_ENDIAN)]}, "context that was not proposed", id="context"),
        pytest.param({"syntax": "1.2.840.10008.1.2.4.50"}, "transfer syntax that was not proposed", id="transfer syntax"),
        pytest.param({"items": [proposed_role()]}, "role that was not proposed", id="role"),
        pytest.param({"items": [window()]}, "window that was not proposed", id="window"),
        pytest.param({"max_length": 100}, "maximum length is too small", id="tiny PDUs"),
    ],
)
def test_answers_beyond_the_proposal_abort_both_sides(answer: dict[str, Any], word: str) -> None:
    talk = Conversation()
    raw = connected(talk)
    talk.acceptor(associate_ac(raw, **answer))
    assert talk.take(R) == aborted()
    assert talk.take(A) == aborted(6)
    assert word in alert_text(talk.records[0])


def test_an_archive_that_leaves_a_context_out_has_not_accepted_it() -> None:
    talk = Conversation()
    raw = connected(talk, classes=[CT, MR])
    talk.acceptor(associate_ac(raw, contexts=[(CONTEXT_ID[CT], EXPLICIT_VR_LITTLE_ENDIAN)]))
    answer = A_ASSOCIATE_AC()
    answer.decode(talk.take(R))
    assert [(each.context_id, each.result) for each in answer.presentation_context] == [(CONTEXT_ID[CT], 0), (CONTEXT_ID[MR], 2)]


def test_a_window_that_was_proposed_is_passed_both_ways() -> None:
    talk = Conversation()
    raw = connected(talk, items=[window()])
    assert b"\x53\0\0\x04\0\x05\0\x05" in raw
    talk.acceptor(associate_ac(raw, items=[window()]))
    assert b"\x53\0\0\x04\0\x05\0\x05" in talk.take(R)


# --- when the archive does not answer -------------------------------------------------------------------------------


def unreachable(talk: Conversation) -> None:
    talk.handle(UpstreamUnreachable("198.51.100.5:11112: connection refused"))


def too_late(talk: Conversation) -> None:
    talk.wait(30)
    talk.handle(TimerExpired("artim"))


@pytest.mark.parametrize("what", [unreachable, too_late])
def test_an_archive_out_of_reach_gets_the_peer_a_retryable_rejection(what: Any) -> None:
    talk = Conversation(subject=PERSON).authenticate()
    talk.requestor(associate_rq())
    talk.commands.clear()
    what(talk)
    assert talk.take(R) == rejection(2, 3, 1)
    assert names(talk.records) == ["User Authentication/Login", NODE, "User Authentication/Logout"]
    assert kinds(talk)[-2:] == ["Close", "Close"]


def test_an_archive_that_closes_instead_of_answering_is_out_of_reach() -> None:
    talk = Conversation()
    connected(talk)
    talk.handle(StreamEnded(A, "connection reset"))
    assert talk.take(R) == rejection(2, 3, 1)


def test_an_archive_that_never_answers_is_told_to_stop() -> None:
    talk = Conversation()
    connected(talk)
    too_late(talk)
    assert talk.take(A) == aborted()
    assert talk.take(R) == rejection(2, 3, 1)


def test_a_peer_that_never_asks_is_aborted() -> None:
    talk = Conversation().authenticate()
    too_late(talk)
    assert talk.take(R) == aborted()
    assert "time ran out" in alert_text(talk.records[0])


@pytest.mark.parametrize("connect", [False, True])
def test_a_peer_that_gives_up_while_the_archive_is_called(connect: bool) -> None:
    talk = Conversation(subject=PERSON).authenticate()
    talk.requestor(associate_rq())
    if connect:
        talk.handle(UpstreamConnected())
    talk.take(A)
    talk.requestor(abort())
    assert split_pdus(talk.take(A)) == ([bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0))] if connect else [])
    assert names(talk.records) == ["User Authentication/Login", "User Authentication/Logout"]
    assert kinds(talk)[-2:] == ["Close", "Close"]


def test_connecting_twice_is_an_error_that_ends_the_association() -> None:
    talk = Conversation().associate()
    talk.handle(UpstreamConnected())
    assert talk.relay.finished


def test_roles_follow_the_answer() -> None:
    """C-GET needs the requestor as SCP of the storage class: proposed and accepted roles reach both ends."""
    talk = Conversation()
    raw = connected(talk, classes=[CT, STUDY_GET], items=[proposed_role()])
    talk.acceptor(associate_ac(raw, items=[proposed_role()]))
    answer = A_ASSOCIATE_AC()
    answer.decode(talk.take(R))
    assert list(answer.user_information.role_selection) == [CT]


def test_access_requests_of_a_peer_carry_no_patient() -> None:
    def permits(asked: AccessRequest) -> bool:
        return not (asked.patient_id or asked.study_instance_uid)

    Conversation(TablePolicy(permits)).associate()
