from __future__ import annotations

import pytest
from pydicom.datadict import dictionary_has_tag, repeater_has_tag

from securepacs.errors import UsageError
from securepacs.signatures.profiles import (
    CURVE,
    MODULES,
    OVERLAY,
    Coverage,
    Traits,
    is_signable,
    is_structured_report,
    name_tag,
    parse_tag,
    required,
)

PIXELS, INSTITUTION, NAME, CREATION_DATE = 0x7FE00010, 0x00080080, 0x00100010, 0x00080012


@pytest.mark.parametrize("module", MODULES)
def test_every_tag_of_a_module_exists(module: str) -> None:
    assert [f"{tag:08X}" for tag in sorted(MODULES[module]) if not dictionary_has_tag(tag)] == []


def test_repeating_groups_exist() -> None:
    assert all(repeater_has_tag(tag) for tag in OVERLAY)
    assert all(tag >> 16 == 0x5000 for tag in CURVE)


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [
        (Coverage.CREATOR, {PIXELS, INSTITUTION, CREATION_DATE}),
        (Coverage.AUTHORIZATION, {PIXELS}),
        (Coverage.SR, {INSTITUTION}),
    ],
)
def test_what_each_profile_asks(coverage: Coverage, expected: set[int]) -> None:
    assert required(coverage, {PIXELS, INSTITUTION, NAME, CREATION_DATE}, Traits()) == expected


def test_repeating_groups_count_with_their_first() -> None:
    assert required(Coverage.CREATOR, {0x60023000, 0x60013000, 0x60203000, 0x60024321}, Traits()) == {0x60023000}


def test_private_elements_count_in_raw_data_only() -> None:
    private = {0x00091001}
    assert required(Coverage.CREATOR, private, Traits()) == set()
    assert required(Coverage.CREATOR, private, Traits(raw_data=True)) == private
    assert required(Coverage.SR, private, Traits(raw_data=True)) == set()


def test_a_verified_report_asks_for_the_observer_and_the_instance() -> None:
    present = {0x00080018, 0x0040A493, 0x0040A073}
    assert required(Coverage.SR, present, Traits()) == set()
    assert required(Coverage.SR, present, Traits(verified=True)) == present


def test_reports_are_known_by_their_content() -> None:
    assert is_structured_report({0x0040A040, 0x0040A043, 0x0040A730})
    assert not is_structured_report({0x0040A043, 0x0040A730})


@pytest.mark.parametrize(
    ("tag", "vr", "signable"),
    [
        (NAME, b"PN", True),
        (0x00090010, b"LO", True),
        (0x01000410, b"CS", True),
        (NAME, b"UN", False),
        (0x00100000, b"UL", False),
        (0x00080001, b"UL", False),
        (0x00020010, b"UI", False),
        (0xFFFAFFFA, b"SQ", False),
        (0x4FFE0001, b"SQ", False),
        (0xFFFCFFFC, b"OB", False),
    ],
)
def test_what_may_be_signed(tag: int, vr: bytes, signable: bool) -> None:
    assert is_signable(tag, vr) is signable


@pytest.mark.parametrize(("text", "tag"), [("PatientName", NAME), ("00100010", NAME), (" 7FE00010 ", PIXELS), ("7fe00010", PIXELS)])
def test_tags_are_read(text: str, tag: int) -> None:
    assert parse_tag(text) == tag


@pytest.mark.parametrize("text", ["", "Nonsense", "0010", "ABCDEFGH", "0010,0010"])
def test_other_texts_are_no_tags(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tag(text)


def test_names_are_what_tags_are_read_from() -> None:
    assert (name_tag(NAME), name_tag(0x00091001)) == ("PatientName", "00091001")
