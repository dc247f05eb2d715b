"""The picture on the report page, compared with DCMTK's rendering of the same file."""

from __future__ import annotations

import struct
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import pytest

from securepacs.cli.preview import NoPreviewError, png_of
from tests.support.encoded import element, part10
from tests.support.programs import dcmtk
from tests.support.samples import sample


def pixels_of(png: bytes) -> tuple[int, int, int, bytes]:
    """Return width, height, samples and pixels of a PNG as `png_of` writes it; checks every CRC."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        at += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8
    samples = 3 if colour == 2 else 1
    raw = zlib.decompress(chunks[b"IDAT"])
    lines = [raw[at : at + 1 + width * samples] for at in range(0, len(raw), 1 + width * samples)]
    assert len(lines) == height
    assert {line[0] for line in lines} == {0}
    return width, height, samples, b"".join(line[1:] for line in lines)


def rendered(path: Path, tmp_path: Path, *options: str) -> tuple[int, int, int, bytes]:
    """Return what dcm2pnm draws."""
    source = path
    if "RLE" in path.name or "rle" in path.name:
        source = tmp_path / "plain.dcm"
        subprocess.run([dcmtk("dcmdrle"), path, source], check=True, timeout=30)
    subprocess.run([dcmtk("dcm2pnm"), *options, source, tmp_path / "out.pnm"], check=True, timeout=30, capture_output=True)
    kind, size, depth, pixels = (tmp_path / "out.pnm").read_bytes().split(b"\n", 3)
    assert depth == b"255"
    width, height = map(int, size.split())
    return width, height, 3 if kind == b"P6" else 1, pixels


@pytest.mark.interop
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CT_small.dcm", ["+Wm"]),
        ("MR_small.dcm", ["+Wi", "1"]),
        ("MR_small_RLE.dcm", ["+Wi", "1"]),
        ("MR_small_bigendian.dcm", ["+Wi", "1"]),
        ("MR_small_implicit.dcm", ["+Wi", "1"]),
        ("SC_rgb_rle_2frame.dcm", []),
        ("SC_rgb_rle.dcm", []),
        ("SC_rgb_small_odd.dcm", []),
    ],
)
def test_it_looks_like_what_dcmtk_draws(name: str, options: list[str], tmp_path: Path) -> None:
    width, height, samples, mine = pixels_of(png_of(sample(name).read_bytes()))
    theirs = rendered(sample(name), tmp_path, *options)
    assert theirs[:3] == (width, height, samples)
    difference = [abs(one - other) for one, other in zip(mine, theirs[3], strict=True)]
    assert max(difference) <= 3
    assert sum(difference) / len(difference) < 1


def test_a_large_image_is_scaled_down() -> None:
    width, height, _, _ = pixels_of(png_of(sample("CT_small.dcm").read_bytes(), side=50))
    assert 40 < max(width, height) <= 50


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("JPEG2000.dcm", "compressed"),
        ("reportsi.dcm", "no image"),
        ("SC_ybr_full_422_uncompressed.dcm", "not drawn"),
        ("liver_1frame.dcm", "not drawn"),
    ],
)
def test_what_is_not_drawn_has_a_reason(name: str, why: str) -> None:
    raw = sample(name).read_bytes()
    with pytest.raises(NoPreviewError, match=why):
        png_of(raw)


def image(pixels: bytes, *, rows: int = 4, columns: int = 4, more: bytes = b"") -> bytes:
    def us(tag: int, value: int) -> bytes:
        return element(tag, b"US", struct.pack("<H", value))

    head = us(0x00280002, 1) + element(0x00280004, b"CS", b"MONOCHROME1 ") + us(0x00280010, rows) + us(0x00280011, columns)
    head += us(0x00280100, 8) + us(0x00280101, 8) + us(0x00280103, 0) + more
    return part10(head + element(0x7FE00010, b"OW", pixels))


def test_monochrome1_is_inverted() -> None:
    _, _, _, pixels = pixels_of(png_of(image(bytes(range(0, 256, 16)))))
    assert (pixels[0], pixels[-1]) == (255, 0)


def test_one_grey_is_no_division_by_zero() -> None:
    assert pixels_of(png_of(image(b"\x07" * 16)))[:2] == (4, 4)


@pytest.mark.parametrize(
    "raw",
    [
        b"no dicom",
        image(b"\0" * 8),
        image(b"\0" * 16, rows=0),
        image(b"\0" * 16, rows=65535, columns=65535),
        sample("MR_small_RLE.dcm").read_bytes()[:3000],
    ],
    ids=["no dicom", "too short", "no rows", "too large", "cut off"],
)
def test_bad_files_have_no_picture(raw: bytes) -> None:
    with pytest.raises(NoPreviewError):
        png_of(raw)


def test_odd_windows_do_no_harm() -> None:
    more = element(0x00281050, b"DS", b"abc ") + element(0x00281051, b"DS", b"1e99") + element(0x00281053, b"DS", b"nan ")
    assert pixels_of(png_of(image(bytes(range(16)), more=more)))[:2] == (4, 4)


def test_damaged_runs_have_no_picture() -> None:
    raw = bytearray(sample("MR_small_RLE.dcm").read_bytes())
    at = raw.index(struct.pack("<HHI", 0x7FE0, 0x0010, 0)[:4]) + 12 + 8
    for position in range(at, at + 90):
        broken = bytes(raw[:position]) + b"\xff" + bytes(raw[position + 1 :])
        try:
            assert png_of(broken)
        except NoPreviewError:
            continue


def test_a_large_frame_is_not_copied() -> None:
    raw = image(bytes(16 << 20), rows=4096, columns=4096)
    tracemalloc.start()
    try:
        png_of(raw)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_would_be_too_large_when_decoded_has_no_picture() -> None:
    raw = sample("MR_small_RLE.dcm").read_bytes()
    rows, columns = (raw.index(struct.pack("<HH2sH", 0x28, number, b"US", 2)) + 8 for number in (0x10, 0x11))
    large = bytearray(raw)
    large[rows : rows + 2] = large[columns : columns + 2] = struct.pack("<H", 7000)
    with pytest.raises(NoPreviewError, match="too large"):
        png_of(bytes(large))
