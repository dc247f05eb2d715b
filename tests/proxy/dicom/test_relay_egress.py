"""The relay on the way out: the archive is the requestor, and a C-STORE of a C-MOVE belongs to whoever moved."""

from __future__ import annotations

from typing import Any

import pytest

from securepacs.audit.message import AuditMessage
from securepacs.policy.cedar import CedarPolicy
from securepacs.policy.subject import Subject, SubjectKind
from securepacs_proxy.commands import Destination, OpenUpstream
from securepacs_proxy.dicom.moves import Moves
from securepacs_proxy.dicom.settings import EGRESS
from securepacs_proxy.events import Side, UpstreamConnected
from tests.support.dicom_wire import (
    CONTEXT_ID,
    CT,
    PERSON,
    STUDY_MOVE,
    Conversation,
    TablePolicy,
    associate_ac,
    associate_rq,
    echo_rq,
    encode,
    find_rq,
    identifier,
    image,
    message,
    names,
    release_rp,
    release_rq,
    store_rsp,
)

R, A = Side.REQUESTOR, Side.ACCEPTOR
ARCHIVE = Subject(
    SubjectKind.DEVICE, "orthanc.inside", "Orthanc", frozenset({"archive"}), ae_titles=frozenset({"ARCHIVE"}), assurance="network"
)
SHIPPED: Any = CedarPolicy.from_folder()


def way_out(moves: Moves | None = None, policy: Any = None, **request: Any) -> Conversation:
    talk = Conversation(
        policy or TablePolicy(),
        subject=ARCHIVE,
        direction=EGRESS,
        routes={"DEST": (Destination("203.0.113.9", 2762, "egress[0].route[0].tls"),)},
        moves=moves or Moves(),
    )
    talk.authenticate()
    talk.requestor(associate_rq(calling="ARCHIVE", called="DEST", **request))
    talk.handle(UpstreamConnected("203.0.113.9"))
    proposal = talk.take(A)
    assert proposal, talk.records
    talk.acceptor(associate_ac(proposal))
    talk.take(R)
    talk.records.clear()
    return talk


def moved(message_id: int = 1, *, originator: str | None = "WS1", moved_by: int = 7, study: str = "1.2.3") -> bytes:
    named = {"MoveOriginatorApplicationEntityTitle": originator, "MoveOriginatorMessageID": moved_by}
    fields: dict[str, Any] = named if originator else {}
    return message(
        "C_STORE_RQ",
        CONTEXT_ID[CT],
        data=encode(image(study=study)),
        MessageID=message_id,
        AffectedSOPClassUID=CT,
        AffectedSOPInstanceUID="1.2.3.1",
        Priority=2,
        **fields,
    )


def ask(moves: Moves, subject: Subject = PERSON, *, study: str = "1.2.3", message_id: int = 7) -> Conversation:
    """A person asks the archive to move to DEST."""
    talk = Conversation(subject=subject, moves=moves).associate(calling="WS1")
    talk.requestor(
        message(
            "C_MOVE_RQ",
            CONTEXT_ID[STUDY_MOVE],
            data=identifier(StudyInstanceUID=study),
            MessageID=message_id,
            AffectedSOPClassUID=STUDY_MOVE,
            MoveDestination="DEST",
            Priority=2,
        )
    )
    return talk


def users(record: AuditMessage) -> list[tuple[str, bool]]:
    return [(one.UserID, one.UserIsRequestor) for one in record.ActiveParticipant]


def test_a_sub_operation_is_recorded_under_who_moved_before_it_leaves() -> None:
    moves = Moves()
    asking = ask(moves)
    talk = way_out(moves)
    talk.requestor(moved())
    assert talk.take(A) == moved()
    talk.acceptor(store_rsp(1))
    talk.requestor(release_rq())
    talk.acceptor(release_rp())
    assert names(talk.records) == ["Begin Transferring DICOM Instances", "DICOM Instances Transferred"]
    for record in talk.records:
        assert users(record) == [("orthanc.inside", False), ("DEST", False), (PERSON.user_id, True)]
    final = message(
        "C_MOVE_RSP",
        CONTEXT_ID[STUDY_MOVE],
        MessageIDBeingRespondedTo=7,
        AffectedSOPClassUID=STUDY_MOVE,
        Status=0,
        NumberOfRemainingSuboperations=0,
        NumberOfCompletedSuboperations=1,
        NumberOfFailedSuboperations=0,
        NumberOfWarningSuboperations=0,
    )
    asking.acceptor(final)
    assert len(moves) == 0


def test_the_policy_sees_for_whom_the_archive_sends() -> None:
    moves, policy = Moves(), TablePolicy()
    ask(moves)
    talk = way_out(moves, policy)
    talk.requestor(moved() + moved(2, originator=None))
    first, second = policy.asked[-2:]
    assert (first.direction, first.toward_archive, first.archive) == ("egress", False, "DEST")
    assert (first.move_originator, first.on_behalf_of) == ("WS1", PERSON.user_id)
    assert (second.move_originator, second.on_behalf_of) == ("", "")


@pytest.mark.parametrize("wrong", [{"originator": "WS2"}, {"moved_by": 8}, {"study": "1.2.4"}, {"originator": None}])
def test_what_nobody_here_asked_for_is_recorded_under_the_archive(wrong: dict[str, Any]) -> None:
    moves = Moves()
    ask(moves)
    talk = way_out(moves)
    talk.requestor(moved(**wrong))
    assert users(talk.records[0]) == [("orthanc.inside", True), ("DEST", False)]


def test_two_people_who_fit_are_not_guessed_between() -> None:
    moves = Moves()
    ask(moves)
    ask(moves, Subject(SubjectKind.PERSON, "lee@hospital.example", "Lee", frozenset({"radiologist"})))
    talk = way_out(moves)
    talk.requestor(moved())
    assert users(talk.records[0]) == [("orthanc.inside", True), ("DEST", False)]


def test_a_refused_move_explains_nothing() -> None:
    moves = Moves()
    talk = Conversation(TablePolicy(lambda asked: asked.action != "C-MOVE"), subject=PERSON, moves=moves).associate(calling="WS1")
    talk.requestor(
        message(
            "C_MOVE_RQ",
            CONTEXT_ID[STUDY_MOVE],
            data=identifier(StudyInstanceUID="1.2.3"),
            MessageID=7,
            AffectedSOPClassUID=STUDY_MOVE,
            MoveDestination="DEST",
            Priority=2,
        )
    )
    assert len(moves) == 0


def test_an_originator_on_the_way_in_gives_nobody_a_name() -> None:
    """A modality may write what it likes into a C-STORE: it stays the one who stores."""
    moves = Moves()
    ask(moves)
    policy = TablePolicy()
    talk = Conversation(policy, moves=moves).associate()
    talk.requestor(moved())
    assert policy.asked[-1].on_behalf_of == ""
    assert users(talk.records[0])[0] == ("ct1.hospital.example", True)


def test_the_shipped_policy_lets_an_archive_store_and_ask_nothing() -> None:
    talk = way_out(policy=SHIPPED)
    talk.requestor(moved(1, originator=None))
    assert talk.take(A) == moved(1, originator=None)
    talk.requestor(find_rq(2))
    assert talk.take(A) == b""
    assert names(talk.records)[-1].startswith("Security Alert")
    talk.requestor(echo_rq(3))
    assert talk.take(A) == echo_rq(3)


def test_without_the_role_of_an_archive_nothing_leaves() -> None:
    other = Subject(SubjectKind.DEVICE, "x", "x", frozenset({"gateway_peer"}), ae_titles=frozenset({"ARCHIVE"}))
    talk = Conversation(SHIPPED, subject=other, direction=EGRESS, routes={"DEST": (Destination("203.0.113.9", 2762),)})
    talk.authenticate()
    talk.requestor(associate_rq(calling="ARCHIVE", called="DEST"))
    assert bytes(talk.sent[R][:1]) == b"\x03"
    assert not any(isinstance(command, OpenUpstream) for command in talk.commands)


def test_the_role_of_an_archive_gives_nothing_on_the_way_in() -> None:
    talk = Conversation(SHIPPED, subject=ARCHIVE)
    talk.authenticate()
    talk.requestor(associate_rq(calling="ARCHIVE"))
    assert bytes(talk.sent[R][:1]) == b"\x03"
