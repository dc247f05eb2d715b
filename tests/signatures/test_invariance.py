"""What leaves a MAC alone: how lengths are written, byte order, implicit or explicit VR, elements put in and taken out again."""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from securepacs.dicom.edit import encode_element, replace_elements
from securepacs.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Encoding, Part, tokens
from securepacs.signatures.check import HASHED
from securepacs.signatures.mac import MacStream
from tests.support.encoded import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, part10

Tree: TypeAlias = "dict[int, Any]"  # tag -> value in little endian, or the trees of the items of a sequence

VRS = {
    0x00080018: b"UI", 0x00080104: b"LO", 0x00081032: b"SQ", 0x00100010: b"PN", 0x00280010: b"US", 0x00281052: b"DS",
    0x00400275: b"SQ", 0x0040A730: b"SQ", 0x00420011: b"OB", 0x00720078: b"UL", 0x00720074: b"FD",
}  # fmt: skip
SIZES = {b"US": 2, b"UL": 4, b"FD": 8}
SYNTAXES = {EXPLICIT_LITTLE: EXPLICIT_LE, IMPLICIT_LITTLE: IMPLICIT_LE, EXPLICIT_BIG: EXPLICIT_BE}


def leaf(tag: int) -> st.SearchStrategy[bytes]:
    size = SIZES.get(VRS[tag])
    if size:
        return st.lists(st.binary(min_size=size, max_size=size), max_size=3).map(b"".join)
    if VRS[tag] == b"OB":
        return st.binary(max_size=9)
    return st.text("AB1. ", max_size=9).map(str.encode)


LEAVES = st.lists(st.sampled_from([tag for tag, vr in VRS.items() if vr != b"SQ"]), unique=True, max_size=5).flatmap(
    lambda tags: st.fixed_dictionaries({tag: leaf(tag) for tag in tags})
)
TREES: st.SearchStrategy[Tree] = st.recursive(
    LEAVES,
    lambda inner: st.tuples(
        LEAVES,
        st.dictionaries(st.sampled_from([tag for tag, vr in VRS.items() if vr == b"SQ"]), st.lists(inner, max_size=3), max_size=2),
    ).map(lambda pair: {**pair[0], **pair[1]}),
    max_leaves=8,
)
ENCODINGS = st.sampled_from(list(SYNTAXES))


def encode(tree: Tree, encoding: Encoding, undefined: st.DataObject | bool) -> bytes:
    """The encoded data set; `undefined` decides for every sequence and item how its length is written."""

    def chosen() -> bool:
        return undefined if isinstance(undefined, bool) else undefined.draw(st.booleans())

    order = "<" if encoding.little else ">"

    def frame(tag: int, vr: bytes, content: bytes, delimiter: int) -> bytes:
        open_ended = chosen()
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + (vr + b"\0\0" if vr and encoding.explicit else b"")
        end = struct.pack(order + "HHI", 0xFFFE, delimiter, 0) if open_ended else b""
        return head + struct.pack(order + "I", 0xFFFFFFFF if open_ended else len(content)) + content + end

    parts = []
    for tag in sorted(tree):
        if VRS[tag] == b"SQ":
            items = b"".join(frame(0xFFFEE000, b"", encode(each, encoding, undefined), 0xE00D) for each in tree[tag])
            parts.append(frame(tag, b"SQ", items, 0xE0DD))
        else:
            parts.append(encode_element(tag, VRS[tag], tree[tag], encoding))
    return b"".join(parts)


def stream(data: bytes, encoding: Encoding) -> bytes:
    out = bytearray()
    MacStream(out.extend).feed(memoryview(data), tokens(data, encoding=encoding), HASHED, encoding)
    return bytes(out)


def by_hand(tree: Tree) -> bytes:
    """The stream as PS3.3 C.12.1.1.3.1.1 tells it, written independently of the walker."""
    out = b""
    for tag in sorted(tree):
        if VRS[tag] == b"SQ":
            items = b"".join(b"\xfe\xff\x00\xe0" + by_hand(each) for each in tree[tag])
            out += struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0" + items + b"\xfe\xff\xdd\xe0"
        else:
            out += encode_element(tag, VRS[tag], tree[tag], EXPLICIT_LITTLE)
    return out


@given(TREES, ENCODINGS, st.data())
def test_the_stream_is_the_same_however_the_data_set_is_encoded(tree: Tree, encoding: Encoding, data: st.DataObject) -> None:
    assert stream(encode(tree, encoding, data), encoding) == by_hand(tree)


@given(TREES, ENCODINGS, st.data())
def test_the_walker_sees_the_same_structure_under_every_length_encoding(
    tree: Tree, encoding: Encoding, data: st.DataObject
) -> None:
    def structure(raw: bytes) -> list[tuple[Part, int, bytes, int, bytes]]:
        return [
            (token.part, token.tag, token.vr, token.depth, raw[token.value_offset : token.value_offset + token.length])
            if token.part is Part.ELEMENT
            else (token.part, token.tag, token.vr, token.depth, b"")
            for token in tokens(raw, encoding=encoding)
        ]

    assert structure(encode(tree, encoding, data)) == structure(encode(tree, encoding, undefined=False))


@given(TREES, ENCODINGS, st.data())
def test_what_is_put_in_and_taken_out_leaves_no_trace(tree: Tree, encoding: Encoding, data: st.DataObject) -> None:
    tree.pop(0x00280010, None)
    raw = part10(encode(tree, encoding, data), SYNTAXES[encoding])
    new = encode_element(0x00280010, b"US", b"\2\0", encoding)
    longer = replace_elements(raw, {0x00280010: new})
    assert len(longer) == len(raw) + len(new)
    assert replace_elements(longer, {0x00280010: None}) == raw
