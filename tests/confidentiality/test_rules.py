"""The table as data: complete, spelled as the dictionary does, and read as PS3.15 E.1 says."""

from __future__ import annotations

import pytest
from pydicom.datadict import keyword_for_tag

from securepacs.confidentiality import Option
from securepacs.confidentiality.descriptors import clean, harmless
from securepacs.confidentiality.dummies import dummy
from securepacs.confidentiality.pseudonyms import Pseudonyms
from securepacs.confidentiality.rules import Action, action, table
from securepacs.dicom.vr import LONG_FORM, TEXT

NONE: frozenset[Option] = frozenset()


def test_the_table_has_its_attributes_and_letters() -> None:
    rows = table()
    assert len(rows) > 640
    assert {letters for letters, _ in rows.values()} == {"X", "Z", "D", "U", "X/Z", "X/D", "X/Z/D", "Z/D", "X/Z/U*"}
    assert {letter for _, options in rows.values() for letter in options.values()} == {"K", "C"}
    assert all(any(option in options for _, options in rows.values()) for option in Option)


@pytest.mark.parametrize(
    ("keyword", "tag", "vr", "options", "expected"),
    [
        ("PatientName", 0x00100010, b"PN", NONE, Action.EMPTY),
        ("PatientID", 0x00100020, b"LO", NONE, Action.DUMMY),
        ("PatientBirthDate", 0x00100030, b"DA", NONE, Action.EMPTY),
        ("SOPInstanceUID", 0x00080018, b"UI", NONE, Action.UID),
        ("SOPInstanceUID", 0x00080018, b"UI", frozenset({Option.RETAIN_UIDS}), Action.KEEP),
        ("StudyDate", 0x00080020, b"DA", frozenset({Option.RETAIN_FULL_DATES}), Action.KEEP),
        ("StudyDate", 0x00080020, b"DA", frozenset({Option.RETAIN_MODIFIED_DATES}), Action.SHIFT),
        ("StudyDescription", 0x00081030, b"LO", NONE, Action.REMOVE),
        ("StudyDescription", 0x00081030, b"LO", frozenset({Option.CLEAN_DESCRIPTORS}), Action.CLEAN),
        ("ReferencedImageSequence", 0x00081140, b"SQ", NONE, Action.ITEMS),
        ("Rows", 0x00280010, b"US", NONE, Action.KEEP),
        ("PixelData", 0x7FE00010, b"OW", NONE, Action.KEEP),
        ("OverlayData", 0x60043000, b"OW", NONE, Action.REMOVE),
        ("", 0x00090010, b"LO", NONE, Action.REMOVE),
        ("", 0x00089999, b"LO", NONE, Action.REMOVE),
        ("", 0x50043000, b"OW", NONE, Action.REMOVE),
    ],
)
def test_letters_become_actions(keyword: str, tag: int, vr: bytes, options: frozenset[Option], expected: Action) -> None:
    if keyword and tag >> 24 != 0x60:
        assert keyword_for_tag(tag) == keyword
    assert action(tag, vr, options) is expected


@pytest.mark.parametrize("vr", sorted((LONG_FORM | TEXT | {b"AT", b"FD", b"FL", b"SL", b"SS", b"UL", b"US"}) - {b"SQ", b"UI"}))
def test_every_vr_has_a_dummy(vr: bytes) -> None:
    assert dummy(vr)


def test_words_that_are_known_stay() -> None:
    assert {"abdomen", "chest", "contrast", "axial"} <= harmless()
    text = "T1 AX brain, 5mm, J. Smith *1962-03-04, ID 4711"
    assert clean(text, frozenset()) == "T1 AX brain 5mm"
    assert clean("Hand left", frozenset({"hand"})) == "left"


@pytest.mark.parametrize(
    ("value", "vr", "kept"),
    [("20240131", b"DA", True), ("2024.01.31", b"DA", True), ("20240131\\20240201", b"DA", True), ("", b"DA", True),
     ("20240131101112.123456+0900", b"DT", True), ("2024", b"DT", False), ("yesterday", b"DA", False), ("00010101", b"DA", False),
     ("20240231", b"DA", False)],
)  # fmt: skip
def test_only_dates_are_shifted(value: str, vr: bytes, kept: bool) -> None:
    moved = Pseudonyms(b"sixteen octets!!").shifted(value, vr, "patient")
    assert (moved is not None) is kept
    if value and kept:
        assert moved != value


def test_pseudonyms_show_no_secret() -> None:
    mapping = Pseudonyms(b"sixteen octets!!")
    assert "sixteen" not in repr(mapping)
    assert mapping.uid("1.2.840.10008.1.2") == "1.2.840.10008.1.2"
    assert mapping.uid("1.2.3").startswith("2.25.")
    assert len(mapping.uid("1.2.3")) <= 64
