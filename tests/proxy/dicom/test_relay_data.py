"""Messages on an established association: what passes, what is refused, what is recorded."""

from __future__ import annotations

import zlib
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from securepacs.codes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from securepacs.policy.subject import AccessRequest
from securepacs_proxy.commands import Audit, Send
from securepacs_proxy.dicom.dimse import decode_command, encode_elements
from securepacs_proxy.events import DataReceived, PolicyReplaced, Side, StreamEnded
from tests.support.dicom_wire import (
    CONTEXT_ID,
    CT,
    DEVICE,
    MPPS,
    MR,
    NOW,
    PERSON,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    Conversation,
    TablePolicy,
    echo_rq,
    echo_rsp,
    encode,
    find_rq,
    identifier,
    image,
    message,
    names,
    pdv_pdu,
    release_rp,
    release_rq,
    split_pdus,
    store_rq,
    store_rsp,
)

R, A = Side.REQUESTOR, Side.ACCEPTOR
RESTRICTED = "Security Alert/Use of Restricted Function (8)"
NODE = "Security Alert/Node Authentication (8)"
BEGIN, TRANSFERRED = "Begin Transferring DICOM Instances", "DICOM Instances Transferred"


def only(**fields: Any) -> TablePolicy:
    """Permits associations, and everything with these fields."""
    return TablePolicy(
        lambda asked: asked.action == "Associate" or all(getattr(asked, name) == value for name, value in fields.items())
    )


def response_of(raw: bytes) -> tuple[int, int, int, int | None]:
    """Context, Command Field, Message ID and Status of a response that is one PDU."""
    (pdu,) = split_pdus(raw)
    assert pdu[11] == 3  # one PDV: command, last
    command = decode_command(pdu[12:])
    return pdu[10], command.command_field, command.message_id, command.status


def alert_text(record: Any) -> str:
    return str(record.ParticipantObjectIdentification[0].ParticipantObjectDetail[0].value.decode())


def get_role(uid: str = CT) -> SCP_SCU_RoleSelectionNegotiation:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = uid, True, True
    return role


def release(talk: Conversation) -> None:
    talk.requestor(release_rq())
    talk.acceptor(release_rp())


def _patient_only() -> Dataset:
    dataset = Dataset()
    dataset.PatientID = "PAT1"
    return dataset


# --- C-STORE ----------------------------------------------------------------------------------------------------------


def test_an_image_passes_unchanged_after_its_record_in_one_piece() -> None:
    talk = Conversation().associate()
    request = store_rq(pixels=bytes(range(256)) * 400)
    assert len(split_pdus(request)) > 6
    buffer = memoryview(request)
    commands = talk.handle(DataReceived(R, buffer))
    assert [type(each) for each in commands] == [Audit, Send]
    send = commands[1]
    assert isinstance(send, Send)
    assert isinstance(send.data, memoryview)
    assert send.data.obj is request  # the buffer of the event, nothing was copied
    assert bytes(send.data) == request


def test_begin_and_transferred_name_parties_study_and_patient() -> None:
    talk = Conversation().associate()
    talk.requestor(store_rq())
    talk.acceptor(store_rsp())
    release(talk)
    assert names(talk.records) == [BEGIN, TRANSFERRED]
    for record in talk.records:
        sender, receiver = record.ActiveParticipant
        assert (sender.UserID, sender.UserIsRequestor, sender.AlternativeUserID) == (DEVICE.user_id, True, "AETITLES=CT1")
        assert (receiver.UserID, receiver.NetworkAccessPointID) == ("ARCHIVE", "198.51.100.5")
        study, patient = record.ParticipantObjectIdentification
        assert (study.ParticipantObjectID, patient.ParticipantObjectID) == ("1.2.3", "PAT1")
        assert "Secret" not in str(record)
    study = talk.records[1].ParticipantObjectIdentification[0]
    description = study.ParticipantObjectDescription
    assert description is not None
    assert [(each.UID, each.NumberOfInstances) for each in description.SOPClass] == [(CT, 1)]
    assert description.Accession == ("ACC1",)


def test_studies_and_patients_have_records_of_their_own_and_failures_too() -> None:
    talk = Conversation().associate()
    cases = [("1.2.3", "PAT1", 0), ("1.2.3", "PAT1", 0xB000), ("1.2.4", "PAT2", 0xA700), ("1.2.4", "PAT2", 0), ("1.2.4", "PAT3", 0)]
    for number, (study, patient, status) in enumerate(cases, 1):
        talk.requestor(store_rq(number, study=study, patient=patient))
        talk.acceptor(store_rsp(number, status))
    talk.requestor(store_rq(9, study="1.2.5"))  # never answered
    talk.handle(StreamEnded(R))
    expected = [BEGIN, BEGIN, BEGIN, BEGIN, TRANSFERRED, TRANSFERRED, f"{TRANSFERRED} (8)", TRANSFERRED, f"{TRANSFERRED} (8)"]
    assert names(talk.records) == expected
    counts = []
    for record in talk.records[4:]:
        study_object, patient_object = record.ParticipantObjectIdentification
        assert study_object.ParticipantObjectDescription is not None
        total = sum(each.NumberOfInstances for each in study_object.ParticipantObjectDescription.SOPClass)
        counts.append((study_object.ParticipantObjectID, patient_object.ParticipantObjectID, total))
    assert counts == [
        ("1.2.3", "PAT1", 2),
        ("1.2.4", "PAT2", 1),
        ("1.2.4", "PAT2", 1),
        ("1.2.4", "PAT3", 1),
        ("1.2.5", "PAT1", 1),
    ]


@pytest.mark.parametrize(
    "syntax",
    [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN],
)
def test_heads_are_read_in_every_encoding(syntax: str) -> None:
    talk = Conversation().associate(syntaxes=[syntax])
    data = encode(image(), EXPLICIT_VR_LITTLE_ENDIAN if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else syntax)
    if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
    request = message(
        "C_STORE_RQ", CONTEXT_ID[CT], data=data, MessageID=1, AffectedSOPClassUID=CT, AffectedSOPInstanceUID="1.2.3.1", Priority=2
    )
    talk.requestor(request)
    assert talk.take(A) == request
    assert names(talk.records) == [BEGIN]


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm"])
def test_real_files_pass_unchanged(name: str) -> None:
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    sop_class, syntax = str(dataset.SOPClassUID), str(dataset.file_meta.TransferSyntaxUID)
    talk = Conversation().associate(classes=[sop_class], syntaxes=[syntax])
    context = CONTEXT_ID.get(sop_class, 101)
    request = message(
        "C_STORE_RQ",
        context,
        data=encode(dataset, syntax),
        MessageID=1,
        AffectedSOPClassUID=sop_class,
        AffectedSOPInstanceUID=dataset.SOPInstanceUID,
        Priority=2,
    )
    talk.requestor(request)
    assert talk.take(A) == request
    study = talk.records[0].ParticipantObjectIdentification[0]
    assert study.ParticipantObjectID == dataset.StudyInstanceUID


def test_a_refused_image_is_swallowed_answered_at_its_end_and_the_association_lives() -> None:
    talk = Conversation(only(action="C-ECHO")).associate()
    *parts, last = split_pdus(store_rq(7, pixels=b"MARKER" * 20000))
    for part in parts:
        talk.requestor(part)
    assert talk.sent == {R: b"", A: b""}
    talk.requestor(last)
    assert response_of(talk.take(R)) == (CONTEXT_ID[CT], 0x8001, 7, 0x0124)
    assert talk.take(A) == b""
    assert names(talk.records) == [RESTRICTED]
    assert alert_text(talk.records[0]) == "C-STORE refused: not in the table (policies: table)"
    talk.requestor(echo_rq(8))
    assert talk.take(A) == echo_rq(8)
    talk.acceptor(echo_rsp(8))
    assert talk.take(R) == echo_rsp(8)
    release(talk)
    assert names(talk.records) == [RESTRICTED]


@pytest.mark.parametrize(
    ("fields", "data", "status", "word"),
    [
        pytest.param({"AffectedSOPInstanceUID": "1.2.3.9"}, encode(image()), 0xA900, "different SOP", id="another instance"),
        pytest.param({}, encode(image(sop_class=MR)), 0xA900, "different SOP", id="another class"),
        pytest.param({}, encode(_patient_only()), 0xA900, "different SOP", id="no instance at all"),
        pytest.param({}, encode(image())[:-3], 0xC000, "ends inside", id="truncated"),
        pytest.param({}, b"\x08\0\x18\0\x02\0\0\x001\0" * 2, 0xC000, "duplicate", id="duplicate"),
        pytest.param({}, b"\x10\0\x20\0\x02\0\0\x001\0\x08\0\x18\0\x02\0\0\x001\0", 0xC000, "unordered", id="unordered"),
        pytest.param({}, encode(image(StudyInstanceUID="1.2\\1.3")), 0xC000, "several values", id="two studies"),
        pytest.param({}, b"\x08\0\x08\0\xf0\xff\x01\0" + b"x" * 131056, 0xC000, "not complete within", id="a head without end"),
    ],
)
def test_what_archive_and_gateway_could_read_differently_is_refused(
    fields: dict[str, Any], data: bytes, status: int, word: str
) -> None:
    talk = Conversation().associate()
    values = {"MessageID": 3, "AffectedSOPClassUID": CT, "AffectedSOPInstanceUID": "1.2.3.1", "Priority": 2} | fields
    talk.requestor(message("C_STORE_RQ", CONTEXT_ID[CT], data=data, **values))
    assert response_of(talk.take(R)) == (CONTEXT_ID[CT], 0x8001, 3, status)
    assert talk.take(A) == b""
    assert names(talk.records) == [RESTRICTED]
    assert word in alert_text(talk.records[0])
    talk.requestor(store_rq(4))
    assert talk.take(A) == store_rq(4)


def test_the_policy_gets_patient_and_study_only_when_it_reads_them() -> None:
    for reads in (False, True):
        talk = Conversation(TablePolicy(reads_study=reads)).associate()
        talk.requestor(store_rq())
        (asked,) = talk.policy.asked
        assert (asked.patient_id, asked.study_instance_uid) == (("PAT1", "1.2.3") if reads else ("", ""))
        assert (asked.action, asked.sop_class_uid, asked.toward_archive, asked.calling_ae_title) == ("C-STORE", CT, True, "CT1")


def test_decisions_are_remembered_until_the_policy_or_the_minute_changes() -> None:
    talk = Conversation().associate()
    for number in (1, 2, 3):
        talk.requestor(store_rq(number))
    assert len(talk.policy.asked) == 1
    talk.wait(60)
    talk.requestor(store_rq(4))
    assert len(talk.policy.asked) == 2
    strict = TablePolicy(lambda asked: False)
    talk.handle(PolicyReplaced(strict))
    talk.take(A)
    talk.requestor(store_rq(5))
    assert talk.take(A) == b""
    assert len(strict.asked) == 1


def test_a_patient_name_in_another_character_set_does_not_hurt() -> None:
    talk = Conversation(TablePolicy(reads_study=True)).associate()
    talk.requestor(store_rq(SpecificCharacterSet="ISO_IR 192", PatientID="환자1"))
    assert talk.policy.asked[0].patient_id == "환자1"
    assert talk.records[0].ParticipantObjectIdentification[1].ParticipantObjectID == "환자1"


def test_a_class_that_is_not_the_contexts_is_refused() -> None:
    talk = Conversation().associate()
    talk.requestor(store_rq(1, context_id=CONTEXT_ID[MR]))
    assert response_of(talk.take(R)) == (CONTEXT_ID[MR], 0x8001, 1, 0x0122)
    assert talk.take(A) == b""


# --- how PDUs are built -----------------------------------------------------------------------------------------------


def parts_of(request: bytes) -> tuple[bytes, bytes]:
    """Command set and data set of a message whose every fragment is one PDU."""
    command = b"".join(pdu[12:] for pdu in split_pdus(request) if pdu[11] & 1)
    return command, b"".join(pdu[12:] for pdu in split_pdus(request) if not pdu[11] & 1)


def test_command_and_data_in_one_pdu_pass_unchanged() -> None:
    """dcm4che packs PDVs this way."""
    command, data = parts_of(store_rq())
    context = CONTEXT_ID[CT]
    packed = pdv_pdu((context, 3, command), (context, 0, data[:100]), (context, 2, data[100:]))
    talk = Conversation().associate()
    talk.requestor(packed)
    assert talk.take(A) == packed
    assert names(talk.records) == [BEGIN]


def test_a_refused_and_a_permitted_message_in_one_pdu_are_separated() -> None:
    echo_command, _ = parts_of(echo_rq(2))
    command, data = parts_of(store_rq(1, patient="MARKER"))
    context = CONTEXT_ID[CT]
    packed = pdv_pdu((context, 3, command), (context, 2, data), (CONTEXT_ID["1.2.840.10008.1.1"], 3, echo_command))
    talk = Conversation(only(action="C-ECHO")).associate()
    talk.requestor(packed)
    assert talk.take(A) == echo_rq(2)
    assert response_of(talk.take(R)) == (context, 0x8001, 1, 0x0124)


def test_a_command_in_many_fragments_is_held_until_it_is_whole() -> None:
    command, data = parts_of(store_rq())
    context = CONTEXT_ID[CT]
    pieces = [pdv_pdu((context, 1, command[:20])), pdv_pdu((context, 1, command[20:40])), pdv_pdu((context, 3, command[40:]))]
    tail = pdv_pdu((context, 2, data))
    talk = Conversation().associate()
    for piece in pieces:
        talk.requestor(piece)
        assert talk.sent[A] == b""
    talk.requestor(tail)
    assert talk.take(A) == b"".join(pieces) + tail


def test_the_reserved_byte_of_a_pdu_is_passed_on() -> None:
    command, data = parts_of(store_rq())
    packed = bytearray(pdv_pdu((CONTEXT_ID[CT], 3, command), (CONTEXT_ID[CT], 2, data)))
    packed[1] = 0x55
    talk = Conversation().associate()
    talk.requestor(bytes(packed))
    assert talk.take(A) == bytes(packed)


COMMAND, DATA = parts_of(store_rq())
C = CONTEXT_ID[CT]


@pytest.mark.parametrize(
    ("stream", "word"),
    [
        pytest.param(pdv_pdu((C, 2, DATA)), "outside its message", id="data without command"),
        pytest.param(pdv_pdu((C, 3, COMMAND)) + pdv_pdu((C + 2, 0, DATA)), "outside its message", id="data in another context"),
        pytest.param(pdv_pdu((C, 3, COMMAND)) * 2, "inside another message", id="command inside a message"),
        pytest.param(pdv_pdu((C, 1, COMMAND[:9])) + pdv_pdu((C + 2, 1, b"")), "inside another message", id="interleaved commands"),
        pytest.param(pdv_pdu((C, 1, COMMAND[:9])) + release_rq(), "inside a message", id="release inside a message"),
        pytest.param(pdv_pdu((C, 7, COMMAND)), "reserved bits", id="control header"),
        pytest.param(pdv_pdu((99, 3, COMMAND)), "not accepted", id="unknown context"),
        pytest.param(b"\x04\0\0\0\0\0", "length outside", id="no PDV"),
        pytest.param(b"\x04\0\0\0\x40\x01", "length outside", id="longer than announced"),
        pytest.param(b"\x04\0\0\0\0\x08\0\0\0\x20\x01\x03ab", "does not fit", id="PDV longer than its PDU"),
        pytest.param(b"\x04\0\0\0\0\x0a\0\0\0\x04\x01\x03ab\0\0", "ends too early", id="rest after a PDV"),
        pytest.param(pdv_pdu(*[(C, 1, b"")] * 129), "too many PDVs", id="many PDVs"),
        pytest.param(pdv_pdu((C, 1, b"x" * 16000)) * 5, "too long", id="command without end"),
        pytest.param(pdv_pdu((C, 1, b"")) * 12000, "too long", id="empty command fragments without end"),
        pytest.param(pdv_pdu((C, 3, b"x" * 30)), "command set", id="no command set"),
    ],
)
def test_what_breaks_the_standard_is_aborted(stream: bytes, word: str) -> None:
    talk = Conversation().associate()
    talk.requestor(stream)
    assert talk.relay.finished
    assert names(talk.records) == [NODE]
    assert word in alert_text(talk.records[0])
    assert talk.take(A) == bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 0))
    assert talk.take(R)[:6] == bytes((7, 0, 0, 0, 0, 4))
    assert talk.requestor(store_rq()) == []


@pytest.mark.parametrize(
    ("request_", "phase_bytes"),
    [(pdv_pdu((C, 3, COMMAND)), 65536), (pdv_pdu((CONTEXT_ID[STUDY_FIND], 3, parts_of(find_rq())[0])), 1048576)],
)
def test_empty_data_fragments_without_end_are_refused_and_not_kept(request_: bytes, phase_bytes: int) -> None:
    talk = Conversation().associate()
    talk.requestor(request_)
    empty = pdv_pdu((request_[10], 0, b"")) * 1000
    for _ in range(120):
        talk.requestor(empty)
        assert talk.relay.buffered < phase_bytes + 200_000
    assert not talk.relay.finished
    assert names(talk.records) == [RESTRICTED]
    talk.requestor(pdv_pdu((request_[10], 2, b"")))
    assert response_of(talk.take(R))[3] == 0xC000


# --- C-FIND, C-MOVE, C-GET --------------------------------------------------------------------------------------------


def test_a_query_is_recorded_with_its_identifier_before_it_goes() -> None:
    data = identifier(PatientID="PAT1", StudyDate="")
    talk = Conversation(subject=PERSON).associate()
    commands = talk.requestor(find_rq(5, data))
    assert [type(each) for each in commands] == [Audit, Send]
    assert talk.take(A) == find_rq(5, data)
    record = talk.records[0]
    assert names([record]) == ["Query"]
    queried = record.ParticipantObjectIdentification[0]
    assert (queried.ParticipantObjectID, queried.ParticipantObjectQuery) == (STUDY_FIND, data)
    assert queried.ParticipantObjectDetail[0].value == IMPLICIT_VR_LITTLE_ENDIAN.encode()
    issuer, responder = record.ActiveParticipant
    assert (issuer.UserID, issuer.UserIsRequestor, responder.UserID) == (PERSON.user_id, True, "ARCHIVE")


def test_nothing_of_a_query_goes_before_all_of_it_is_known() -> None:
    talk = Conversation().associate()
    *parts, last = split_pdus(
        message(
            "C_FIND_RQ",
            CONTEXT_ID[STUDY_FIND],
            max_pdu=1024,
            data=identifier(PatientID="PAT1", PatientComments="x" * 9000),
            MessageID=1,
            AffectedSOPClassUID=STUDY_FIND,
            Priority=2,
        )
    )
    for part in parts:
        talk.requestor(part)
    assert talk.sent[A] == b""
    talk.requestor(last)
    assert talk.take(A) == b"".join([*parts, last])


def test_the_policy_sees_level_and_keys() -> None:
    talk = Conversation().associate()
    talk.requestor(find_rq(1, identifier(PatientID="PAT1", PatientName="Kim*", StudyDate="20260101-20260201", StudyInstanceUID="")))
    (asked,) = talk.policy.asked
    assert (asked.action, asked.level, asked.patient_id) == ("C-FIND", "STUDY", "PAT1")
    assert asked.query_keys == {"PatientID", "PatientName"}


def test_a_refused_query_is_answered_and_not_recorded_as_one() -> None:
    talk = Conversation(only(level="SERIES"), subject=PERSON).associate()
    talk.requestor(find_rq(6))
    assert response_of(talk.take(R)) == (CONTEXT_ID[STUDY_FIND], 0x8020, 6, 0x0124)
    assert talk.take(A) == b""
    assert names(talk.records) == [RESTRICTED]
    assert "PAT1" not in str(talk.records)


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(identifier(PatientID="PAT1")[:-1], id="damaged"),
        pytest.param(identifier(PatientComments="x" * 10_000) * 110, id="longer than a MiB"),
        pytest.param(identifier(StudyInstanceUID=[f"1.2.{n}" for n in range(300)]), id="too many studies"),
    ],
)
def test_identifiers_that_cannot_be_read_are_refused(data: bytes) -> None:
    talk = Conversation().associate()
    talk.requestor(find_rq(6, data))
    assert response_of(talk.take(R)) == (CONTEXT_ID[STUDY_FIND], 0x8020, 6, 0xC000)
    assert talk.take(A) == b""
    assert talk.relay.buffered == 0


def find_rsp(status: int, data: bytes | None = None, message_id: int = 1) -> bytes:
    return message(
        "C_FIND_RSP",
        CONTEXT_ID[STUDY_FIND],
        data=data,
        MessageIDBeingRespondedTo=message_id,
        AffectedSOPClassUID=STUDY_FIND,
        Status=status,
    )


def test_pending_responses_pass_in_one_piece_until_the_final_one() -> None:
    talk = Conversation().associate()
    talk.requestor(find_rq())
    answers = find_rsp(0xFF00, identifier(PatientID="PAT1")) * 3 + find_rsp(0)
    commands = talk.acceptor(answers)
    assert [type(each) for each in commands] == [Send]
    assert talk.take(R) == answers
    talk.acceptor(find_rsp(0))
    assert talk.relay.finished
    assert "not outstanding" in alert_text(talk.records[-1])


def cancel_rq(message_id: int) -> bytes:
    command = encode_elements([(0x100, b"\xff\x0f"), (0x120, message_id.to_bytes(2, "little")), (0x800, b"\x01\x01")])
    return pdv_pdu((CONTEXT_ID[STUDY_FIND], 3, command))


def test_a_cancel_passes_only_for_an_outstanding_query() -> None:
    talk = Conversation().associate()
    talk.requestor(find_rq(1))
    talk.take(A)
    talk.requestor(cancel_rq(2))
    assert talk.take(A) == b""
    talk.requestor(cancel_rq(1))
    assert talk.take(A) == cancel_rq(1)
    talk.acceptor(find_rsp(0xFE00))
    talk.requestor(cancel_rq(1))  # has crossed the final response
    assert talk.take(A) == b""
    assert not talk.relay.finished


def move_rq(data: bytes, destination: str = "VIEWER9") -> bytes:
    return message(
        "C_MOVE_RQ",
        CONTEXT_ID[STUDY_MOVE],
        data=data,
        MessageID=1,
        AffectedSOPClassUID=STUDY_MOVE,
        MoveDestination=destination,
        Priority=2,
    )


def test_a_move_is_recorded_per_study_with_destination_and_requestor() -> None:
    talk = Conversation(subject=PERSON).associate()
    request = move_rq(identifier(StudyInstanceUID=["1.2.3", "1.2.4"]))
    talk.requestor(request)
    assert talk.take(A) == request
    assert names(talk.records) == [BEGIN, BEGIN]
    sender, receiver, requestor = talk.records[0].ActiveParticipant
    assert (sender.UserID, receiver.UserID, requestor.UserID) == ("ARCHIVE", "VIEWER9", PERSON.user_id)
    assert (sender.UserIsRequestor, receiver.UserIsRequestor, requestor.UserIsRequestor) == (False, False, True)
    assert [each.ParticipantObjectIdentification[0].ParticipantObjectID for each in talk.records] == ["1.2.3", "1.2.4"]


def test_a_move_without_studies_is_recorded_too() -> None:
    talk = Conversation().associate()
    talk.requestor(move_rq(identifier("PATIENT", PatientID="PAT1")))
    (record,) = talk.records
    assert [each.ParticipantObjectID for each in record.ParticipantObjectIdentification] == ["unknown", "PAT1"]


def test_the_policy_sees_the_move_destination() -> None:
    talk = Conversation(only(move_destination="VIEWER9")).associate()
    talk.requestor(move_rq(identifier(StudyInstanceUID="1.2.3"), "THIEF"))
    assert response_of(talk.take(R)) == (CONTEXT_ID[STUDY_MOVE], 0x8021, 1, 0x0124)
    assert talk.policy.asked[0].study_instance_uid == "1.2.3"
    talk.requestor(move_rq(identifier(StudyInstanceUID="1.2.3")))
    assert talk.take(A) != b""


def get_rq() -> bytes:
    return message(
        "C_GET_RQ",
        CONTEXT_ID[STUDY_GET],
        data=identifier(StudyInstanceUID="1.2.3"),
        MessageID=1,
        AffectedSOPClassUID=STUDY_GET,
        Priority=2,
    )


def test_sub_operations_of_a_get_follow_the_same_rules_backwards() -> None:
    talk = Conversation(only(sop_class_uid=CT), subject=PERSON).associate(
        items=[get_role(), get_role(MR)], answer={"items": [get_role(), get_role(MR)]}
    )
    talk.policy.permits = lambda asked: asked.sop_class_uid != MR
    talk.requestor(get_rq())
    assert talk.take(A) == get_rq()
    talk.acceptor(store_rq(1))
    assert talk.take(R) == store_rq(1)
    assert names(talk.records) == [BEGIN]
    sender, receiver = talk.records[0].ActiveParticipant
    assert (sender.UserID, receiver.UserID, receiver.UserIsRequestor) == ("ARCHIVE", PERSON.user_id, True)
    assert talk.policy.asked[-1].toward_archive is False
    talk.requestor(store_rsp(1))
    assert talk.take(A) == store_rsp(1)
    talk.acceptor(store_rq(2, context_id=CONTEXT_ID[MR], sop_class=MR))
    assert response_of(talk.take(A)) == (CONTEXT_ID[MR], 0x8001, 2, 0x0124)
    assert talk.take(R) == b""
    release(talk)
    assert names(talk.records) == [BEGIN, RESTRICTED, TRANSFERRED, "User Authentication/Logout"]


def test_an_archive_without_the_role_may_not_store() -> None:
    talk = Conversation().associate()
    talk.requestor(get_rq())
    talk.take(A)
    talk.acceptor(store_rq(1))
    assert response_of(talk.take(A)) == (CONTEXT_ID[CT], 0x8001, 1, 0x0124)
    assert talk.take(R) == b""
    assert "role" in alert_text(talk.records[-1])


# --- N services, message IDs ------------------------------------------------------------------------------------------


def create_rq(message_id: int = 1) -> bytes:
    return message(
        "N_CREATE_RQ",
        CONTEXT_ID[MPPS],
        data=encode(image(sop_class=MPPS)),
        MessageID=message_id,
        AffectedSOPClassUID=MPPS,
        AffectedSOPInstanceUID="1.2.3.7",
    )


def test_normalized_services_pass_or_are_refused_by_name() -> None:
    for policy, expected in ((only(action="N-CREATE"), create_rq()), (only(action="N-SET"), b"")):
        talk = Conversation(policy).associate()
        talk.requestor(create_rq())
        assert talk.take(A) == expected
        if not expected:
            raw = talk.take(R)
            assert response_of(raw) == (CONTEXT_ID[MPPS], 0x8140, 1, 0x0124)
            assert decode_command(split_pdus(raw)[0][12:]).sop_instance_uid == "1.2.3.7"


def test_the_archive_may_report_events_and_the_answer_passes() -> None:
    talk = Conversation(only(action="N-EVENT-REPORT", toward_archive=False)).associate()
    report = message(
        "N_EVENT_REPORT_RQ",
        CONTEXT_ID[MPPS],
        data=encode(image()),
        MessageID=9,
        AffectedSOPClassUID=MPPS,
        AffectedSOPInstanceUID="1.2.3.7",
        EventTypeID=1,
    )
    talk.acceptor(report)
    assert talk.take(R) == report
    answer = message("N_EVENT_REPORT_RSP", CONTEXT_ID[MPPS], MessageIDBeingRespondedTo=9, Status=0, EventTypeID=1)
    talk.requestor(answer)
    assert talk.take(A) == answer


def test_a_requestor_may_not_report_events() -> None:
    talk = Conversation().associate()
    talk.requestor(
        message(
            "N_EVENT_REPORT_RQ",
            CONTEXT_ID[MPPS],
            MessageID=9,
            AffectedSOPClassUID=MPPS,
            AffectedSOPInstanceUID="1.2.3.7",
            EventTypeID=1,
        )
    )
    assert response_of(talk.take(R)) == (CONTEXT_ID[MPPS], 0x8100, 9, 0x0124)


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        pytest.param(store_rq(1), (R, store_rq(1)), "in use", id="a Message ID twice"),
        pytest.param(store_rq(1), (A, store_rsp(2)), "not outstanding", id="a response to nothing"),
        pytest.param(store_rq(1), (A, echo_rsp(1)), "not outstanding", id="a response of another service"),
        pytest.param(store_rq(1), (A, store_rsp(1, context_id=CONTEXT_ID[MR])), "another presentation", id="another context"),
        pytest.param(store_rq(1), (R, store_rsp(1)), "not outstanding", id="one's own response"),
    ],
)
def test_messages_that_do_not_fit_together_are_violations(first: bytes, second: tuple[Side, bytes], word: str) -> None:
    talk = Conversation().associate()
    talk.requestor(first)
    talk.feed(*second)
    assert talk.relay.finished
    (alert,) = [record for record in talk.records if names([record]) == [NODE]]
    assert word in alert_text(alert)


def test_outstanding_requests_are_bounded() -> None:
    talk = Conversation().associate()
    for number in range(1024):
        talk.requestor(echo_rq(number))
    assert not talk.relay.finished
    talk.requestor(echo_rq(2000))
    assert talk.relay.finished


def test_studies_under_way_are_bounded_and_none_is_lost() -> None:
    talk = Conversation().associate()
    for number in range(300):
        talk.requestor(store_rq(number, study=f"1.2.{number}"))
        talk.acceptor(store_rsp(number))
    assert names(talk.records).count(TRANSFERRED) == 44
    release(talk)
    assert names(talk.records).count(TRANSFERRED) == 300


# --- the gateway's own answers among passing messages -----------------------------------------------------------------


def test_a_refusal_waits_for_the_gap_behind_a_passing_message() -> None:
    """The requestor asks for something forbidden while a response is half way to it."""
    talk = Conversation(TablePolicy(lambda asked: asked.action != "C-ECHO")).associate()
    talk.requestor(find_rq(1))
    answer = find_rsp(0xFF00, identifier(PatientComments="x" * 5000))
    talk.acceptor(answer[:3000])
    talk.requestor(echo_rq(2))
    assert len(talk.sent[R]) < 3001
    talk.acceptor(answer[3000:] + find_rsp(0))
    raw = talk.take(R)
    assert raw.startswith(answer)
    assert raw.endswith(find_rsp(0))
    middle = raw[len(answer) : -len(find_rsp(0))]
    assert response_of(middle) == (CONTEXT_ID["1.2.840.10008.1.1"], 0x8030, 2, 0x0124)


def test_waiting_refusals_are_bounded() -> None:
    talk = Conversation(TablePolicy(lambda asked: asked.action != "C-ECHO")).associate()
    talk.requestor(find_rq(1))
    talk.acceptor(find_rsp(0xFF00, identifier(PatientComments="x" * 5000))[:3000])
    for _ in range(20):
        talk.requestor(echo_rq(2) * 150)
        assert talk.relay.buffered < 300_000
    assert talk.relay.finished
    assert "wait for a gap" in alert_text(talk.records[-1])


def test_refusals_and_their_records_are_bounded() -> None:
    talk = Conversation(TablePolicy(lambda asked: asked.action != "C-ECHO")).associate()
    for _ in range(4096):
        talk.requestor(echo_rq(2))
    assert not talk.relay.finished
    talk.requestor(echo_rq(2))
    assert talk.relay.finished
    assert len(talk.records) == 4097


def test_time_of_records_is_the_time_of_the_event() -> None:
    talk = Conversation().associate()
    talk.wait(5)
    talk.requestor(store_rq())
    assert (talk.records[0].EventIdentification.EventDateTime - NOW).total_seconds() == 5


def test_a_policy_that_answers_by_query_keys_sees_no_key_for_a_wildcard() -> None:
    def named(asked: AccessRequest) -> bool:
        return asked.action == "Associate" or bool(asked.query_keys)

    for value, passes in (("PAT1", True), ("*", False), ("?*", False), ("PA*", False), ("", False)):
        talk = Conversation(TablePolicy(named)).associate()
        talk.requestor(find_rq(1, identifier(PatientID=value)))
        assert bool(talk.take(A)) is passes
