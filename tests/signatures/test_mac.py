"""The MAC byte stream, first of all against a vector that dcmsign 3.6.7 accepts."""

from __future__ import annotations

import hashlib

import pytest

from securepacs.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Encoding, tokens
from securepacs.errors import MalformedError
from securepacs.signatures.check import HASHED
from securepacs.signatures.mac import BIT_EXACT, MacStream, Reading, UnsignableError, plan
from tests.support.encoded import element, encapsulated, implicit, item, sequence

VECTOR_DATASET = (
    element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0")
    + element(0x00080018, b"UI", b"1.2.3\0")
    + sequence(0x00081032, item(element(0x00080000, b"UL", b"\x0a\0\0\0") + element(0x00080100, b"SH", b"A ")))
    + element(0x00090010, b"LO", b"ACME")
    + element(0x00091001, b"UN", b"??")
    + element(0x00100010, b"PN", b"Test^P")
    + element(0x00280010, b"US", b"\2\0")
    + encapsulated(b"", b"\1\2\3\4")
)
VECTOR_TAGS = (0x00080016, 0x00080018, 0x00081032, 0x00090010, 0x00100010, 0x00280010, 0x7FE00010)
VECTOR_ITEM = (
    element(0x04000005, b"US", b"\0\0")
    + element(0x04000100, b"UI", b"1.2.3.4.5\0")
    + element(0x04000105, b"DT", b"20270101000000.000000+0000")
    + element(0x04000110, b"CS", b"X509_1993_SIG ")
    + element(0x04000115, b"OB", b"certificate.")
    + element(0x04000120, b"OB", b"signature.")
    + element(0x04000305, b"CS", b"CMS_TSP ")
    + element(0x04000310, b"OB", b"stamp.")
)
VECTOR_STREAM = bytes.fromhex(
    "0800160055491a00312e322e3834302e31303030382e352e312e342e312e312e"
    "37000800180055490600312e322e33000800321053510000feff00e008000001"
    "534802004120feffdde0090010004c4f040041434d4510001000504e06005465"
    "73745e5028001000555302000200e07f10004f420000feff00e0feff00e00102"
    "0304feffdde0000405005553020000000004000155490a00312e322e332e342e"
    "35000004050144541a0032303237303130313030303030302e3030303030302b"
    "303030300004100143530e00583530395f313939335f53494720"
)
VECTOR_SHA256 = "cb64ba7fb51620f58a4d29fae046657410e4980748747409c09be25355d6fd2a"
EVERYTHING = HASHED  # any tag but the four of the signature item


def stream(
    data: bytes, wanted: object = EVERYTHING, *, encoding: Encoding = EXPLICIT_LITTLE, reading: Reading = BIT_EXACT
) -> tuple[bytes, MacStream]:
    out = bytearray()
    mac = MacStream(out.extend, reading)
    mac.feed(memoryview(data), tokens(data, encoding=encoding), wanted, encoding)  # type: ignore[arg-type]
    return bytes(out), mac


def test_the_vector_holds_byte_for_byte() -> None:
    made = stream(VECTOR_DATASET, VECTOR_TAGS)[0] + stream(VECTOR_ITEM)[0]
    assert len(VECTOR_STREAM) == 218
    assert made == VECTOR_STREAM
    assert hashlib.sha256(made).hexdigest() == VECTOR_SHA256


@pytest.mark.parametrize("undefined", [False, True])
def test_length_forms_give_the_same_stream(undefined: bool) -> None:
    content = item(element(0x00080100, b"SH", b"A "), undefined=undefined)
    made, _ = stream(sequence(0x00081032, content, content, undefined=undefined))
    assert made == bytes.fromhex("0800321053510000") + bytes.fromhex("feff00e0080000015348020041 20") * 2 + bytes.fromhex(
        "feffdde0"
    )


def test_an_empty_sequence() -> None:
    assert stream(sequence(0x00081032))[0] == bytes.fromhex("0800321053510000feffdde0")


def test_inner_signatures_and_group_lengths_are_left_out_and_told() -> None:
    inner = sequence(0x4FFE0001, item(element(0x04000005, b"US", b"\0\0")))
    kept = element(0x00080100, b"SH", b"A ")
    signed = sequence(0xFFFAFFFA, item(element(0x04000005, b"US", b"\0\0")))
    made, mac = stream(sequence(0x00081032, item(kept + inner + signed)))
    assert made == stream(sequence(0x00081032, item(kept)))[0]
    (span,) = mac.skipped
    assert span[1] - span[0] == len(inner + signed)


def test_elements_that_may_never_be_signed_are_left_out_even_when_listed() -> None:
    data = element(0x00080000, b"UL", b"\0\0\0\0") + element(0x00080001, b"UL", b"\0\0\0\0") + element(0xFFFCFFFC, b"OB", b"\0\0")
    assert stream(data)[0] == b""


@pytest.mark.parametrize("deep", [False, True])
def test_un_spoils_the_whole_sequence(deep: bool) -> None:
    unknown = element(0x00091001, b"UN", b"??")
    content = sequence(0x00400275, item(unknown)) if deep else unknown
    with pytest.raises(UnsignableError) as caught:
        stream(sequence(0x00081032, item(content)))
    assert isinstance(caught.value, MalformedError)


def test_only_wanted_tags_are_emitted_and_seen() -> None:
    data = element(0x00080018, b"UI", b"1.2.3\0") + element(0x00100010, b"PN", b"Test^P")
    made, mac = stream(data, {0x00100010, 0x00100020})
    assert made == element(0x00100010, b"PN", b"Test^P")
    assert list(mac.seen) == [0x00100010]


def test_implicit_vr_is_hashed_as_explicit() -> None:
    made, _ = stream(implicit(0x00100010, b"Test^P") + implicit(0x00281052, b"1 "), encoding=IMPLICIT_LITTLE)
    assert made == element(0x00100010, b"PN", b"Test^P") + element(0x00281052, b"DS", b"1 ")


def test_implicit_vr_pixel_data_are_ow() -> None:
    assert stream(implicit(0x7FE00010, b"\1\2"), encoding=IMPLICIT_LITTLE)[0] == element(0x7FE00010, b"OW", b"\1\2")


def test_a_value_too_long_for_its_explicit_vr_cannot_be_hashed() -> None:
    with pytest.raises(UnsignableError, match="explicit VR form"):
        stream(implicit(0x00281052, bytes(65536)), encoding=IMPLICIT_LITTLE)


def test_big_endian_is_hashed_as_little_endian() -> None:
    data = bytes.fromhex("00280010 5553 0002 0002") + bytes.fromhex("7fe00010 4f57 0000 00000004 01020304")
    made, _ = stream(data, encoding=EXPLICIT_BIG)
    assert made == element(0x00280010, b"US", b"\2\0") + element(0x7FE00010, b"OW", b"\2\1\4\3")


def test_a_reserved_field_of_big_endian_is_hashed_as_it_stands() -> None:
    data = bytes.fromhex("00081032 5351 0200 00000000 7fe00010 4f57 0001 00000004 01020304")
    made, _ = stream(data, encoding=EXPLICIT_BIG)
    assert made == bytes.fromhex("08003210 5351 0200 feffdde0 e07f1000 4f57 0001 04000000 02010403")


def test_encapsulated_data_are_ob_whatever_the_file_says() -> None:
    made, mac = stream(encapsulated(b"", b"\1\2", vr=b"OW"))
    assert made == stream(encapsulated(b"", b"\1\2"))[0]
    assert mac.skipped == [(4, 6)]  # the VR is not hashed, and can change


def test_the_old_fragment_reading_includes_lengths() -> None:
    made, mac = stream(encapsulated(b"", b"\1\2"), reading=Reading(fragment_lengths=True))
    assert made == bytes.fromhex("e07f10004f420000 feff00e000000000 feff00e0020000000102 feffdde0")
    assert mac.fragmented


@pytest.mark.parametrize(
    ("vr", "stored", "trimmed"),
    [
        (b"LO", b"ACME  ", b"ACME"),
        (b"LO", b"ACM   ", b"ACM "),
        (b"LO", b"      ", b""),
        (b"LO", b"ACM\0\0\0", b"ACM "),
        (b"UI", b"1.2\0\0\0", b"1.2\0"),
        (b"LO", b"ACM\0", b"ACM "),
    ],
)
def test_the_trimmed_reading_drops_surplus_padding(vr: bytes, stored: bytes, trimmed: bytes) -> None:
    exact, mac = stream(element(0x00080080, vr, stored))
    assert exact == element(0x00080080, vr, stored)
    assert mac.padded
    assert stream(element(0x00080080, vr, stored), reading=Reading(trimmed=True))[0] == element(0x00080080, vr, trimmed)


@pytest.mark.parametrize(
    ("vr", "value"), [(b"LO", b"ACME"), (b"LO", b"ACM "), (b"UI", b"1.2\0"), (b"OB", b"\0\0"), (b"US", b"\0\0"), (b"LO", b"")]
)
def test_canonical_values_are_not_called_padded(vr: bytes, value: bytes) -> None:
    made, mac = stream(element(0x00080080, vr, value), reading=Reading(trimmed=True))
    assert not mac.padded
    assert made == element(0x00080080, vr, value)


def test_neighbours_are_hashed_in_one_go() -> None:
    spans: list[bytes] = []
    data = element(0x00080018, b"UI", b"1.2.3\0") + element(0x00100010, b"PN", b"Test^P") + element(0x7FE00010, b"OW", bytes(100))
    MacStream(lambda span: spans.append(bytes(span))).feed(memoryview(data), tokens(data), EVERYTHING, EXPLICIT_LITTLE)
    assert spans == [data]


@pytest.mark.parametrize(
    "data", [VECTOR_DATASET, VECTOR_DATASET.replace(b"Test^P", b"Test  "), VECTOR_DATASET.replace(b"A ", b"  ")]
)
@pytest.mark.parametrize("wanted", [frozenset(VECTOR_TAGS), frozenset(VECTOR_TAGS[2:5]), frozenset({0x7FE00010}), frozenset[int]()])
def test_a_planned_stream_is_the_fed_one(data: bytes, wanted: frozenset[int]) -> None:
    planned = plan(list(tokens(VECTOR_DATASET)), wanted)  # of a data set that is laid out alike
    out = bytearray()
    followed = MacStream(out.extend)
    followed.follow(memoryview(data), planned)
    made, fed = stream(data, wanted)
    assert bytes(out) == made
    for name in ("padded", "fragmented", "guessed", "skipped", "seen"):
        assert getattr(followed, name) == getattr(fed, name)


def test_what_cannot_be_signed_cannot_be_planned() -> None:
    data = sequence(0x00081032, item(element(0x00091001, b"UN", b"??")))
    with pytest.raises(UnsignableError):
        plan(list(tokens(data)), frozenset({0x00081032}))
