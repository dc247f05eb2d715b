"""Secure references by MAC: the vector of a foreign implementation's byte stream, and every way to disagree."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.dicom import open_dataset
from securepacs.errors import IntegrityFailure
from securepacs.originals.stamp import stamp
from securepacs.originals.states import SOPInstanceStatus
from securepacs.signatures.references import check_mac, mac_of
from tests.support.samples import sample

# MAC byte stream that dcmsign 3.6.7 writes (+d) for the data set below, without the fields of its signature item
STREAM = bytes.fromhex(
    "0800160055491a00312e322e3834302e31303030382e352e312e342e312e312e37000800180055490600312e322e33000800321053510000feff00e0"
    "08000001534802004120feffdde0090010004c4f040041434d4510001000504e0600546573745e5028001000555302000200e07f10004f420000feff"
    "00e0feff00e001020304feffdde0"
)


def short(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def vector() -> bytes:
    """The data set of the vector: RLE, explicit VR, one sequence with a group length, one UN, one private creator, fragments."""
    item = short(0x00080000, b"UL", b"\x0a\0\0\0") + short(0x00080100, b"SH", b"A ")
    sequence = (
        b"\x08\0\x32\x10SQ\0\0" + struct.pack("<I", len(item) + 8) + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item
    )
    unknown = b"\x09\0\x01\x10UN\0\0" + struct.pack("<I", 2) + b"zz"
    pixels = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\4\0\0\0\1\2\3\4"
    dataset = (
        short(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0")
        + short(0x00080018, b"UI", b"1.2.3\0")
        + sequence
        + short(0x00090010, b"LO", b"ACME")
        + unknown
        + short(0x00100010, b"PN", b"Test^P")
        + short(0x00280010, b"US", b"\2\0")
        + pixels
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    meta = short(0x00020010, b"UI", b"1.2.840.10008.1.2.5\0")
    return b"\0" * 128 + b"DICM" + meta + dataset


def test_the_mac_is_the_digest_of_the_stream_that_dcmtk_signs() -> None:
    reference = mac_of(vector())
    assert reference.mac == hashlib.sha256(STREAM).digest()
    assert reference.tags == (0x00080016, 0x00080018, 0x00081032, 0x00090010, 0x00100010, 0x00280010, 0x7FE00010)
    assert (reference.transfer_syntax, reference.algorithm) == ("1.2.840.10008.1.2.5", "SHA256")


@pytest.mark.parametrize("algorithm", ["SHA384", "SHA512"])
def test_stronger_hashes_are_accepted(algorithm: str) -> None:
    mac = hashlib.new(algorithm.lower(), STREAM).digest()
    check_mac(vector(), replace(mac_of(vector()), algorithm=algorithm, mac=mac))


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("CT_small.dcm", "1.2.840.10008.1.2.1"),
        ("MR_small_implicit.dcm", "1.2.840.10008.1.2.1"),
        ("MR_small_bigendian.dcm", "1.2.840.10008.1.2.1"),
        ("image_dfl.dcm", "1.2.840.10008.1.2.1"),
        ("MR_small_RLE.dcm", "1.2.840.10008.1.2.5"),
        ("JPEG2000.dcm", "1.2.840.10008.1.2.4.91"),
    ],
)
def test_a_file_agrees_with_its_own_reference(name: str, syntax: str) -> None:
    raw = sample(name).read_bytes()
    reference = mac_of(raw)
    assert reference.transfer_syntax == syntax
    check_mac(raw, reference)


def test_byte_order_and_vr_form_do_not_matter() -> None:
    assert mac_of(sample("MR_small_bigendian.dcm").read_bytes()).mac == mac_of(sample("MR_small.dcm").read_bytes()).mac


def test_status_attributes_are_left_out() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    from datetime import UTC, datetime

    stamped = stamp(raw, SOPInstanceStatus.AO, at=datetime(2027, 1, 1, tzinfo=UTC), equipment="7", comment="c")
    assert mac_of(stamped) == mac_of(raw)


@given(st.integers(0, 2**31), st.integers(1, 255))
def test_any_flipped_pixel_is_noticed(position: int, by: int) -> None:
    raw = bytearray(sample("MR_small.dcm").read_bytes())
    reference = mac_of(bytes(raw))
    pixels = next(element for element in open_dataset(bytes(raw)).elements() if element.tag == 0x7FE00010)
    raw[pixels.value_offset + position % pixels.length] ^= by
    with pytest.raises(IntegrityFailure, match="differs"):
        check_mac(bytes(raw), reference)


def test_an_element_that_was_added_is_noticed() -> None:
    with pytest.raises(IntegrityFailure, match=r"leaves out 1 elements of the instance, first \(0010,0010\)"):
        check_mac(vector(), replace(mac_of(vector()), tags=tuple(tag for tag in mac_of(vector()).tags if tag != 0x00100010)))


@pytest.mark.parametrize("algorithm", ["MD5", "SHA1", "RIPEMD160", "SHA224", ""])
def test_other_hashes_are_refused(algorithm: str) -> None:
    with pytest.raises(IntegrityFailure, match="MAC algorithm"):
        check_mac(vector(), replace(mac_of(vector()), algorithm=algorithm))


def test_another_transfer_syntax_is_refused() -> None:
    with pytest.raises(IntegrityFailure, match="transfer syntax"):
        check_mac(vector(), replace(mac_of(vector()), transfer_syntax="1.2.840.10008.1.2.1"))
