"""The reader: old dialects become today's, hostile XML does no harm, and each correction is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit import reader
from securepacs.audit.message import EventOutcomeIndicator
from securepacs.audit.reader import read
from securepacs.audit.xml import to_xml
from tests.support.audit import all_messages, real_messages

RFC_3881 = b"""<?xml version="1.0" encoding="ASCII"?>
<AuditMessage xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="file:///etc/passwd">
  <EventIdentification EventActionCode="C" EventDateTime="2001-12-17T09:30:47" EventOutcomeIndicator="0">
    <EventID code="110104" codeSystemName="DCM" displayName="DICOM Instances Transferred"/>
  </EventIdentification>
  <ActiveParticipant UserID="123"/>
  <AuditSourceIdentification AuditSourceID="Room" code="4"/>
  <ParticipantObjectIdentification ParticipantObjectID="1.2.3" ParticipantObjectTypeCode="2" ParticipantObjectTypeCodeRole="3">
    <ParticipantObjectIDTypeCode code="9"/>
    <Accession Number="A1"/>
    <SOPClass UID="1.2" NumberOfInstances="3"/>
  </ParticipantObjectIdentification>
</AuditMessage>"""
MODERN = to_xml(all_messages()["instances_transferred"]).decode()


def codes_of(raw: bytes | str) -> set[str]:
    return {each.code for each in read(raw.encode() if isinstance(raw, str) else raw).findings}


def test_rfc_3881_becomes_the_present_model() -> None:
    reading = read(RFC_3881, zone=timezone(timedelta(hours=1)))
    message = reading.message
    assert message is not None
    assert reading.dialect == "D2"
    assert message.EventIdentification.EventID.originalText == "DICOM Instances Transferred"
    assert message.EventIdentification.EventDateTime == datetime(2001, 12, 17, 8, 30, 47, tzinfo=UTC)
    assert message.ActiveParticipant[0].UserIsRequestor
    assert message.AuditSourceIdentification.AuditSourceTypeCode == ("4",)
    (study,) = message.ParticipantObjectIdentification
    assert study.ParticipantObjectIDTypeCode.codeSystemName == "RFC-3881"
    assert study.ParticipantObjectDescription is not None
    assert study.ParticipantObjectDescription.Accession == ("A1",)
    assert study.ParticipantObjectDescription.SOPClass[0].NumberOfInstances == 3
    assert {each.code for each in reading.findings} == {
        "schema-location", "no-zone", "legacy-code", "incomplete-code", "no-requestor", "legacy-source-type", "no-name-or-query",
        "loose-description",
    }  # fmt: skip


DIALECTS = {
    "D0": ("<AuditMessage", "<IHEYr4"),
    "D1": ('EventID csd-code="110104"', 'EventID code="110104"'),
    "D2": ('EventID csd-code="110104"', 'EventID code="110104"'),
    "D3": ("<ParticipantObjectDescription>", ""),
    "D4": ("<AuditSourceIdentification ", '<AuditSourceIdentification code="4" '),
    "D4b": ('AuditSourceTypeCode csd-code="7"', 'AuditSourceTypeCode code="7"'),
    "D5": ("", ""),
    "D6": ("</EventIdentification>", '<PurposeOfUse csd-code="1" codeSystemName="2" originalText="3"/></EventIdentification>'),
    "D7": ("<ActiveParticipant ", '<ActiveParticipant UserTypeCode="2" '),
    "D8": ("<AuditMessage>", '<AuditMessage xmlns="http://vendor.example/">'),
    "D9": (
        "</EventIdentification>",
        '<EventTypeCode csd-code="EHDSI-11" codeSystemName="e" originalText="e"/></EventIdentification>',
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_are_told_apart(dialect: str) -> None:
    old, new = DIALECTS[dialect]
    text = MODERN.replace(old, new) if old else MODERN
    if dialect == "D0":
        text = text.replace("</AuditMessage", "</IHEYr4")
    if dialect == "D3":
        text = text.replace("</ParticipantObjectDescription>", "")
    if dialect == "D1":
        for element in ("MPPS", "Accession", "SOPClass"):
            text = text.replace(f"<{element} ", f"<x{element} ").replace(f"</{element}>", f"</x{element}>")
    reading = read(text.encode())
    assert reading.dialect == dialect
    assert (reading.message is None) == (dialect == "D0")


def test_no_dialect_outside_audit() -> None:
    assert read(b"<html/>").dialect == ""


HOSTILE = {
    "external entity": (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><AuditMessage>&x;</AuditMessage>', "doctype"),
    "billion laughs": (b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><AuditMessage x="&b;"/>', "doctype"),
    "undefined entity": (b"<AuditMessage>&x;</AuditMessage>", "not-well-formed"),
    "deep": (b"<AuditMessage>" + b"<a>" * 40 + b"</a>" * 40 + b"</AuditMessage>", "too-deep"),
    "too deep for libxml2": (b"<a>" * 5000, "not-well-formed"),
    "many elements": (b"<AuditMessage>" + b"<a/>" * 200_001 + b"</AuditMessage>", "too-many-elements"),
    "long attribute": (b'<AuditMessage a="' + b"x" * 10_500_000 + b'"/>', "not-well-formed"),
    "large": (b" " * (reader.MAX_BYTES + 1), "too-large"),
    "cut off": (MODERN[:-20].encode(), "not-well-formed"),
    "empty": (b"\xef\xbb\xbf \n", "empty"),
    "forbidden reference": (b'<AuditMessage a="&#0;"/>', "not-well-formed"),
    "no event": (b"<AuditMessage/>", "no-event"),
    "no event id": (b'<AuditMessage><EventIdentification EventDateTime="2027-01-01T00:00:00Z"/></AuditMessage>', "no-event"),
    "no moment": (
        b'<AuditMessage><EventIdentification EventDateTime="?"><EventID/></EventIdentification></AuditMessage>',
        "no-moment",
    ),
    "month 13": (
        b'<AuditMessage><EventIdentification EventDateTime="2027-13-01T00:00:00Z"><EventID/></EventIdentification></AuditMessage>',
        "no-moment",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_used_is_unparsed_with_its_reason(case: str) -> None:
    raw, reason = HOSTILE[case]
    reading = read(raw)
    assert reading.message is None
    assert reading.findings[-1].code == reason


FORGIVEN = {
    "not-utf-8": ('UserName="Lee"', b'UserName="Le\xe9"'),
    "forbidden-character": ('UserName="Lee"', b'UserName="L\x00ee"'),
    "leap-second": ("12:30:15.123456Z", b"23:59:60Z"),
    "no-zone": ("12:30:15.123456Z", b"12:30:15"),
    "unknown-value": ('EventActionCode="E"', b'EventActionCode="X"'),
    "no-outcome": (' EventOutcomeIndicator="0"', b""),
    "several-requestors": ('UserIsRequestor="false"', b'UserIsRequestor="1"'),
    "no-user-id": ('UserID="ct1"', b'UserID=" "'),
    "extension": ('UserID="ct1"', b'UserID="ct1" UserTypeCode="2"'),
    "source-count": ("</AuditSourceIdentification>", b'</AuditSourceIdentification><AuditSourceIdentification AuditSourceID="b"/>'),
    "no-source-id": ('AuditSourceID="gw1"', b""),
    "no-object-id": ('ParticipantObjectID="1.2.3.4"', b""),
    "no-id-type": ('<ParticipantObjectIDTypeCode csd-code="2" codeSystemName="RFC-3881" originalText="Patient Number"/>', b""),
    "not-a-number": ('ParticipantObjectTypeCode="2"', b'ParticipantObjectTypeCode="two"'),
    "no-number-of-instances": ('NumberOfInstances="200"', b""),
    "flag-attribute": ("<ParticipantObjectDescription>", b'<ParticipantObjectDescription Encrypted="true">'),
    "not-base64": (
        "<ParticipantObjectDescription>",
        b'<ParticipantObjectDetail type="a" value="?"/><ParticipantObjectDescription>',
    ),
    "namespace": ("<AuditMessage>", b'<AuditMessage xmlns="urn:x">'),
}


@pytest.mark.parametrize("code", FORGIVEN)
def test_each_deviation_is_forgiven_and_named(code: str) -> None:
    old, new = FORGIVEN[code]
    text = to_xml(all_messages()["begin_transferring"])
    assert old.encode() in text
    reading = read(text.replace(old.encode(), new))
    assert reading.message is not None
    assert code in {each.code for each in reading.findings}


def test_a_missing_outcome_is_never_taken_for_success() -> None:
    message = read(MODERN.replace(' EventOutcomeIndicator="0"', "").encode()).message
    assert message is not None
    assert message.EventIdentification.EventOutcomeIndicator is EventOutcomeIndicator.MAJOR_FAILURE


def test_no_participant_and_no_source_are_findings() -> None:
    text = MODERN[: MODERN.index("<ActiveParticipant")] + MODERN[MODERN.index("<ParticipantObjectIdentification") :]
    assert {"no-participant", "source-count"} <= codes_of(text)


def test_media_type_as_dcm4che_writes_it() -> None:
    text = to_xml(all_messages()["data_export"]).decode().replace("<MediaIdentifier>", "").replace("</MediaIdentifier>", "")
    message = read(text.encode()).message
    assert message is not None
    assert [each.MediaType.csd_code for each in message.ActiveParticipant if each.MediaType] == ["110032"]


def test_what_is_not_base64_is_kept() -> None:
    text = MODERN.replace(
        "<ParticipantObjectDescription>", '<ParticipantObjectDetail type="a" value="é?"/><ParticipantObjectDescription>'
    )
    message = read(text.encode()).message
    assert message is not None
    assert message.ParticipantObjectIdentification[0].ParticipantObjectDetail[0].value == "é?".encode()


@given(st.binary(max_size=300))
def test_any_octets_are_answered(raw: bytes) -> None:
    read(raw)


@given(st.data())
def test_any_change_of_a_message_is_answered(data: st.DataObject) -> None:
    raw = bytearray(MODERN.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(raw))


@pytest.mark.skipif(not real_messages(), reason="no messages of other implementations at hand (SECUREPACS_CORPUS)")
def test_real_messages_are_read() -> None:
    for path in real_messages():
        assert read(path.read_bytes()).message is not None, path.name
