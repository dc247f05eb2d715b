"""Hostile input: whatever is changed in a signed file, it is noticed, and nothing ever crashes."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import MalformedError
from securepacs.signatures import Verifier
from securepacs.signatures.inspection import describe
from tests.support.encoded import RLE, element, encapsulated, item, nested, part10, sequence
from tests.support.signing import policy, signed_bytes, signed_sample

SMALL = part10(
    element(0x00080005, b"CS", b"ISO_IR 100")
    + element(0x00080018, b"UI", b"1.2.3\0")
    + sequence(
        0x00081032,
        item(element(0x00080000, b"UL", b"\x0a\0\0\0") + element(0x00080104, b"LO", b"Meaning")),
        undefined=True,
    )
    + sequence(0x00081140, item(element(0x00081155, b"UI", b"1.2\0"), undefined=True), item(b""))
    + element(0x00100010, b"PN", b"Test^P")
    + element(0x00280010, b"US", b"\2\0")
    + encapsulated(b"", b"\1\2\3\4"),
    RLE,
)
COVERED = ["SOPInstanceUID", "ProcedureCodeSequence", "ReferencedImageSequence", "PatientName", "Rows", "PixelData"]


@cache
def verifier() -> Verifier:
    return Verifier(policy())


@cache
def signed() -> bytes:
    return signed_bytes(SMALL, profile="base", tags=COVERED)


@cache
def signed_plan() -> bytes:
    return signed_sample("rtplan.dcm")


def evaluate_or_malformed(raw: bytes) -> str:
    try:
        return verifier().evaluate(raw).verdict
    except MalformedError:
        return "MALFORMED"


def test_changes_in_open_ranges_do_not_matter() -> None:
    raw = bytearray(signed())
    (before,) = verifier().evaluate(bytes(raw)).signatures
    raw[10] ^= 0xFF  # preamble
    place = raw.index(b"ISO_IR 100")
    assert any(start <= place < end for start, end in before.uncovered_ranges)
    raw[place + 9] = ord("1")
    assert verifier().evaluate(bytes(raw)).verdict == "TOTAL-PASSED"


def test_every_truncation_is_malformed_or_loses_the_signature() -> None:
    raw = signed()
    found = {evaluate_or_malformed(raw[:end]) for end in range(len(raw))}
    assert found <= {"MALFORMED", "NO-SIGNATURE"}


@given(st.data())
def test_a_mutated_file_gets_a_verdict_or_is_malformed(data: st.DataObject) -> None:
    raw = bytearray(signed_plan() if data.draw(st.booleans()) else signed())
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            raw[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del raw[position : position + data.draw(st.integers(1, 40))]
        else:
            raw[position:position] = data.draw(st.binary(min_size=1, max_size=40))
        if not raw:
            break
    assert evaluate_or_malformed(bytes(raw)) in {"TOTAL-PASSED", "TOTAL-FAILED", "INDETERMINATE", "NO-SIGNATURE", "MALFORMED"}


@given(st.integers(250, 1671), st.binary(min_size=1, max_size=30))
def test_mutated_signature_items_are_inspected_or_malformed(position: int, junk: bytes) -> None:
    raw = signed()
    try:
        found = describe(raw[:position] + junk + raw[position + len(junk) :])
    except MalformedError:
        return
    assert isinstance(found["signatures"], list)


@given(st.binary(max_size=300))
def test_garbage_is_malformed_or_unsigned(data: bytes) -> None:
    assert evaluate_or_malformed(part10(data)) in {"MALFORMED", "NO-SIGNATURE"}


@pytest.mark.parametrize("undefined", [False, True])
def test_ten_thousand_nested_items_are_malformed(undefined: bool) -> None:
    with pytest.raises(MalformedError, match="nested"):
        verifier().evaluate(part10(nested(10_000, undefined=undefined)))


def test_a_length_of_4_gib_in_a_small_file_is_malformed() -> None:
    with pytest.raises(MalformedError):
        verifier().evaluate(part10(element(0x7FE00010, b"OW", bytes(1000), length=0xFFFFFFF0)))
