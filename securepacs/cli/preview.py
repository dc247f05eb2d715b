"""A small picture of the first frame of an image, for the report page: windowed, scaled down, as PNG; standard library only.

Drawn are grey images of 8 or 16 bits and RGB images of 8, native or RLE. Everything else has a reason why not. It is an
illustration: no overlays, no VOI LUT or palette, values sampled and not interpolated.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from securepacs import codes
from securepacs.dicom.elements import PIXEL_DATA, Buffer, Part
from securepacs.dicom.part10 import EncodedDataSet, compression_of, open_dataset
from securepacs.errors import MalformedError

RLE_LOSSLESS = "1.2.840.10008.1.2.5"
MAX_PIXELS = 64_000_000  # of one frame; more is not worth the wait for a picture of a few hundred pixels
MAX_DECODED = 24 << 20  # bytes of a frame that has to be decoded first
SIDE = 384

_SAMPLES, _PHOTOMETRIC, _PLANAR = 0x00280002, 0x00280004, 0x00280006
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_ALLOCATED, _STORED, _SIGNED = 0x00280100, 0x00280101, 0x00280103
_CENTER, _WIDTH, _INTERCEPT, _SLOPE = 0x00281050, 0x00281051, 0x00281052, 0x00281053
_NUMBERS = (_SAMPLES, _PLANAR, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _SIGNED)
_TEXTS = (_PHOTOMETRIC, _CENTER, _WIDTH, _INTERCEPT, _SLOPE)


class NoPreviewError(Exception):
    """There is no picture; the text says why, for the reader of the page."""


@dataclass(frozen=True, slots=True)
class _Image:
    rows: int
    columns: int
    samples: int
    bytes_per_sample: int
    signed: bool
    stored: int
    planar: bool
    photometric: str
    window: tuple[float, float] | None
    rescale: tuple[float, float]
    big: bool = False  # words of 16 bits are in big endian order

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.samples * self.bytes_per_sample


def png_of(raw: Buffer, *, side: int = SIDE) -> bytes:
    """Return the picture of a DICOM file, at most `side` pixels wide and high. NoPreviewError when there is none."""
    try:
        dataset = open_dataset(raw)
        image, frame = _read(dataset)
    except MalformedError:
        raise NoPreviewError("the file cannot be read") from None
    step = max(1, -(-max(image.rows, image.columns) // side))
    rows, columns = range(0, image.rows, step), range(0, image.columns, step)
    if image.samples == 3:
        return _png(_colours(image, frame, rows, columns), len(columns), colour=True)
    return _png(_greys(image, frame, rows, columns), len(columns), colour=False)


def _read(dataset: EncodedDataSet) -> tuple[_Image, memoryview]:
    """Return what the image is and its first frame, not copied."""
    numbers: dict[int, int] = {}
    texts: dict[int, str] = {}
    fragments: list[memoryview] = []
    native: memoryview | None = None
    for token in dataset.tokens():
        if token.depth or token.part is Part.SEQUENCE:
            continue
        if token.part is Part.FRAGMENT and token.tag and len(fragments) < 2:
            fragments.append(dataset.view[token.value_offset : token.value_offset + token.length])
        elif token.part is Part.ELEMENT and token.tag in _NUMBERS and token.length >= 2:
            numbers[token.tag] = int.from_bytes(dataset.value(token)[:2], "little" if dataset.encoding.little else "big")
        elif token.part is Part.ELEMENT and token.tag in _TEXTS:
            texts[token.tag] = bytes(dataset.value(token)).decode("latin-1").split("\\")[0].strip(" \0")
        elif token.part is Part.ELEMENT and token.tag == PIXEL_DATA:
            native = dataset.value(token)
    image = _image(numbers, texts)
    syntax = compression_of(dataset.transfer_syntax)
    if syntax == RLE_LOSSLESS and len(fragments) == 2:
        return image, memoryview(_rle(image, bytes(fragments[1])))
    if syntax or native is None:
        raise NoPreviewError("its pixel data are compressed" if syntax else "it has no pixel data")
    frame = native[: image.frame_bytes]
    if len(frame) < image.frame_bytes:
        raise NoPreviewError("its pixel data are incomplete")
    if dataset.transfer_syntax == codes.EXPLICIT_VR_BIG_ENDIAN:
        image = replace(image, big=True)
    return image, frame


def _image(numbers: dict[int, int], texts: dict[int, str]) -> _Image:
    image = _Image(
        rows=numbers.get(_ROWS, 0),
        columns=numbers.get(_COLUMNS, 0),
        samples=numbers.get(_SAMPLES, 1),
        bytes_per_sample=numbers.get(_ALLOCATED, 0) // 8,
        signed=numbers.get(_SIGNED, 0) == 1,
        stored=numbers.get(_STORED, numbers.get(_ALLOCATED, 0)),
        planar=numbers.get(_PLANAR, 0) == 1,
        photometric=texts.get(_PHOTOMETRIC, ""),
        window=_window(texts),
        rescale=(_number(texts.get(_SLOPE, ""), 1.0), _number(texts.get(_INTERCEPT, ""), 0.0)),
    )
    if not image.rows or not image.columns:
        raise NoPreviewError("it is no image")
    grey = image.samples == 1 and image.photometric in ("MONOCHROME1", "MONOCHROME2") and image.bytes_per_sample in (1, 2)
    colour = image.samples == 3 and image.photometric == "RGB" and image.bytes_per_sample == 1
    if not (grey or colour) or numbers.get(_ALLOCATED, 0) % 8 or not 1 <= image.stored <= 8 * image.bytes_per_sample:
        raise NoPreviewError("pictures of this kind are not drawn")
    if image.rows * image.columns > MAX_PIXELS:
        raise NoPreviewError("it is too large to draw")
    return image


def _window(texts: dict[int, str]) -> tuple[float, float] | None:
    center, width = _number(texts.get(_CENTER, ""), float("nan")), _number(texts.get(_WIDTH, ""), 0.0)
    return (center, width) if center == center and width >= 1 else None


def _number(text: str, default: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return default
    return value if abs(value) < 1e9 else default


def _greys(image: _Image, frame: memoryview, rows: range, columns: range) -> list[bytes]:
    """Return the lines of a grey picture, windowed to 8 bits."""
    mask, sign = (1 << image.stored) - 1, 1 << (image.stored - 1) if image.signed else 0
    picked = [[(sample & mask ^ sign) - sign for sample in _line(image, frame, row, columns)] for row in rows]
    slope, intercept = image.rescale
    if image.window:
        center, width = image.window
        low, high = center - width / 2, center + width / 2
    else:
        low, high = (slope * end + intercept for end in (min(map(min, picked)), max(map(max, picked))))
    scale = 255 / (high - low) if high > low else 0.0
    shown = {value: min(255, max(0, round((slope * value + intercept - low) * scale))) for line in picked for value in set(line)}
    if image.photometric == "MONOCHROME1":
        shown = {value: 255 - grey for value, grey in shown.items()}
    return [bytes([shown[value] for value in line]) for line in picked]


def _colours(image: _Image, frame: memoryview, rows: range, columns: range) -> list[bytes]:
    """Return the lines of a colour picture."""
    plane = image.rows * image.columns
    apart, beside = (plane, 1) if image.planar else (1, 3)
    lines = []
    for row in rows:
        line = bytearray(3 * len(columns))
        for sample in range(3):
            start = sample * apart + row * image.columns * beside
            line[sample::3] = bytes(frame[start : start + image.columns * beside : beside * columns.step])
        lines.append(bytes(line))
    return lines


def _line(image: _Image, frame: memoryview, row: int, columns: range) -> Sequence[int]:
    """Return the sampled values of one line."""
    size = image.columns * image.bytes_per_sample
    line = frame[row * size : (row + 1) * size]
    if image.bytes_per_sample == 1:
        return line[:: columns.step]
    words = array("H", bytes(line))
    if image.big != (sys.byteorder == "big"):
        words.byteswap()
    return words[:: columns.step]


def _rle(image: _Image, fragment: bytes) -> bytearray:
    """Decode one RLE frame (PS3.5 G): one segment per byte of a sample, most significant first."""
    if image.frame_bytes > MAX_DECODED:
        raise NoPreviewError("it is too large to draw")
    count = image.samples * image.bytes_per_sample
    plane = image.rows * image.columns
    if len(fragment) < 64:
        raise NoPreviewError("its pixel data are damaged")
    header = struct.unpack("<16I", fragment[:64])
    if header[0] != count or any(not 64 <= offset <= len(fragment) for offset in header[1 : count + 1]):
        raise NoPreviewError("its pixel data are damaged")
    ends = [*header[2 : count + 1], len(fragment)]
    frame = bytearray(image.frame_bytes)
    for number, (start, end) in enumerate(zip(header[1 : count + 1], ends, strict=True)):
        segment = _pack_bits(fragment[start:end], plane)
        sample, high_first = divmod(number, image.bytes_per_sample)
        byte = image.bytes_per_sample - 1 - high_first
        if image.planar:
            begin = sample * plane
            frame[begin : begin + plane] = segment
        else:
            frame[sample * image.bytes_per_sample + byte :: count] = segment
    return frame


def _pack_bits(data: bytes, size: int) -> bytearray:
    out = bytearray()
    at = 0
    while len(out) < size:
        if at + 1 >= len(data):
            raise NoPreviewError("its pixel data are incomplete")
        code = data[at]
        if code < 128:
            out += data[at + 1 : at + 2 + code]
            at += 2 + code
        else:
            out += data[at + 1 : at + 2] * (257 - code) if code > 128 else b""
            at += 2 if code > 128 else 1
    del out[size:]
    return out


def _png(lines: list[bytes], width: int, *, colour: bool) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(lines), 8, 2 if colour else 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
