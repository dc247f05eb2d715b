"""What a record is found by."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.message import ParticipantObjectDescription
from securepacs.audit.repository import index as module
from securepacs.audit.repository.index import Receipt, TermKind, index
from securepacs.audit.syslog import to_syslog
from securepacs.audit.xml import to_xml
from tests.support.audit import AT, all_messages, numbered

NOW = datetime(2027, 2, 1, tzinfo=UTC)


def receipt(raw: bytes) -> Receipt:
    return Receipt.of(raw, received=NOW, transport="test")


def test_a_record_is_found_by_who_what_and_whom() -> None:
    entry = index(receipt(to_syslog(all_messages()["begin_transferring"], hostname="h", app_name="a", procid="1")))
    assert (entry.verdict, entry.dialect, entry.moment) == ("conformant", "D5", AT)
    assert (entry.event_code, entry.event_name, entry.action, entry.outcome) == (
        "110102",
        "Begin Transferring DICOM Instances",
        "E",
        0,
    )
    assert (entry.source_id, entry.site_id, entry.requestor) == ("gw1", "Hospital", "lee@hospital.example")
    assert {value for kind, value in entry.terms if kind is TermKind.USER} == {
        "ct1", "aetitles=ct1", "archive", "aetitles=archive", "lee@hospital.example", "lee",
    }  # fmt: skip
    assert {value for kind, value in entry.terms if kind is TermKind.PATIENT} == {"4711^^^&1.2.3&ISO", "4711"}
    assert {value for kind, value in entry.terms if kind is TermKind.STUDY} == {"1.2.3.4"}
    assert "doe^jane" in entry.searchable
    assert "a1" in entry.searchable.split("\n")


def test_an_alert_is_described_by_its_type_and_text() -> None:
    entry = index(receipt(to_xml(all_messages()["security_alert"])))
    assert entry.description == "Node Authentication: handshake refused: certificate expired: certificate expired"
    assert (TermKind.TYPE, "110126") in entry.terms


def test_contained_studies_are_found_too() -> None:
    message = numbered(1)
    (study, patient) = message.ParticipantObjectIdentification
    study = replace(study, ParticipantObjectDescription=ParticipantObjectDescription(ParticipantObjectContainsStudy=("1.9.9",)))
    entry = index(receipt(to_xml(replace(message, ParticipantObjectIdentification=(study, patient)))))
    assert (TermKind.STUDY, "1.9.9") in entry.terms


@pytest.mark.parametrize("year", ["0001", "1899", "9001", "9999"])
def test_years_nobody_can_mean_are_found_by_their_receipt(year: str) -> None:
    raw = to_xml(numbered(1)).replace(b'EventDateTime="2027', f'EventDateTime="{year}'.encode())
    assert index(receipt(raw)).moment == NOW


@pytest.mark.parametrize("raw", [b"<13>1 - - - - - - NUL \x00 \xff Text", b"", b"<AuditMessage>", bytes(100_000)])
def test_what_cannot_be_read_is_found_by_its_text_and_receipt(raw: bytes) -> None:
    entry = index(receipt(raw))
    assert (entry.verdict, entry.moment, entry.outcome) == ("unparsed", NOW, None)
    assert "\0" not in entry.searchable
    assert len(entry.searchable) <= module.SEARCHABLE_LENGTH
    if b"Text" in raw:
        assert "text" in entry.searchable


def test_long_values_are_indexed_by_their_beginning() -> None:
    message = numbered(1)
    who = replace(message.ActiveParticipant[0], UserID="x" * 5000)
    entry = index(receipt(to_xml(replace(message, ActiveParticipant=(who,)))))
    assert (TermKind.USER, "x" * module.TERM_LENGTH) in entry.terms


def test_a_fault_of_ours_costs_the_index_not_the_record(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fault(_raw: bytes) -> Any:
        raise RuntimeError("Doe^Jane")

    monkeypatch.setattr(module, "grade", fault)
    with caplog.at_level(logging.ERROR):
        entry = index(receipt(to_xml(numbered(1))))
    assert entry.verdict == "unparsed"
    assert "RuntimeError" in caplog.text
    assert "Doe" not in caplog.text


@given(st.binary(max_size=200))
def test_any_octets_are_indexed(raw: bytes) -> None:
    assert index(receipt(raw)).receipt.raw == raw
