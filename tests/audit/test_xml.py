"""The writer: same bytes for the same message, refusal of what breaks the grammar, nothing that XML cannot hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit import events
from securepacs.audit.grading import Verdict, grade
from securepacs.audit.message import (
    ActiveParticipant,
    AuditMessage,
    AuditSourceIdentification,
    ParticipantObjectDescription,
    ParticipantObjectDetail,
    SOPClass,
)
from securepacs.audit.xml import event_date_time, from_xml, to_xml
from securepacs.codes import CodedValue
from securepacs.errors import MalformedError, UsageError
from tests.support.audit import AT, LEE, PATIENT, SOURCE, all_messages, numbered

XML_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40)


def test_the_bytes_are_these() -> None:
    message = events.network_entry(source=SOURCE, at=AT, attached=True, node=events.participant("ct1", host="10.0.0.1"))
    assert to_xml(message) == (
        b"<AuditMessage>"
        b'<EventIdentification EventActionCode="E" EventDateTime="2027-01-31T12:30:15.123456Z" EventOutcomeIndicator="0">'
        b'<EventID csd-code="110108" codeSystemName="DCM" originalText="Network Entry"/>'
        b'<EventTypeCode csd-code="110124" codeSystemName="DCM" originalText="Attach"/></EventIdentification>'
        b'<ActiveParticipant UserID="ct1" UserIsRequestor="false" NetworkAccessPointID="10.0.0.1" NetworkAccessPointTypeCode="2">'
        b'</ActiveParticipant><AuditSourceIdentification AuditEnterpriseSiteID="Hospital" AuditSourceID="gw1">'
        b'<AuditSourceTypeCode csd-code="7"/></AuditSourceIdentification></AuditMessage>'
    )


def test_moments_are_written_in_utc() -> None:
    assert event_date_time(datetime(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=9)))) == "2026-12-31T16:00:00.000000Z"


@given(name=XML_TEXT, user=XML_TEXT, detail=st.binary(max_size=60), query=st.binary(max_size=60))
def test_any_text_and_any_octets_round_trip_or_become_replacement_characters(
    name: str, user: str, detail: bytes, query: bytes
) -> None:
    people = (replace(LEE, UserID=f"u{user}"),)
    message = events.audit_log_used(source=SOURCE, at=AT, users=people, log_uri="x", details={"any": detail}, description=name)
    (log,) = message.ParticipantObjectIdentification
    named = replace(log, ParticipantObjectName=f"n{name}")
    asked = replace(log, ParticipantObjectName="", ParticipantObjectQuery=query)
    message = replace(message, ParticipantObjectIdentification=(named, asked))
    back = from_xml(to_xml(message))
    assert to_xml(back) == to_xml(message)
    assert [each.value for each in back.ParticipantObjectIdentification[0].ParticipantObjectDetail] == [detail]
    assert back.ParticipantObjectIdentification[1].ParticipantObjectQuery == query
    if all(character in "\t\n\r" or character >= " " for character in name + user) and not set(name + user) & {"\ufffe", "\uffff"}:
        assert back == message


@pytest.mark.parametrize("character", ["\0", "\x01", "\x0b", "\x1f", "\ud800", "\ufffe", "\uffff"])
def test_characters_that_xml_forbids_become_replacement_characters(character: str) -> None:
    message = events.patient_record(
        source=SOURCE, at=AT, action=events.EventActionCode.READ, users=[LEE], patient=replace(PATIENT, name=f"Doe{character}Jane")
    )
    raw = to_xml(message)
    assert grade(raw).verdict is Verdict.CONFORMANT
    assert from_xml(raw).ParticipantObjectIdentification[0].ParticipantObjectName == "Doe�Jane"


def test_a_script_is_text() -> None:
    attack = "<script>alert('&x;')</script>\"]]>"
    message = replace(numbered(1), ActiveParticipant=(replace(LEE, UserID=attack, UserName=attack),))
    assert b"<script" not in to_xml(message)
    assert from_xml(to_xml(message)) == message


def test_an_object_with_neither_name_nor_query_is_written_with_its_id() -> None:
    message = numbered(1)
    objects = tuple(replace(each, ParticipantObjectName="") for each in message.ParticipantObjectIdentification)
    back = from_xml(to_xml(replace(message, ParticipantObjectIdentification=objects)))
    assert [each.ParticipantObjectName for each in back.ParticipantObjectIdentification] == ["1.2.3.1", PATIENT.PatientID]


def _with_event(**changes: Any) -> AuditMessage:
    message = numbered(1)
    return replace(message, EventIdentification=replace(message.EventIdentification, **changes))


def _with_object(**changes: Any) -> AuditMessage:
    message = numbered(1)
    return replace(
        message, ParticipantObjectIdentification=(replace(message.ParticipantObjectIdentification[0], **changes),)
    )  # fmt: skip


def _with_description(**changes: Any) -> AuditMessage:
    return _with_object(ParticipantObjectDescription=ParticipantObjectDescription(**changes))


REFUSED = {
    "no participant": replace(numbered(1), ActiveParticipant=()),
    "two requestors": replace(numbered(1), ActiveParticipant=(LEE, LEE)),
    "no user id": replace(numbered(1), ActiveParticipant=(ActiveParticipant(""),)),
    "naive moment": _with_event(EventDateTime=datetime(2027, 1, 1)),
    "event without text": _with_event(EventID=CodedValue("110100", "DCM", "")),
    "no source id": replace(numbered(1), AuditSourceIdentification=AuditSourceIdentification("")),
    "unknown source type": replace(numbered(1), AuditSourceIdentification=AuditSourceIdentification("x", "", ("10",))),
    "no object id": _with_object(ParticipantObjectID=""),
    "name and query": _with_object(ParticipantObjectQuery=b""),
    "type code 5": _with_object(ParticipantObjectTypeCode=5),
    "role 27": _with_object(ParticipantObjectTypeCodeRole=27),
    "life cycle 0": _with_object(ParticipantObjectDataLifeCycle=0),
    "detail without type": _with_object(ParticipantObjectDetail=(ParticipantObjectDetail("", b"x"),)),
    "negative count": _with_description(SOPClass=(SOPClass("1.2", -1),)),
    "empty accession": _with_description(Accession=("",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_the_grammar_is_not_written(case: str) -> None:
    with pytest.raises(UsageError):
        to_xml(REFUSED[case])


def test_everything_the_grammar_has_round_trips() -> None:
    description = ParticipantObjectDescription(
        MPPS=("1.1",),
        Accession=("A", "B"),
        SOPClass=(SOPClass("1.2", 2, ("1.2.1", "1.2.2")), SOPClass("", 0)),
        ParticipantObjectContainsStudy=("1.5", "1.6"),
        Encrypted=True,
        Anonymized=False,
    )
    message = _with_object(
        ParticipantObjectDescription=description, ParticipantObjectDataLifeCycle=11, ParticipantObjectSensitivity="R"
    )
    event = replace(message.EventIdentification, PurposeOfUse=(CodedValue("12", "1.0.14265.1", "Law", "Law Enforcement"),))
    message = replace(message, EventIdentification=event)
    graded = grade(to_xml(message))
    assert graded.message == message
    assert graded.verdict is Verdict.CONFORMANT
    assert [each.code for each in graded.findings] == ["purpose-of-use"]


@pytest.mark.parametrize("raw", [b"", b"<", b"<html/>", b"\xff\xfe<", b"<AuditMessage/>"])
def test_what_is_no_audit_message_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        from_xml(raw)


def test_messages_of_all_kinds_are_written_the_same_twice() -> None:
    assert [to_xml(each) for each in all_messages().values()] == [to_xml(each) for each in all_messages().values()]
