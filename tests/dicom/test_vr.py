from __future__ import annotations

import pytest

from securepacs.dicom.vr import ImplicitDictionary

PIXEL_REPRESENTATION, LUT_DESCRIPTOR, LUT_DATA, SMALLEST = 0x00280103, 0x00283002, 0x00283006, 0x00280106


@pytest.mark.parametrize(
    ("tag", "vr"),
    [(0x00100010, b"PN"), (0x00080000, b"UL"), (0x7FE00010, b"OW"), (0x60003000, b"OW"), (0x00091001, b"UN"), (0x00090010, b"LO")],
)
def test_the_vr_of_an_element(tag: int, vr: bytes) -> None:
    assert ImplicitDictionary().vr(tag, b"", undefined=False) == vr


@pytest.mark.parametrize(("value", "vr"), [(b"\0\0", b"US"), (b"\1\0", b"SS")])
def test_pixel_representation_settles_signedness_also_for_items(value: bytes, vr: bytes) -> None:
    dictionary = ImplicitDictionary()
    dictionary.vr(PIXEL_REPRESENTATION, value, undefined=False)
    assert dictionary.vr(SMALLEST, b"\0\0", undefined=False) == vr
    assert dictionary.nested().vr(SMALLEST, b"\0\0", undefined=False) == vr


@pytest.mark.parametrize(("entries", "vr"), [(b"\1\0", b"US"), (b"\0\1", b"OW")])
def test_the_descriptor_settles_lut_data(entries: bytes, vr: bytes) -> None:
    dictionary = ImplicitDictionary()
    dictionary.vr(LUT_DESCRIPTOR, entries + b"\0\0\x10\0", undefined=False)
    assert dictionary.vr(LUT_DATA, b"\0\0", undefined=False) == vr


def test_private_elements_need_their_creator() -> None:
    dictionary = ImplicitDictionary()
    assert dictionary.vr(0x00191008, b"", undefined=False) == b"UN"
    dictionary.vr(0x00190010, b"SIEMENS MR HEADER ", undefined=False)
    assert dictionary.vr(0x00191008, b"", undefined=False) == b"CS"
    assert dictionary.nested().vr(0x00191008, b"", undefined=False) == b"UN"


@pytest.mark.parametrize("tag", [0x00091001, 0x00100010])
def test_only_a_known_sequence_may_lack_a_length(tag: int) -> None:
    assert ImplicitDictionary().vr(tag, b"", undefined=True) == b"UN"
    assert ImplicitDictionary().vr(0x00081032, b"", undefined=True) == b"SQ"


def test_big_endian_values_are_understood() -> None:
    dictionary = ImplicitDictionary(little=False)
    dictionary.vr(PIXEL_REPRESENTATION, b"\0\1", undefined=False)
    assert dictionary.vr(SMALLEST, b"", undefined=False) == b"SS"
