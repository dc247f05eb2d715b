"""What instances become when they leave: another encoding and status, the same content."""

from __future__ import annotations

import pytest

from securepacs.dicom import read_part10
from securepacs.errors import UsageError
from securepacs.originals import SOPInstanceStatus, content_digest, read_stamp, stamp
from securepacs.publishing.leaving import as_it_leaves, explicit, with_own_meta
from tests.support import encoded as wire
from tests.support.pki import make_pki
from tests.support.samples import new_instance, sample

EXPLICIT = "1.2.840.10008.1.2.1"


NATIVE = ["MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "rtplan.dcm", "rtdose.dcm", "ExplVR_BigEnd.dcm"]


@pytest.mark.parametrize("name", NATIVE)
def test_another_encoding_is_the_same_content(name: str) -> None:
    data = sample(name).read_bytes()
    written = bytes(explicit(data))
    assert read_part10(written).transfer_syntax == EXPLICIT
    assert content_digest(written) == content_digest(data)
    assert explicit(written) is written


@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm"])
def test_what_needs_no_change_stays_the_same_object(name: str) -> None:
    data = new_instance(name, 1)
    assert as_it_leaves(data) is data


@pytest.mark.parametrize("undefined", [False, True])
def test_private_sequences_keep_their_structure(undefined: bool) -> None:
    """Scanners write them in Implicit VR, where nothing says that they are sequences."""
    inner = wire.implicit(0x20051001, b"inside")
    items = wire.item(inner, undefined=undefined) + wire.item(inner, undefined=undefined)
    sequence = wire.implicit(0x20051180, items + wire.implicit(wire.SEQUENCE_END), length=wire.UNDEFINED)
    private = wire.implicit(0x20050010, b"NOBODY KNOWS ME ") + (sequence if undefined else wire.implicit(0x20051180, items))
    data = implicit_file(private)
    assert content_digest(explicit(data)) == content_digest(data)


def test_an_instance_that_would_change_is_refused() -> None:
    """A value of VR US with an odd number of bytes cannot be written down again as it is."""
    with pytest.raises(UsageError, match="cannot be written"):
        explicit(implicit_file(wire.implicit(0x00280010, b"\x01\x02\x03")))


def implicit_file(*elements: bytes) -> bytes:
    """Return a file in Implicit VR Little Endian with the UIDs it needs."""
    uids = wire.implicit(0x00080016, b"1.2.840.10008.5.1.4.1.1.7\0") + wire.implicit(0x00080018, b"1.2.3.4\0")
    return bytes(128) + b"DICM" + wire.element(0x00020010, b"UI", b"1.2.840.10008.1.2\0") + uids + b"".join(elements)


@pytest.mark.parametrize("status", [SOPInstanceStatus.OR, SOPInstanceStatus.AO, SOPInstanceStatus.AC])
def test_a_status_is_taken_off_with_its_companions(status: SOPInstanceStatus, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = new_instance("CT_small.dcm", 1)
    stamped = stamp(data, status, at=make_pki(tmp_path_factory.mktemp("pki")).now, equipment="WS 9", comment="fine")
    left = bytes(as_it_leaves(stamped))
    assert read_stamp(left).status is SOPInstanceStatus.NS
    assert (read_stamp(left).equipment, read_stamp(left).authorization_datetime) == ("", "")
    assert content_digest(left) == content_digest(data)


def test_meta_information_of_its_own_stays_byte_for_byte() -> None:
    data = new_instance("CT_small.dcm", 1)
    assert with_own_meta(data) is data
