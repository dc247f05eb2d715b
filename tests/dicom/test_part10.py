from __future__ import annotations

import mmap
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from securepacs.dicom.part10 import (
    compression_of,
    deflate,
    deflate_pieces,
    encoding_of,
    inflate,
    is_deflated,
    open_dataset,
    read_part10,
)
from securepacs.errors import MalformedError, UsageError
from tests.support.encoded import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, RLE, element, part10
from tests.support.samples import sample

DEFLATED = "1.2.840.10008.1.2.1.99"
NAME = element(0x00100010, b"PN", b"Test^P")


def test_the_head_of_a_file() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    head = read_part10(raw)
    assert head.transfer_syntax == EXPLICIT_LE
    assert raw[head.dataset_offset : head.dataset_offset + 2] == b"\x08\x00"
    assert head.meta[0x00020002].rstrip(b"\0") == b"1.2.840.10008.5.1.4.1.1.2"


def test_a_wrong_group_length_does_not_matter() -> None:
    raw = bytearray(part10(NAME))
    raw[140:144] = b"\xff\xff\0\0"
    assert [found.tag for found in open_dataset(bytes(raw)).elements()] == [0x00100010]


@pytest.mark.parametrize(
    ("syntax", "encoding"),
    [(EXPLICIT_LE, EXPLICIT_LITTLE), (IMPLICIT_LE, IMPLICIT_LITTLE), (EXPLICIT_BE, EXPLICIT_BIG), (RLE, EXPLICIT_LITTLE)],
)
def test_encodings(syntax: str, encoding: object) -> None:
    assert encoding_of(syntax) == encoding


def test_compression() -> None:
    assert [compression_of(syntax) for syntax in (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED)] == [""] * 4
    assert compression_of(RLE) == RLE
    assert is_deflated("1.2.840.10008.1.2.4.95")


@pytest.mark.parametrize(
    ("raw", "offset"),
    [
        pytest.param(b"", 0, id="empty"),
        pytest.param(bytes(131) + b"D", 128, id="zeros"),
        pytest.param(bytes(128) + b"DICM", 132, id="no meta information"),
        pytest.param(part10(NAME)[:140], 132, id="meta cut off"),
        pytest.param(bytes(128) + b"DICM" + element(0x00020002, b"UI", b"1.2\0") + NAME, 144, id="no transfer syntax"),
    ],
)
def test_what_is_no_file_is_malformed(raw: bytes, offset: int) -> None:
    with pytest.raises(MalformedError) as caught:
        read_part10(raw)
    assert caught.value.offset == offset


def test_a_deflated_file_is_inflated() -> None:
    dataset = open_dataset(part10(deflate(NAME), DEFLATED))
    assert [bytes(dataset.value(found)) for found in dataset.elements()] == [b"Test^P"]


@pytest.mark.parametrize("packed", [deflate(NAME * 50)[:-9], b"\xff\xff\xff\xff", b""])
def test_a_damaged_deflate_stream_is_malformed(packed: bytes) -> None:
    with pytest.raises(MalformedError):
        open_dataset(part10(packed, DEFLATED))


def test_a_deflate_bomb_is_refused() -> None:
    with pytest.raises(MalformedError, match="grows beyond"):
        inflate(deflate(bytes(3 << 20)), limit=2 << 20)


def test_a_large_deflated_data_set_is_kept_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    values = [bytes([number]) * 1000 for number in range(100)]
    data = b"".join(element(0x00090010 + number, b"OB", value) for number, value in enumerate(values))
    monkeypatch.setattr("securepacs.dicom.files._MOST_HELD", 1000)
    dataset = open_dataset(part10(deflate(data), DEFLATED))
    assert isinstance(dataset.view.obj, mmap.mmap)
    assert [bytes(dataset.value(found)) for found in dataset.elements()] == values
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="no place on the disk"):
        open_dataset(part10(deflate(data), DEFLATED))


@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_deflating_in_pieces_is_deflating_the_whole(pieces: list[bytes]) -> None:
    packed = b"".join(deflate_pieces(pieces))
    assert len(packed) % 2 == 0
    assert inflate(packed) == b"".join(pieces)


@given(st.binary(max_size=5000))
def test_deflate_round_trip(data: bytes) -> None:
    packed = deflate(data)
    assert len(packed) % 2 == 0
    assert inflate(packed) == data == zlib.decompressobj(-15).decompress(packed)
