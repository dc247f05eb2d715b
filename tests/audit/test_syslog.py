"""RFC 5424 records: UTC whatever the zone of the machine, headers that hold, and any bytes split without a loss."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.syslog import frame, header_field, parse_record, to_record, to_syslog
from securepacs.audit.xml import to_xml
from tests.support.audit import AT, all_messages, numbered

BOM = b"\xef\xbb\xbf"
XML = to_xml(numbered(1))
RECORD = to_syslog(numbered(1), hostname="gw1", app_name="securepacs", procid="42")


def test_the_record_is_this() -> None:
    assert RECORD == b"<85>1 2027-01-31T12:30:15.123456Z gw1 securepacs 42 IHE+RFC-3881 - " + XML


@pytest.mark.parametrize("zone", ["UTC", "Asia/Seoul", "America/St_Johns", "XST-9", "XDT+3:30"])
def test_the_time_is_utc_in_every_zone(zone: str) -> None:
    program = (
        "from tests.support.audit import numbered; from securepacs.audit.syslog import to_syslog;"
        "print(to_syslog(numbered(1), hostname='h', app_name='a', procid='1')[:36].decode())"
    )
    environment = {**os.environ, "TZ": zone, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "<85>1 2027-01-31T12:30:15.123456Z h"


def test_the_time_of_sending_may_differ_from_the_event() -> None:
    later = AT.astimezone(timezone(timedelta(hours=-5))) + timedelta(hours=2)
    assert b" 2027-01-31T14:30:15.123456Z " in to_syslog(numbered(1), hostname="h", app_name="a", procid="1", at=later)


@pytest.mark.parametrize(
    ("text", "field"), [("", "-"), ("a b", "a_b"), ("b\u00e4r\n", "b_r"), ("x" * 300, "x" * 255), ("\x7f", "_")]
)
def test_header_fields_hold_what_the_grammar_allows(text: str, field: str) -> None:
    assert header_field(text, 255) == field
    assert parse_record(to_record(b"<a/>", hostname=text, app_name="a", procid="1", at=AT)).hostname == field.replace("-", "")


@pytest.mark.parametrize("name", all_messages())
def test_every_message_comes_back_from_its_record(name: str) -> None:
    parsed = parse_record(to_syslog(all_messages()[name], hostname="gw1", app_name="securepacs", procid="42"))
    assert (parsed.pri, parsed.facility, parsed.severity, parsed.version) == (85, 10, 5, 1)
    assert (parsed.hostname, parsed.app_name, parsed.procid, parsed.msgid) == ("gw1", "securepacs", "42", "IHE+RFC-3881")
    assert (parsed.timestamp, parsed.structured_data) == ("2027-01-31T12:30:15.123456Z", "")
    assert parsed.msg == to_xml(all_messages()[name])


@pytest.mark.parametrize("before", [b"", BOM, BOM + BOM])
@pytest.mark.parametrize("inside", [b"", BOM, BOM + BOM])
def test_byte_order_marks_are_skipped(before: bytes, inside: bytes) -> None:
    parsed = parse_record(before + RECORD.replace(XML, inside + XML))
    assert (parsed.pri, parsed.msg) == (85, XML)


@pytest.mark.parametrize(
    ("raw", "pri", "version", "data", "msg"),
    [
        (b"<0>1 - - - - - -", 0, 1, "", b""),
        (b"<191>1 - - - - - - x", 191, 1, "", b"x"),
        (b'<13>1 - h a - - [a@1 b="c\\"]\\\\"][d] line\r\nline\n', 13, 1, '[a@1 b="c\\"]\\\\"][d]', b"line\r\nline\n"),
        (b"<13>Nov 22 11:00:00 host tag: old", 13, 0, "", b"Nov 22 11:00:00 host tag: old"),
        (b"<a/>", None, 0, "", b"<a/>"),
        (b"", None, 0, "", b""),
        (b"<13>1 - - - - - [broken x", 13, 0, "", b"1 - - - - - [broken x"),
    ],
)
def test_any_record_is_split(raw: bytes, pri: int | None, version: int, data: str, msg: bytes) -> None:
    parsed = parse_record(raw)
    assert (parsed.pri, parsed.version, parsed.structured_data, parsed.msg) == (pri, version, data, msg)


def test_a_record_without_pri_has_neither_facility_nor_severity() -> None:
    assert (parse_record(b"x").facility, parse_record(b"x").severity) == (None, None)


@given(st.binary(max_size=200))
def test_any_octets_are_answered(raw: bytes) -> None:
    parse_record(raw)
    parse_record(b"<13>1 - - - - - [" + raw)


def test_splitting_hostile_structured_data_takes_no_time() -> None:
    parse_record(b"<13>1 - - - - - [" + b'"\\' * 200_000)
    parse_record(b"<13>1 - - - - - " + b"[]" * 200_000 + b"x")


def test_the_octet_count_counts_octets() -> None:
    assert frame("é".encode()) == b"2 \xc3\xa9"
