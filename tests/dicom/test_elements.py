from __future__ import annotations

import struct

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.dicom.elements import EXPLICIT_BIG, MAX_NESTING, Encoding, Part, tokens, walk
from securepacs.dicom.part10 import open_dataset
from securepacs.errors import MalformedError
from tests.support.encoded import (
    EXPLICIT_LE,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED,
    element,
    encapsulated,
    implicit,
    item,
    nested,
    part10,
    sequence,
)
from tests.support.samples import sample

PARSED_LIKE_PYDICOM = (
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "JPEG2000.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
    "liver_1frame.dcm",
    "image_dfl.dcm",
    "nested_priv_SQ.dcm",
    "UN_sequence.dcm",
    "SC_rgb_rle_32bit_2frame.dcm",
)
NAME = element(0x00100010, b"PN", b"Test^P")
SYNTAX = Encoding()
ENDLESS_FRAGMENT = element(0x7FE00010, b"OB", implicit(0xFFFEE000, length=UNDEFINED), length=UNDEFINED)


def parts(data: bytes, encoding: Encoding = SYNTAX) -> list[Part]:
    return [token.part for token in tokens(data, encoding=encoding)]


@pytest.mark.parametrize("name", PARSED_LIKE_PYDICOM)
def test_the_walker_finds_what_pydicom_finds(name: str) -> None:
    dataset = open_dataset(sample(name).read_bytes())
    expected = pydicom.dcmread(sample(name))
    elements = list(dataset.elements())
    assert [found.tag for found in elements] == [int(tag) for tag in sorted(expected.keys())]
    for found in elements:
        raw = expected.get_item(found.tag)
        if raw.is_raw and raw.value is not None and raw.length != UNDEFINED:
            assert bytes(dataset.value(found)) == raw.value


@pytest.mark.parametrize("name", ["MR_small_implicit.dcm", "rtplan.dcm", "rtdose.dcm", "liver_1frame.dcm", "priv_SQ.dcm"])
def test_implicit_vr_is_read_as_pydicom_reads_it(name: str) -> None:
    expected = pydicom.dcmread(sample(name))
    found = {found.tag: found.vr.decode() for found in open_dataset(sample(name).read_bytes()).elements()}
    assert found == {int(read.tag): str(read.VR) for read in expected}


def test_elements_are_adjacent_and_complete() -> None:
    data = NAME + sequence(0x00081032, item(NAME), undefined=True) + encapsulated(b"", b"\1\2")
    elements = list(walk(data))
    assert [found.offset for found in elements[1:]] == [found.next_offset for found in elements[:-1]]
    assert elements[-1].next_offset == len(data)


@pytest.mark.parametrize("undefined", [False, True])
def test_a_sequence_gives_the_same_structure_in_both_length_forms(undefined: bool) -> None:
    data = sequence(0x00081032, item(NAME, undefined=undefined), item(b"", undefined=undefined), undefined=undefined)
    assert parts(data) == [
        Part.SEQUENCE,
        Part.ITEM,
        Part.ELEMENT,
        Part.ITEM_END,
        Part.ITEM,
        Part.ITEM_END,
        Part.SEQUENCE_END,
    ]


def test_depth_counts_sequences() -> None:
    data = sequence(0x00081032, item(sequence(0x00400275, item(NAME)))) + NAME
    assert [token.depth for token in tokens(data) if token.part is Part.ELEMENT] == [2, 0]


def test_fragments_are_told_one_by_one() -> None:
    found = list(tokens(encapsulated(b"", b"\1\2\3\4")))
    assert [token.part for token in found] == [Part.FRAGMENTS, Part.FRAGMENT, Part.FRAGMENT, Part.FRAGMENTS_END]
    assert [token.length for token in found[1:3]] == [0, 4]


def test_un_of_undefined_length_holds_implicit_vr() -> None:
    content = item(implicit(0x00100010, b"Test^P"), undefined=True) + implicit(SEQUENCE_END)
    found = list(tokens(element(0x00091001, b"UN", content, length=UNDEFINED)))
    assert [(token.part, token.vr) for token in found if token.part is Part.ELEMENT] == [(Part.ELEMENT, b"UN")]


def test_big_endian_headers() -> None:
    data = struct.pack(">HH2sH", 0x0028, 0x0010, b"US", 2) + b"\0\2"
    (found,) = tokens(data, encoding=EXPLICIT_BIG)
    assert (found.tag, found.vr, found.length) == (0x00280010, b"US", 2)


def test_not_descending_jumps_over_sequences_of_defined_length() -> None:
    data = sequence(0x00081032, item(NAME)) + NAME
    found = [token.part for token in tokens(data, descend=False)]
    assert found == [Part.SEQUENCE, Part.SEQUENCE_END, Part.ELEMENT]


@pytest.mark.parametrize("undefined", [False, True])
def test_nesting_up_to_the_limit_is_read(undefined: bool) -> None:
    assert parts(nested(MAX_NESTING, undefined=undefined)).count(Part.SEQUENCE) == MAX_NESTING


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 10_000])
def test_deeper_nesting_is_malformed(depth: int, undefined: bool) -> None:
    with pytest.raises(MalformedError, match="nested"):
        parts(nested(depth, undefined=undefined))


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        pytest.param(NAME + b"\x10", 14, id="half a header"),
        pytest.param(element(0x00081032, b"SQ")[:10], 0, id="half a long header"),
        pytest.param(element(0x00100010, b"PN", b"ab", length=4), 0, id="value longer than the data"),
        pytest.param(element(0x7FE00010, b"OW", b"ab", length=0xFFFFFFFE), 0, id="4 GiB in a small file"),
        pytest.param(element(0x00100010, b"\0\0", b"ab"), 0, id="no VR"),
        pytest.param(element(0x00104000, b"UT", b"ab", length=UNDEFINED), 0, id="text of undefined length"),
        pytest.param(element(0x00081032, b"SQ", length=UNDEFINED), 12, id="sequence never closed"),
        pytest.param(element(0x00081032, b"SQ", NAME), 12, id="element where an item must be"),
        pytest.param(element(0x00081032, b"SQ", implicit(SEQUENCE_END)), 12, id="delimiter in a sequence of defined length"),
        pytest.param(sequence(0x00081032, implicit(0xFFFEE000, NAME, length=99)), 12, id="item longer than its sequence"),
        pytest.param(sequence(0x00081032, item(element(0x00100010, b"PN", length=2))), 20, id="value longer than its item"),
        pytest.param(implicit(ITEM_END), 0, id="stray item delimiter"),
        pytest.param(implicit(0xFFFEE000, b""), 0, id="stray item"),
        pytest.param(ENDLESS_FRAGMENT, 12, id="endless fragment"),
        pytest.param(sequence(0x00081032, undefined=True)[:-4] + b"\2\0\0\0ab", 12, id="sequence delimiter with a length"),
        pytest.param(
            sequence(0x00081032, item(b"", undefined=True)[:-4] + b"\2\0\0\0ab"), 20, id="item delimiter with a length"
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_malformed_at_its_offset(data: bytes, offset: int) -> None:
    with pytest.raises(MalformedError) as caught:
        parts(data)
    assert caught.value.offset == offset


def test_every_truncation_of_a_file_is_malformed_or_ends_between_elements() -> None:
    raw = sample("reportsi.dcm").read_bytes()
    dataset = open_dataset(raw)
    borders = {found.next_offset for found in dataset.elements()} | {dataset.start}
    for end in range(dataset.start, len(raw)):
        if end in borders:
            continue
        with pytest.raises(MalformedError):
            list(open_dataset(raw[:end]).tokens())


@given(st.binary(max_size=400), st.sampled_from([(True, True), (False, True), (True, False)]))
def test_garbage_is_read_or_malformed(data: bytes, encoding: tuple[bool, bool]) -> None:
    stopped: int | None = 0
    try:
        stopped = max((token.value_offset for token in tokens(data, encoding=Encoding(*encoding))), default=0)
    except MalformedError as error:
        stopped = error.offset
    assert stopped is not None
    assert stopped <= len(data)


@given(st.data())
def test_a_mutated_file_is_read_or_malformed(data: st.DataObject) -> None:
    raw = bytearray(sample("test-SR.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(132, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        list(open_dataset(bytes(raw)).tokens())
    except MalformedError:
        return


def test_part10_helper_is_what_the_reader_reads() -> None:
    assert open_dataset(part10(NAME)).transfer_syntax == EXPLICIT_LE
