"""What a record is found by."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.message import ParticipantObjectDescription
from securepacs.audit.repository import index as module
from securepacs.audit.repository.index import index
from securepacs.audit.repository.quick import quick_index
from securepacs.audit.repository.shapes import MAX_SHAPES, Shapes
from securepacs.audit.repository.terms import SEARCHABLE_LENGTH, TERM_LENGTH, Index, TermKind, json_list, term_hash
from securepacs.audit.syslog import parse_record, to_syslog
from securepacs.audit.xml import to_xml
from securepacs.store.tables import moment_text
from tests.support.audit import AT, all_messages, numbered, real_messages

NOW = datetime(2027, 2, 1, tzinfo=UTC)


NOW_TEXT = moment_text(NOW)


def indexed(raw: bytes) -> Index:
    return index(raw, NOW)


@pytest.fixture(autouse=True, scope="module")
def known_shapes() -> None:
    """Have the shape of every message known, so that changed values meet the checks of their places."""
    for message in all_messages().values():
        indexed(to_xml(message))


def tolerantly(raw: bytes) -> Index:
    """Return the index by way of the tolerant reader alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "quick_index", lambda _xml, _received: None)
        return index(raw, NOW)


def hashes(kind: TermKind, *values: str) -> set[int]:
    return {term_hash(kind.value, value) for value in values}


def test_a_record_is_found_by_who_what_and_whom() -> None:
    entry = indexed(to_syslog(all_messages()["begin_transferring"], hostname="h", app_name="a", procid="1"))
    assert (entry.verdict, entry.dialect, entry.moment) == ("conformant", "D5", moment_text(AT))
    assert (entry.event_code, entry.event_name, entry.action, entry.outcome) == (
        "110102",
        "Begin Transferring DICOM Instances",
        "E",
        0,
    )
    assert (entry.source_id, entry.site_id, entry.requestor) == ("gw1", "Hospital", "lee@hospital.example")
    assert set(entry.terms) == (
        hashes(TermKind.USER, "ct1", "aetitles=ct1", "archive", "aetitles=archive", "lee@hospital.example", "lee")
        | hashes(TermKind.PATIENT, "4711^^^&1.2.3&ISO", "4711")
        | hashes(TermKind.STUDY, "1.2.3.4")
    )
    assert (entry.patients, entry.studies) == ('["4711", "4711^^^&1.2.3&ISO"]', '["1.2.3.4"]')
    assert "doe^jane" in entry.searchable
    assert "a1" in entry.searchable.split("\n")


def test_an_alert_is_described_by_its_type_and_text() -> None:
    entry = indexed(to_xml(all_messages()["security_alert"]))
    assert entry.description == "Node Authentication: handshake refused: certificate expired: certificate expired"
    assert hashes(TermKind.TYPE, "110126") <= set(entry.terms)


def test_contained_studies_are_found_too() -> None:
    message = numbered(1)
    (study, patient) = message.ParticipantObjectIdentification
    study = replace(study, ParticipantObjectDescription=ParticipantObjectDescription(ParticipantObjectContainsStudy=("1.9.9",)))
    entry = indexed(to_xml(replace(message, ParticipantObjectIdentification=(study, patient))))
    assert hashes(TermKind.STUDY, "1.9.9") <= set(entry.terms)


@pytest.mark.parametrize("year", ["0001", "1899", "9001", "9999"])
def test_years_nobody_can_mean_are_found_by_their_receipt(year: str) -> None:
    raw = to_xml(numbered(1)).replace(b'EventDateTime="2027', f'EventDateTime="{year}'.encode())
    assert indexed(raw).moment == NOW_TEXT


@pytest.mark.parametrize("raw", [b"<13>1 - - - - - - NUL \x00 \xff Text", b"", b"<AuditMessage>", bytes(100_000)])
def test_what_cannot_be_read_is_found_by_its_text_and_receipt(raw: bytes) -> None:
    entry = indexed(raw)
    assert (entry.verdict, entry.moment, entry.outcome) == ("unparsed", NOW_TEXT, None)
    assert "\0" not in entry.searchable
    assert len(entry.searchable) <= SEARCHABLE_LENGTH
    if b"Text" in raw:
        assert "text" in entry.searchable


def test_long_values_are_indexed_by_their_beginning() -> None:
    message = numbered(1)
    who = replace(message.ActiveParticipant[0], UserID="x" * 5000)
    entry = indexed(to_xml(replace(message, ActiveParticipant=(who,))))
    assert hashes(TermKind.USER, "x" * TERM_LENGTH) <= set(entry.terms)


def test_a_fault_of_ours_costs_the_index_not_the_record(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fault(_xml: bytes, _received: str) -> Any:
        raise RuntimeError("Doe^Jane")

    monkeypatch.setattr(module, "quick_index", fault)
    with caplog.at_level(logging.ERROR):
        entry = indexed(to_xml(numbered(1)))
    assert entry.verdict == "unparsed"
    assert "RuntimeError" in caplog.text
    assert "Doe" not in caplog.text


@given(st.binary(max_size=200))
def test_any_octets_are_indexed(raw: bytes) -> None:
    assert indexed(raw).verdict == "unparsed"


# --- the quick way ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", all_messages())
def test_messages_of_ours_take_the_quick_way(name: str) -> None:
    raw = to_syslog(all_messages()[name], hostname="h", app_name="a", procid="1")
    quick = quick_index(parse_record(raw).msg, NOW_TEXT)
    assert quick is not None
    assert quick == tolerantly(raw)


CHANGES: list[tuple[bytes, bytes]] = [
    (b'UserID="lee@hospital.example"', b'UserID=" "'),
    (b'UserID="lee@hospital.example"', b'UserID=" \xc4\xb0 "'),
    (b'UserName="Lee"', b'UserName="  "'),
    (b'UserIsRequestor="true"', b'UserIsRequestor=" 1 "'),
    (b'UserIsRequestor="true"', b'UserIsRequestor="false"'),
    (b'UserIsRequestor="true"', b'UserIsRequestor="TRUE"'),
    (b"123456Z", b"123456"),
    (b"123456Z", b"1Z"),
    (b"123456Z", b"1234567Z"),
    (b"15.123456Z", b"15+09:00"),
    (b"15.123456Z", b"60Z"),
    (b"15.123456Z", b"15-14:00"),
    (b'"2027-01-31', b'"1800-01-31'),
    (b'csd-code="110180"', b'csd-code=" 110180 "'),
    (b'csd-code="110180"', b'csd-code=""'),
    (b'csd-code="110105"', b'csd-code="EHDSI-10"'),
    (b'originalText="Patient Number"', b'originalText=""'),
    (b'AuditSourceID="gw1"', b'AuditSourceID=""'),
    (b'ParticipantObjectTypeCode="1"', b'ParticipantObjectTypeCode="+1"'),
    (b'ParticipantObjectTypeCode="1"', b'ParticipantObjectTypeCode="3"'),
    (b"Doe^Jane", b"Doe&#65;<!-- x -->B"),
    (b"Doe^Jane", b"\xed\x99\x8d"),
    (b"Doe^Jane", b"\xff"),
    (b'UserName="Lee"', b'UserName="L<e"'),
    (b'UserName="Lee"', b'UserName="L>e"'),
    (b'UserName="Lee"', b'UserName="L\te"'),
    (b"Doe^Jane", b"Doe]]>Jane"),
    (b"Doe^Jane", b'Doe"Jane'),
    (b"4711^^^", b" 4711 ^^^"),
    (b"4711^^^", b"^^^"),
    (b"</EventIdentification>", b'<PurposeOfUse csd-code="a" codeSystemName="b" originalText="c"/></EventIdentification>'),
    (b"</EventIdentification>", b"<EventOutcomeDescription>why</EventOutcomeDescription></EventIdentification>"),
    (b"</ParticipantObjectName></P", b'</ParticipantObjectName><ParticipantObjectDetail type="a" value="eA=="/></P'),
    (b"</ParticipantObjectName></P", b'</ParticipantObjectName><ParticipantObjectDetail type="a" value="e"/></P'),
    (b"</ParticipantObjectName></P",
     b'</ParticipantObjectName><ParticipantObjectDescription><SOPClass NumberOfInstances="1234567890123456789"/>'
     b"</ParticipantObjectDescription></P"),
    (b"<AuditMessage>", b'<AuditMessage xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:x="y">'),
    (b"<AuditMessage>", b'<AuditMessage xmlns="urn:x">'),
    (b"<AuditMessage>", b'<?xml version="1.0" encoding="ASCII"?><AuditMessage>'),
    (b"<AuditMessage>", b"<!DOCTYPE a><AuditMessage>"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["study_deleted", "security_alert", "query", "begin_transferring"])
@pytest.mark.parametrize("change", CHANGES, ids=[str(number) for number in range(len(CHANGES))])
def test_the_quick_way_leads_to_the_same_place(name: str, change: tuple[bytes, bytes]) -> None:
    raw = to_xml(all_messages()[name]).replace(*change)
    assert indexed(raw) == tolerantly(raw)


@given(st.sampled_from(sorted(all_messages())), st.data())
def test_the_quick_way_leads_to_the_same_place_whatever_is_cut_out(name: str, data: st.DataObject) -> None:
    raw = to_xml(all_messages()[name])
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 40)))
    changed = raw[:start] + data.draw(st.binary(max_size=5)) + raw[end:]
    assert indexed(changed) == tolerantly(changed)


@pytest.mark.skipif(not real_messages(), reason="no messages of other implementations at hand (SECUREPACS_CORPUS)")
def test_the_quick_way_leads_to_the_same_place_for_real_messages() -> None:
    for path in real_messages():
        raw = path.read_bytes()
        assert indexed(raw) == tolerantly(raw)


@given(st.sets(st.text(max_size=8), max_size=4))
def test_lists_are_json(values: set[str]) -> None:
    assert json.loads(json_list(values)) == sorted(values)
    assert json_list(values) == json.dumps(sorted(values), ensure_ascii=False)


def test_shapes_are_bounded_and_only_plain_ones_are_kept() -> None:
    shapes = Shapes()
    message = to_xml(numbered(1)).decode()
    for changed in (message.replace('"', "'"), message.replace("Doe^Jane", 'Doe"Jane'), message.replace("Doe^Jane", "Doe&#65;")):
        shapes.learn(changed)
        assert shapes.index(changed, NOW_TEXT) is None or changed.count("'") == 0
    for number in range(MAX_SHAPES + 1):
        shapes.learn(message.replace("<AuditMessage>", f'<AuditMessage a{number}="">'))
    assert len(shapes._known) <= MAX_SHAPES


@given(st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["0ab12", "AB12", " ab12 "]))
def test_a_certificate_is_found_the_same_way_by_all(serial: str) -> None:
    from securepacs.audit.parts import certificate_role

    message = all_messages()["instances_accessed"]
    role = replace(certificate_role("1"), csd_code=f"certificate-serial-{serial}")
    people = (replace(message.ActiveParticipant[0], RoleIDCode=(role,)), *message.ActiveParticipant[1:])
    raw = to_xml(replace(message, ActiveParticipant=people))
    assert indexed(raw) == indexed(raw) == tolerantly(raw)
    plain = to_xml(replace(message, ActiveParticipant=(replace(people[0], RoleIDCode=(certificate_role("00:AB:12"),)),)))
    assert hashes(TermKind.CERTIFICATE, "ab12") <= set(indexed(plain).terms) & set(tolerantly(plain).terms)
