from __future__ import annotations

import struct
from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.dicom.edit import encode_element, format_path, replace_elements, splice, swap_words
from securepacs.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, tokens
from securepacs.dicom.part10 import open_dataset
from securepacs.errors import MalformedError, UsageError
from tests.support.encoded import element, item, part10, sequence
from tests.support.samples import sample
from tests.support.signing import ENCAPSULATED, NATIVE

STATUS = 0x01000410
NAME = element(0x00100010, b"PN", b"Test^P")
PRIVATE = element(0x00090010, b"LO", b"ACME")


@pytest.mark.parametrize("name", NATIVE + ENCAPSULATED)
def test_inserting_and_removing_gives_the_file_back(name: str) -> None:
    raw = sample(name).read_bytes()
    encoding = open_dataset(raw).encoding
    stamped = replace_elements(raw, {STATUS: encode_element(STATUS, b"CS", b"AO", encoding)})
    assert pydicom.dcmread(BytesIO(stamped)).SOPInstanceStatus == "AO"
    back = open_dataset(replace_elements(stamped, {STATUS: None}))
    before = open_dataset(raw)
    assert bytes(back.view[back.start :]) == bytes(before.view[before.start :])


def test_replacing_changes_nothing_else() -> None:
    raw = part10(PRIVATE + NAME)
    assert replace_elements(raw, {0x00100010: element(0x00100010, b"PN", b"Doe^Jo")}) == raw.replace(b"Test^P", b"Doe^Jo")


def test_several_changes_at_once_in_tag_order() -> None:
    new = {0x00080005: element(0x00080005, b"CS", b"ISO_IR 100"), 0x00100020: element(0x00100020, b"LO", b"42"), 0x00090010: None}
    changed = replace_elements(part10(PRIVATE + NAME), new)
    assert changed == part10(new[0x00080005] + NAME + new[0x00100020])


def test_removing_what_is_not_there_changes_nothing() -> None:
    raw = part10(NAME)
    assert replace_elements(raw, {STATUS: None}) == raw


def test_a_group_length_follows() -> None:
    def grouped(body: bytes) -> bytes:
        return part10(element(0x00100000, b"UL", struct.pack("<I", len(body))) + body)

    assert replace_elements(grouped(NAME), {0x00100020: element(0x00100020, b"LO", b"42")}) == grouped(
        NAME + element(0x00100020, b"LO", b"42")
    )


@pytest.mark.parametrize("undefined", [False, True])
def test_lengths_around_an_edited_item_follow(undefined: bool) -> None:
    new = element(0x00100020, b"LO", b"42")

    def file(inner: bytes) -> bytes:
        deep = sequence(0x00400275, item(PRIVATE), item(inner, undefined=undefined), undefined=undefined)
        top = sequence(0x00081032, item(deep), undefined=undefined)
        lengths = element(0x00080000, b"UL", struct.pack("<I", len(top)))
        return part10(lengths + top + PRIVATE)

    dataset = open_dataset(file(NAME))
    pieces = splice(dataset, {0x00100020: new}, path=((0x00081032, 0), (0x00400275, 1)))
    assert bytes(dataset.view[: dataset.start]) + b"".join(pieces) == file(NAME + new)


@pytest.mark.parametrize("path", [((0x00081032, 1),), ((0x00400275, 0),), ((0x00100010, 0),), ((0x00081032, 0), (0x00400275, 0))])
def test_an_item_that_is_not_there_is_a_usage_error(path: tuple[tuple[int, int], ...]) -> None:
    dataset = open_dataset(part10(sequence(0x00081032, item(NAME)) + NAME))
    with pytest.raises(UsageError, match="no item"):
        splice(dataset, {0x00100020: NAME}, path=path)


def test_the_first_item_is_not_taken_for_the_second() -> None:
    dataset = open_dataset(part10(sequence(0x00081032, item(PRIVATE), item(NAME))))
    pieces = splice(dataset, {0x00100010: None}, path=((0x00081032, 1),))
    assert b"".join(pieces) == sequence(0x00081032, item(PRIVATE), item(b""))


@pytest.mark.parametrize("encoding", [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG])
@given(
    case=st.sampled_from([(0x00280010, b"US", 2), (0x00189087, b"FD", 8), (0x00100010, b"PN", 1), (0x00281200, b"OW", 2)]),
    count=st.integers(0, 6),
)
def test_an_encoded_element_is_read_back(encoding: object, case: tuple[int, bytes, int], count: int) -> None:
    tag, vr, size = case
    value = bytes(range(65, 65 + size * count))
    raw = encode_element(tag, vr, value, encoding)  # type: ignore[arg-type]
    (found,) = tokens(raw, encoding=encoding)  # type: ignore[arg-type]
    stored = raw[found.value_offset : found.value_offset + found.length]
    read = stored if encoding != EXPLICIT_BIG else swap_words(stored, vr)
    assert (found.tag, read.rstrip(b" ")) == (tag, value)
    assert len(raw) % 2 == 0


@pytest.mark.parametrize(("vr", "value", "swapped"), [(b"US", b"\1\2", b"\2\1"), (b"FD", bytes(range(8)), bytes(range(7, -1, -1))),
                                                      (b"AT", b"\1\2\3\4", b"\2\1\4\3"), (b"LO", b"ab", b"ab")])  # fmt: skip
def test_words_are_swapped_by_their_size(vr: bytes, value: bytes, swapped: bytes) -> None:
    assert swap_words(value, vr) == swapped


def test_half_a_word_is_malformed() -> None:
    with pytest.raises(MalformedError, match="whole words"):
        swap_words(b"\1\2\3", b"US")


def test_a_short_form_value_has_its_limit() -> None:
    with pytest.raises(UsageError, match="65536"):
        encode_element(0x00100010, b"PN", bytes(65536), EXPLICIT_LITTLE)


def test_paths_are_written_as_the_command_line_takes_them() -> None:
    assert format_path(((0x0040A730, 0), (0x0040A043, 2))) == "0040A730[0]/0040A043[2]"
