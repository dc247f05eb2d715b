"""Encoded data sets written by hand, byte by byte, independent of the product's writer."""

from __future__ import annotations

import struct

LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, RLE = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
)


def element(tag: int, vr: bytes, value: bytes = b"", *, length: int | None = None) -> bytes:
    """Explicit VR little endian; `length` overrides what the header claims."""
    claimed = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    return head + (struct.pack("<HI", 0, claimed) if vr in LONG else struct.pack("<H", claimed)) + value


def implicit(tag: int, value: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(content: bytes, *, undefined: bool = False) -> bytes:
    if undefined:
        return implicit(ITEM, length=UNDEFINED) + content + implicit(ITEM_END)
    return implicit(ITEM, content)


def sequence(tag: int, *items: bytes, undefined: bool = False) -> bytes:
    content = b"".join(items)
    if undefined:
        return element(tag, b"SQ", content + implicit(SEQUENCE_END), length=UNDEFINED)
    return element(tag, b"SQ", content)


def encapsulated(*fragments: bytes, tag: int = 0x7FE00010, vr: bytes = b"OB") -> bytes:
    content = b"".join(implicit(ITEM, fragment) for fragment in fragments)
    return element(tag, vr, content + implicit(SEQUENCE_END), length=UNDEFINED)


def part10(dataset: bytes, syntax: str = EXPLICIT_LE, *, extra_meta: bytes = b"") -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, b"UI", uid) + extra_meta
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta + dataset


def nested(depth: int, *, undefined: bool) -> bytes:
    """`depth` sequences inside each other, built without recursion."""
    content = b""
    if undefined:
        opening = element(0x00400275, b"SQ", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED)
        return opening * depth + (implicit(ITEM_END) + implicit(SEQUENCE_END)) * depth
    for _ in range(depth):
        content = sequence(0x00400275, item(content))
    return content
