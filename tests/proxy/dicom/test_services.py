"""SOP Classes under one presentation context, procedures and prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from securepacs.audit.message import EventActionCode
from securepacs.codes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from securepacs.errors import MalformedError
from securepacs_proxy.dicom import services
from securepacs_proxy.dicom.services import Procedure, belongs, prints, procedure_action, read_procedure
from securepacs_proxy.events import Side
from tests.support.dicom_wire import CONTEXT_ID, MPPS, Conversation, TablePolicy, encode, message, names

GRAYSCALE_META, UPS_PULL = "1.2.840.10008.5.1.1.9", "1.2.840.10008.5.1.4.34.6.3"


def step(*studies: str, patient: str = "PAT1") -> Dataset:
    items = []
    for study in studies:
        item = Dataset()
        item.StudyInstanceUID = study
        items.append(item)
    dataset = Dataset()
    dataset.PatientID, dataset.ScheduledStepAttributesSequence = patient, Sequence(items)
    return dataset


@pytest.mark.parametrize(
    ("named", "context", "fits"),
    [
        (MPPS, MPPS, True),
        (services.BASIC_FILM_BOX, GRAYSCALE_META, True),
        ("1.2.840.10008.5.1.1.4", GRAYSCALE_META, True),
        ("1.2.840.10008.5.1.1.4.1", GRAYSCALE_META, False),
        (MPPS, GRAYSCALE_META, False),
        (services.UNIFIED_PROCEDURE_STEP_PUSH, UPS_PULL, True),
        (UPS_PULL, UPS_PULL, True),
        (UPS_PULL, services.UNIFIED_PROCEDURE_STEP_PUSH, False),
    ],
)
def test_which_sop_class_a_context_may_carry(named: str, context: str, fits: bool) -> None:
    assert belongs(named, context) is fits


def test_what_is_recorded_as_a_procedure_and_what_prints() -> None:
    assert procedure_action("N-CREATE", MPPS) is EventActionCode.CREATE
    assert procedure_action("N-GET", services.UNIFIED_PROCEDURE_STEP_PUSH) is EventActionCode.READ
    assert procedure_action("N-CREATE", services.BASIC_FILM_BOX) is None
    assert procedure_action("N-EVENT-REPORT", MPPS) is None
    assert prints("N-ACTION", services.BASIC_FILM_BOX)
    assert not prints("N-CREATE", services.BASIC_FILM_BOX)


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2"])
def test_patient_and_studies_are_found_inside_sequences(syntax: str) -> None:
    found = read_procedure(encode(step("1.2.3", "1.2.4", "1.2.3"), syntax), syntax, limit=65536)
    assert found == Procedure("PAT1", ("1.2.3", "1.2.4"))


def test_too_many_studies_are_refused() -> None:
    data = encode(step(*(f"1.2.{number}" for number in range(1, services.MAX_STUDIES + 2))))
    with pytest.raises(MalformedError):
        read_procedure(data, IMPLICIT_VR_LITTLE_ENDIAN, limit=1_048_576)


@given(data=st.binary(max_size=200), syntax=st.sampled_from([IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN]))
def test_damaged_lists_raise_one_error(data: bytes, syntax: str) -> None:
    try:
        found = read_procedure(data, syntax, limit=65536)
    except MalformedError:
        return
    assert len(found.study_instance_uids) <= services.MAX_STUDIES


def create(data: bytes, *, message_id: int = 1, instance: str = "1.2.3.7", max_pdu: int = 16384) -> bytes:
    fields = {"MessageID": message_id, "AffectedSOPClassUID": MPPS, "AffectedSOPInstanceUID": instance}
    return message("N_CREATE_RQ", CONTEXT_ID[MPPS], data=data, max_pdu=max_pdu, **fields)


def test_the_policy_sees_patient_and_study_of_a_new_procedure_step_before_it_goes() -> None:
    policy = TablePolicy(lambda asked: asked.action == "Associate" or asked.patient_id == "PAT1")
    talk = Conversation(policy).associate()
    mine, other = encode(step("1.2.3")), encode(step("1.2.3", patient="PAT2"))
    talk.requestor(create(mine, max_pdu=64))
    assert talk.take(Side.ACCEPTOR) == create(mine, max_pdu=64)
    assert (policy.asked[-1].patient_id, policy.asked[-1].study_instance_uid) == ("PAT1", "1.2.3")
    assert names(talk.records) == ["Procedure Record"]
    talk.requestor(create(other, message_id=2))
    assert talk.take(Side.ACCEPTOR) == b""


def test_a_change_is_recorded_with_the_patient_of_its_creation_and_without_one_when_that_was_elsewhere() -> None:
    talk = Conversation().associate()
    talk.requestor(create(encode(step("1.2.3"))))
    for number, instance in ((2, "1.2.3.7"), (3, "1.2.3.8")):
        fields = {"MessageID": number, "RequestedSOPClassUID": MPPS, "RequestedSOPInstanceUID": instance}
        talk.requestor(message("N_SET_RQ", CONTEXT_ID[MPPS], data=encode(step()), **fields))
    found = [[what.ParticipantObjectID for what in record.ParticipantObjectIdentification] for record in talk.records]
    assert found == [["1.2.3", "PAT1"], ["1.2.3", "PAT1"], ["unknown", "unknown"]]


def test_procedures_kept_are_bounded() -> None:
    talk = Conversation().associate()
    exchange = talk.relay._exchange
    assert exchange is not None
    for number in range(1, 600):
        talk.requestor(create(encode(step("1.2.3", patient=f"P{number}")), message_id=number, instance=f"1.2.3.{number}"))
        rsp = message("N_CREATE_RSP", CONTEXT_ID[MPPS], MessageIDBeingRespondedTo=number, Status=0)
        talk.acceptor(rsp)
        assert exchange.kept <= 256 + 1024


def test_a_damaged_attribute_list_is_answered() -> None:
    talk = Conversation().associate()
    talk.requestor(create(b"\x10\0\x20\0\xff\0\0\0ab"))
    assert talk.take(Side.ACCEPTOR) == b""
    assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x10\x01" in talk.take(Side.REQUESTOR)  # Status 0110H
