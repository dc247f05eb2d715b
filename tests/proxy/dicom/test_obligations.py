"""Obligations of permits: required query keys, filtered answers, and what nobody can fulfil."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from securepacs.codes import IMPLICIT_VR_LITTLE_ENDIAN
from securepacs.policy.cedar import CedarPolicy
from securepacs.policy.subject import AccessRequest
from securepacs_proxy.dicom.obligations import Filter, filters, passes, unmet
from securepacs_proxy.events import Side
from tests.support.dicom_wire import (
    CONTEXT_ID,
    NOW,
    PERSON,
    STUDY_FIND,
    Conversation,
    encode,
    find_rq,
    identifier,
    message,
    names,
    split_pdus,
)

R, A = Side.REQUESTOR, Side.ACCEPTOR
KIM = replace(PERSON, organization="Example Hospital")
RULES = """
@id("associate") permit (principal, action in [Action::"Associate", Action::"C-ECHO"], resource);
@id("find") @obligation_required_query_keys("{keys}") @obligation_only_responses("{only}")
permit (principal, action == Action::"C-FIND", resource);
"""


def policy(keys: str = "PatientID PatientName+PatientBirthDate", only: str = "InstitutionName={organization}") -> Any:
    return CedarPolicy({"site.cedar": RULES.replace("{keys}", keys).replace("{only}", only)})


def asked(*keys: str, action: str = "C-FIND") -> AccessRequest:
    return AccessRequest(KIM, action, "ARCHIVE", NOW, query_keys=frozenset(keys))


def answer(message_id: int = 1, *, status: int = 0xFF00, max_pdu: int = 16384, **values: str) -> bytes:
    data = encode(dataset(**values)) if values else None
    fields = {"MessageIDBeingRespondedTo": message_id, "AffectedSOPClassUID": STUDY_FIND, "Status": status}
    return message("C_FIND_RSP", CONTEXT_ID[STUDY_FIND], data=data, max_pdu=max_pdu, **fields)


def dataset(**values: str) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (("PatientID",), ""),
        (("PatientName", "PatientBirthDate", "StudyDate"), ""),
        (("PatientName",), "the query must fill in PatientID or PatientName+PatientBirthDate"),
        ((), "the query must fill in PatientID or PatientName+PatientBirthDate"),
    ],
)
def test_required_query_keys(keys: tuple[str, ...], reason: str) -> None:
    obligations = {"required_query_keys": "PatientID PatientName+PatientBirthDate"}
    assert unmet(obligations, asked(*keys)) == reason
    assert unmet(obligations, asked(*keys, action="C-MOVE")) == ""


def test_obligations_of_two_policies_both_hold() -> None:
    text = '@id("{0}") @obligation_required_query_keys("{1}") permit (principal, action, resource);'
    both = CedarPolicy({"a.cedar": text.format("a", "PatientID"), "b.cedar": text.format("b", "AccessionNumber")})
    found = both.decide(asked()).obligations
    assert found == {"required_query_keys": "PatientID; AccessionNumber"}
    assert unmet(found, asked("PatientID"))
    assert not unmet(found, asked("PatientID", "AccessionNumber"))


@pytest.mark.parametrize("only", ["InstitutionName", "NoSuchKeyword=1", "InstitutionName={department}", "InstitutionName=", "=x"])
def test_what_cannot_be_read_refuses(only: str) -> None:
    assert filters({"only_responses": only}, KIM) is None
    assert "cannot be read" in unmet({"only_responses": only}, asked("PatientID"))


def test_a_subject_without_the_attribute_sees_nothing() -> None:
    assert filters({"only_responses": "InstitutionName={organization}"}, PERSON) is None


def test_what_nobody_knows_refuses() -> None:
    assert unmet({"watermark": "yes"}, asked()) == "the gateway does not know the obligation watermark"


def test_filters_compare_each_value_in_any_case() -> None:
    wanted = filters({"only_responses": "InstitutionName={organization}; ModalitiesInStudy=CT"}, KIM)
    assert wanted == (Filter(0x00080080, "Example Hospital"), Filter(0x00080061, "CT"))

    def may_pass(**values: Any) -> bool:
        return passes(encode(dataset(**values)), IMPLICIT_VR_LITTLE_ENDIAN, wanted or (), limit=65536)

    assert may_pass(InstitutionName="EXAMPLE hospital ", ModalitiesInStudy=["MR", "CT"])
    assert not may_pass(InstitutionName="Example Hospital", ModalitiesInStudy="CTA")
    assert not may_pass(InstitutionName="Example Hospital")
    assert not may_pass(InstitutionName="Other", ModalitiesInStudy="CT")


@given(st.binary(max_size=100))
def test_an_answer_that_cannot_be_read_does_not_pass(data: bytes) -> None:
    wanted = (Filter(0x00080080, "X"),)
    assert not passes(data, IMPLICIT_VR_LITTLE_ENDIAN, wanted, limit=65536) or b"X" in data.upper()


# --- in the relay -----------------------------------------------------------------------------------------------------


def test_a_query_without_the_keys_is_refused_with_the_reason() -> None:
    talk = Conversation(policy(), subject=KIM)
    associated(talk)
    talk.requestor(find_rq(1, identifier(StudyDate="20260301", PatientID="")))
    assert talk.take(A) == b""
    text = str(talk.records[-1])
    assert "the query must fill in PatientID or PatientName+PatientBirthDate" in text
    talk.requestor(find_rq(2, identifier(PatientID="PAT1")))
    assert talk.take(A) == find_rq(2, identifier(PatientID="PAT1"))


@pytest.mark.parametrize("max_pdu", [60, 16384])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_answers_of_others_do_not_pass(max_pdu: int, piece: int) -> None:
    talk = Conversation(policy(), subject=KIM)
    associated(talk)
    talk.requestor(find_rq(1))
    mine = answer(InstitutionName="Example Hospital", PatientID="MINE", max_pdu=max_pdu)
    other = answer(InstitutionName="Elsewhere", PatientID="OTHER", max_pdu=max_pdu)
    unnamed = answer(PatientID="UNNAMED", max_pdu=max_pdu)
    stream = other + mine + unnamed + mine + other + answer(status=0)
    for start in range(0, len(stream), piece):
        talk.acceptor(stream[start : start + piece])
    assert b"".join(split_pdus(talk.take(R))) == mine + mine + answer(status=0)
    assert talk.take(A) == find_rq(1)
    assert names(talk.records) == ["Query"]


def test_an_answer_that_is_too_long_is_dropped_and_the_association_lives() -> None:
    talk = Conversation(policy(), subject=KIM, identifier_bytes=512)
    associated(talk)
    talk.requestor(find_rq(1))
    long = answer(InstitutionName="Example Hospital", PatientComments="x" * 1000)
    talk.acceptor(long + answer(status=0))
    assert talk.take(R) == answer(status=0)
    assert not talk.relay.finished


def test_without_an_obligation_nothing_is_read() -> None:
    talk = Conversation(subject=KIM).associate()
    talk.requestor(find_rq(1))
    strange = answer(PatientID="x")[:-1] + b"\xff"
    talk.acceptor(strange)
    assert talk.take(R) == strange


def test_an_association_with_an_unknown_obligation_is_refused() -> None:
    unknown = CedarPolicy({"x.cedar": '@id("x") @obligation_watermark("yes") permit (principal, action, resource);'})
    talk = Conversation(unknown, subject=KIM).authenticate()  # type: ignore[arg-type]
    from tests.support.dicom_wire import associate_rq

    talk.requestor(associate_rq())
    assert bytes(talk.sent[R][:1]) == b"\x03"
    assert "watermark" in str(talk.records[0])


def associated(talk: Conversation) -> None:
    from securepacs_proxy.events import UpstreamConnected
    from tests.support.dicom_wire import associate_ac, associate_rq

    talk.authenticate()
    talk.requestor(associate_rq(calling="WS1"))
    talk.handle(UpstreamConnected())
    talk.acceptor(associate_ac(talk.take(A)))
    talk.take(R)
    talk.records.clear()
