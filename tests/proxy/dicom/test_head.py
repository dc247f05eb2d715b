"""Heads and identifiers: found in every encoding, refused when two readers could differ, the same for every split."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from securepacs.codes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from securepacs.errors import MalformedError
from securepacs_proxy.dicom import head, query
from securepacs_proxy.dicom.head import HeadReader
from tests.support.dicom_wire import encode, identifier, image

SYNTAXES = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]


def rich(*, undefined: bool) -> Dataset:
    """A data set with nested sequences before the Study Instance UID."""
    inner = Dataset()
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = "1.2.8", "1.2.8.1"
    inner.StudyInstanceUID = "9.9.9"  # not the one looked for
    outer = Dataset()
    outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
    outer["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined
    for each in (inner, outer):
        each.is_undefined_length_sequence_item = undefined
    dataset = image()
    dataset.ReferencedImageSequence = Sequence([outer, outer])
    dataset["ReferencedImageSequence"].is_undefined_length = undefined
    dataset.PatientComments = "x" * 300
    return dataset


def read(data: bytes, syntax: str, lengths: list[int] | None = None, limit: int = 65536) -> dict[int, bytes] | str:
    reader = HeadReader(syntax, limit=limit)
    try:
        for length in [*(lengths or []), len(data)]:
            piece, data = data[:length], data[length:]
            if piece and reader.feed(memoryview(piece)):
                return reader.values
        reader.finish()
    except MalformedError as error:
        return error.message.split(" at byte")[0]
    return reader.values


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_values_are_found_behind_sequences(syntax: str, undefined: bool) -> None:
    values = read(encode(rich(undefined=undefined), syntax), syntax)
    assert isinstance(values, dict)
    assert head.uid_value(values, head.STUDY_INSTANCE_UID) == "1.2.3"
    assert head.text_value(values, head.PATIENT_ID) == "PAT1"
    assert head.text_value(values, head.ACCESSION_NUMBER) == "ACC1"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", "1.2.826.0.1.9999"])
def test_other_transfer_syntaxes_are_explicit_little_endian(syntax: str) -> None:
    assert isinstance(read(encode(image(), EXPLICIT_VR_LITTLE_ENDIAN), syntax), dict)


def test_reading_stops_at_the_study_and_ignores_what_follows() -> None:
    reader = HeadReader(IMPLICIT_VR_LITTLE_ENDIAN)
    assert reader.feed(encode(image()) + b"\xff" * 100_000)
    assert reader.feed(b"more")


def test_a_head_without_study_is_complete_at_the_next_element() -> None:
    dataset = image()
    del dataset.StudyInstanceUID
    dataset.InstanceNumber = 1
    values = read(encode(dataset), IMPLICIT_VR_LITTLE_ENDIAN)
    assert isinstance(values, dict)
    assert head.STUDY_INSTANCE_UID not in values


splits = st.lists(st.integers(1, 60), max_size=60)


@given(lengths=splits, undefined=st.booleans(), syntax=st.sampled_from(SYNTAXES))
def test_any_split_finds_the_same(lengths: list[int], undefined: bool, syntax: str) -> None:
    data = encode(rich(undefined=undefined), syntax)
    assert read(data, syntax, lengths) == read(data, syntax)


@given(
    lengths=splits, syntax=st.sampled_from(SYNTAXES), position=st.integers(0, 3000), bit=st.integers(0, 7), cut=st.integers(0, 900)
)
def test_any_split_of_damage_ends_the_same(lengths: list[int], syntax: str, position: int, bit: int, cut: int) -> None:
    data = bytearray(encode(rich(undefined=True), syntax))
    data[position % len(data)] ^= 1 << bit
    damaged = bytes(data[: len(data) - cut % len(data)])
    assert read(damaged, syntax, lengths, 1024) == read(damaged, syntax, limit=1024)


@given(data=st.binary(max_size=400), syntax=st.sampled_from([*SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN]))
def test_garbage_is_read_or_refused(data: bytes, syntax: str) -> None:
    read(data, syntax)


def explicit(tag: str, vr: bytes, value: bytes) -> bytes:
    number = bytes.fromhex(tag)
    return number[1::-1] + number[3:1:-1] + vr + len(value).to_bytes(2, "little") + value


UNDEFINED = b"\xff\xff\xff\xff"
ITEM, ITEM_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        pytest.param(explicit("00080018", b"UI", b"1\0") * 2, "duplicate", id="duplicate"),
        pytest.param(explicit("00100020", b"LO", b"1 ") + explicit("00080018", b"UI", b"1\0"), "unordered", id="unordered"),
        pytest.param(explicit("00020010", b"UI", b"1\0"), "misplaced", id="file meta information"),
        pytest.param(explicit("00080018", b"xx", b"1\0"), "unknown VR", id="VR"),
        pytest.param(explicit("00080018", b"UI", b"1\0")[:-1], "ends inside", id="cut value"),
        pytest.param(explicit("00080018", b"UI", b"1\0")[:5], "ends inside", id="cut header"),
        pytest.param(b"\x08\0\x40\x11SQ\0\0", "ends inside", id="cut long header"),
        pytest.param(b"\x08\0\x40\x11SQ\0\0" + UNDEFINED, "ends inside", id="open sequence"),
        pytest.param(b"\x08\0\x40\x11UT\0\0" + UNDEFINED, "VR that forbids", id="undefined length of UT"),
        pytest.param(b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + explicit("00080018", b"UI", b""), "outside an item", id="no item"),
        pytest.param(b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + ITEM_END, "structure", id="item end in a sequence"),
        pytest.param(b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + b"\xfe\xff\xdd\xe0\x01\0\0\0", "structure", id="end with a length"),
        pytest.param(b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + (ITEM + UNDEFINED) * 2, "structure", id="item in an item"),
        pytest.param((b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + ITEM + UNDEFINED) * 20, "too deep", id="depth"),
        pytest.param(explicit("00080050", b"SH", b"x" * 5000), "too long", id="a long identifying value"),
        pytest.param(b"\xfe\xff\x00\xe0\0\0\0\0", "outside a sequence", id="item at the top of an identifier"),
    ],
)
def test_what_could_be_read_differently_is_refused(data: bytes, word: str) -> None:
    found = read(data, EXPLICIT_VR_LITTLE_ENDIAN)
    if data.startswith(ITEM):
        with pytest.raises(MalformedError, match=word):
            head.read_identifier(data, EXPLICIT_VR_LITTLE_ENDIAN, limit=100)
    else:
        assert isinstance(found, str)
        assert word in found


def test_un_of_undefined_length_holds_implicit_items() -> None:
    element = b"\x10\0\x20\0" + (2).to_bytes(4, "little") + b"X "
    data = b"\x08\0\x40\x11UN\0\0" + UNDEFINED + ITEM + UNDEFINED + element + ITEM_END + b"\xfe\xff\xdd\xe0\0\0\0\0"
    values = read(data + explicit("00100020", b"LO", b"PAT1") + explicit("0020000d", b"UI", b"1.2\0"), EXPLICIT_VR_LITTLE_ENDIAN)
    assert isinstance(values, dict)
    assert head.text_value(values, head.PATIENT_ID) == "PAT1"


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


@given(lengths=splits)
def test_deflated_heads_are_inflated(lengths: list[int]) -> None:
    values = read(deflated(encode(rich(undefined=True), EXPLICIT_VR_LITTLE_ENDIAN)), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, lengths)
    assert isinstance(values, dict)
    assert head.text_value(values, head.PATIENT_ID) == "PAT1"


def test_a_deflate_bomb_is_refused() -> None:
    bomb = deflated(b"\x08\0\x08\0UN\0\0\xf0\xff\xff\x0f" + bytes(50_000_000))
    assert read(bomb, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN) == "head of the data set is not complete within 65536 bytes"


def test_damaged_deflate_is_refused() -> None:
    assert read(b"\xff" * 50, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN) == "deflated data set is damaged"


def test_a_head_at_the_limit_is_read_and_one_behind_it_refused() -> None:
    data = encode(image(PatientComments="x" * 500))
    complete = len(data)
    assert isinstance(read(data, IMPLICIT_VR_LITTLE_ENDIAN, limit=complete), dict)
    assert isinstance(read(data, IMPLICIT_VR_LITTLE_ENDIAN, limit=complete - 1), str)


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        (b"", b"PAT1 ", "PAT1"),
        (b"ISO_IR 192", "환자".encode(), "환자"),
        (b"ISO_IR 100", b"M\xfcller", "Müller"),
        (b"\\ISO 2022 IR 149", b"\x1b$)C\xc8\xaf", "환"),
        (b"zlib_codec", b"\xff1", "ÿ1"),  # no character set of the standard: the default repertoire
        (b"", b"a\x1b[2Jb", None),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_text_is_decoded_and_printable(charset: bytes, raw: bytes, text: str | None) -> None:
    value = head.text_value({head.SPECIFIC_CHARACTER_SET: charset, head.PATIENT_ID: raw}, head.PATIENT_ID)
    assert value.isprintable()
    if text is not None:
        assert value == text


# --- identifiers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"PatientID": "PAT1"}, {"PatientID"}),
        ({"PatientID": "PAT*"}, set()),
        ({"PatientID": "P?T1"}, set()),
        ({"PatientName": "Kim^Min*"}, {"PatientName"}),
        ({"PatientName": "K*"}, set()),
        ({"PatientName": "*Kim"}, set()),
        ({"PatientName": "^"}, set()),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate"}),
        ({"PatientBirthDate": "19000101-20991231"}, set()),
        ({"StudyInstanceUID": ["1.2", "1.3"]}, {"StudyInstanceUID"}),
        ({"AccessionNumber": "", "StudyDate": ""}, set()),
    ],
)
def test_a_key_counts_when_it_names_something(keys: dict[str, str], named: set[str]) -> None:
    asked = query.read(identifier(SpecificCharacterSet="ISO_IR 100", **keys), IMPLICIT_VR_LITTLE_ENDIAN, limit=10_000)
    assert (asked.level, asked.keys) == ("STUDY", named)


def test_an_unknown_key_is_named_by_its_tag() -> None:
    dataset = Dataset()
    dataset.add_new(0x00091001, "LO", "x")
    assert query.read(encode(dataset), IMPLICIT_VR_LITTLE_ENDIAN, limit=1000).keys == {"00091001"}


@pytest.mark.parametrize("uid", ["1.2.x", "1.2*"])
def test_a_study_that_is_no_uid_is_refused(uid: str) -> None:
    raw = encode(Dataset()) + b"\x20\0\x0d\0" + (6).to_bytes(4, "little") + uid.encode().ljust(6, b"\0")
    with pytest.raises(MalformedError, match="not a UID"):
        query.read(raw, IMPLICIT_VR_LITTLE_ENDIAN, limit=1000)
