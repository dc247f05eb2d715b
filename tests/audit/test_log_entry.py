"""Entries of the log: one way to write each, no text of a sender, ranges in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.log_entry import commitment, decode_entry, decode_ranges, encode_entry, encode_ranges, safe_token
from securepacs.errors import MalformedError

FIELDS: dict[str, Any] = {
    "index": 17, "received": "2027-01-31T12:30:15.123456Z", "receiver": "securepacs-audit@arr", "transport": "tls",
    "peer_address": "10.0.0.7", "peer_sha256": "ab" * 32, "length": 2048, "truncated": False, "commitment": "cd" * 32,
    "verdict": "usable with findings", "dialect": "D5", "event_code": "110104", "action": "C", "outcome": 0, "repeats": 3,
    "erases": "3-9,12",
}  # fmt: skip


def test_an_entry_comes_back() -> None:
    entry = decode_entry(encode_entry(**FIELDS))
    assert entry.erases == (range(3, 10), range(12, 13))
    assert {name: getattr(entry, name) for name in FIELDS if name != "erases"} == {
        name: value for name, value in FIELDS.items() if name != "erases"
    }


def test_what_is_absent_comes_back_absent() -> None:
    absent = {
        "peer_address": "",
        "peer_sha256": "",
        "dialect": "",
        "event_code": "",
        "action": "",
        "outcome": None,
        "repeats": None,
    }
    entry = decode_entry(encode_entry(**FIELDS | absent | {"erases": ""}))
    assert {name: getattr(entry, name) for name in absent} == absent
    assert entry.erases == ()


@pytest.mark.parametrize("code", ["Doe^Jane was here", "x" * 33, "110104\nerases 0", "홍길동"])
def test_a_code_that_is_none_is_left_out(code: str) -> None:
    assert decode_entry(encode_entry(**FIELDS | {"event_code": code})).event_code == ""


def test_octets_that_are_no_entry() -> None:
    good = encode_entry(**FIELDS)
    for wrong in (b"", good[:-1], good + b"\n", good.replace(b"v1", b"v2"), good.replace(b"index 17", b"index 017"),
                  good.replace(b"truncated 0", b"truncated 2"), good + b"\xff", good.replace(b"3-9", b"9-3"),
                  good.replace(b"3-9,12", b"3-9,10"), good.replace(b"3-9,12", b"-,12"),
                  good.replace(b"3-9", b"1" * 50)):  # fmt: skip
        with pytest.raises(MalformedError):
            decode_entry(wrong)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ranges_come_back(numbers: set[int]) -> None:
    assert {number for each in decode_ranges(encode_ranges(numbers)) for number in each} == numbers


def test_commitment_needs_salt_and_octets() -> None:
    assert commitment(b"s" * 32, b"raw") != commitment(b"t" * 32, b"raw") != commitment(b"t" * 32, b"row")


def test_tokens() -> None:
    assert safe_token(" a b\n홍 ") == "a_b__"
    assert safe_token("") == "-"
