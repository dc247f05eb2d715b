"""Walk an encoded data set without decoding it: one iterative, bounded pass over bytes or an mmap (PS3.5 7).

`tokens` is the one parser of the product: it goes down into sequences, items and fragments with an explicit stack, so depth costs
no recursion, and it copies no value. `walk` is its top level alone: one `Element` per data element, nested content skipped.

Offsets are positions in the buffer that was given. Every length is checked against its container before it is used, nesting is
bounded by MAX_NESTING, and whatever does not fit is a MalformedError that carries the offset of the header concerned. Not checked:
order and uniqueness of tags, odd lengths, and the content of values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from securepacs.dicom.vr import LONG_FORM, ImplicitDictionary
from securepacs.errors import MalformedError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

UNDEFINED = 0xFFFFFFFF
MAX_NESTING = 64  # sequences inside sequences; the deepest IOD of PS3.3 uses fewer than ten

ITEM = 0xFFFEE000
ITEM_DELIMITATION = 0xFFFEE00D
SEQUENCE_DELIMITATION = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010


class Encoding(NamedTuple):
    """How element headers are written: explicit or implicit VR, little or big endian (PS3.5 Annex A)."""

    explicit: bool = True
    little: bool = True


EXPLICIT_LITTLE = Encoding()
IMPLICIT_LITTLE = Encoding(explicit=False)
EXPLICIT_BIG = Encoding(little=False)


class Part(Enum):
    """What a token is."""

    ELEMENT = auto()  # a leaf with a value
    SEQUENCE = auto()  # header of an SQ, or of a UN of undefined length
    SEQUENCE_END = auto()
    ITEM = auto()
    ITEM_END = auto()
    FRAGMENTS = auto()  # header of encapsulated data
    FRAGMENT = auto()  # one fragment; the first is the Basic Offset Table
    FRAGMENTS_END = auto()


class Token(NamedTuple):
    """One structural step. `depth` is 0 for elements of the outermost data set; `length` is UNDEFINED where the file says so.

    Of the *_END tokens `offset` is where the content stopped and `value_offset` where reading goes on (after a delimiter, if any).
    """

    part: Part
    tag: int
    vr: bytes
    offset: int
    value_offset: int
    length: int
    depth: int


class Element(NamedTuple):
    """One top-level element: header at `offset`, value at `value_offset`, the next element at `next_offset`."""

    tag: int
    vr: bytes
    offset: int
    value_offset: int
    length: int
    next_offset: int


class _Frame(NamedTuple):
    """An open container; `end` is where it must stop, `delimited` whether a delimiter closes it earlier."""

    part: Part
    tag: int
    vr: bytes
    end: int
    delimited: bool
    encoding: Encoding
    dictionary: ImplicitDictionary | None


_EXPLICIT = {True: struct.Struct("<HH2sH"), False: struct.Struct(">HH2sH")}
_IMPLICIT = {True: struct.Struct("<HHI"), False: struct.Struct(">HHI")}
_U32 = {True: struct.Struct("<I"), False: struct.Struct(">I")}

# the fast path of `tokens` knows these; SQ and whatever is not a VR of PS3.5 6.2 take the careful one
_SHORT = frozenset(
    {
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO",
        b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
    }
)  # fmt: skip
_LONG = LONG_FORM - {b"SQ"}


def _header(data: Buffer, offset: int, frame: _Frame) -> tuple[int, bytes, int, int]:
    """Return (tag, VR, value offset, length) of the header at `offset`; items and delimiters have VR b""."""
    encoding = frame.encoding
    if offset + 8 > frame.end:
        raise MalformedError("an element header is cut off", offset=offset, standard="PS3.5 7.1")
    group, number, vr, length = _EXPLICIT[encoding.little].unpack_from(data, offset)
    tag = group << 16 | number
    if group == 0xFFFE or not encoding.explicit:
        length = _U32[encoding.little].unpack_from(data, offset + 4)[0]
        if group == 0xFFFE:
            return tag, b"", offset + 8, length
        return tag, _implicit_vr(data, frame, tag, offset + 8, length), offset + 8, length
    if vr not in LONG_FORM:
        if not (65 <= vr[0] <= 90 and 65 <= vr[1] <= 90):
            raise MalformedError("an element has no value representation", offset=offset, standard="PS3.5 7.1.2")
        return tag, vr, offset + 8, length
    if offset + 12 > frame.end:
        raise MalformedError("an element header is cut off", offset=offset, standard="PS3.5 7.1")
    return tag, vr, offset + 12, _U32[encoding.little].unpack_from(data, offset + 8)[0]


def _implicit_vr(data: Buffer, frame: _Frame, tag: int, value_offset: int, length: int) -> bytes:
    if frame.dictionary is None:
        return b"UN"
    value = bytes(data[value_offset : min(value_offset + length, frame.end)]) if length <= 64 else b""
    return frame.dictionary.vr(tag, value, undefined=length == UNDEFINED)


def tokens(
    data: Buffer,
    offset: int = 0,
    *,
    encoding: Encoding = EXPLICIT_LITTLE,
    end: int | None = None,
    descend: bool = True,
    dictionary: ImplicitDictionary | None = None,
) -> Iterator[Token]:
    """Yield the structure of the data set data[offset:end] in file order (PS3.5 7.5, A.4).

    `descend=False` jumps over sequences of defined length (their SEQUENCE and SEQUENCE_END tokens are still given).
    """
    stop = len(data) if end is None else end
    if dictionary is None and not encoding.explicit:
        dictionary = ImplicitDictionary(encoding.little)
    frame = _Frame(Part.ITEM, 0, b"", stop, delimited=False, encoding=encoding, dictionary=dictionary)
    stack: list[_Frame] = []
    depth = 0
    leaf, token = Part.ELEMENT, tuple.__new__  # a Token made without the detour through its own __new__
    while True:
        if frame.encoding.explicit and frame.part is Part.ITEM:  # leaf elements one after the other: the bulk of every file
            unpack, unpack_length = _EXPLICIT[frame.encoding.little].unpack_from, _U32[frame.encoding.little].unpack_from
            end = frame.end
            while offset + 12 <= end:
                group, number, vr, length = unpack(data, offset)
                if vr in _SHORT:
                    value_offset = offset + 8
                elif vr in _LONG:
                    length = unpack_length(data, offset + 8)[0]
                    value_offset = offset + 12
                    if length == UNDEFINED:
                        break
                else:
                    break
                next_offset = value_offset + length
                if next_offset > end or group == 0xFFFE:
                    break
                yield token(Token, (leaf, group << 16 | number, vr, offset, value_offset, length, depth))
                offset = next_offset
        elif frame.part is Part.FRAGMENTS:
            unpack_item, end = _IMPLICIT[frame.encoding.little].unpack_from, frame.end
            while offset + 8 <= end:
                group, number, length = unpack_item(data, offset)
                next_offset = offset + 8 + length
                if group != 0xFFFE or number != 0xE000 or length == UNDEFINED or next_offset > end:
                    break
                yield token(Token, (Part.FRAGMENT, ITEM, frame.vr, offset, offset + 8, length, depth))
                offset = next_offset
        if offset >= frame.end:
            if frame.delimited:
                raise MalformedError("a delimiter is missing", offset=offset, standard="PS3.5 7.5.2")
            if not stack:
                return
            yield Token(_END_OF[frame.part], frame.tag, frame.vr, offset, offset, 0, depth)
            frame = stack.pop()
            depth = len(stack) // 2
            continue
        tag, vr, value_offset, length = _header(data, offset, frame)
        if frame.part is not Part.ITEM:  # inside a sequence or encapsulated data only items may stand
            opened = _open_item(frame, tag, offset, value_offset, length)
            if opened is None:
                yield Token(_END_OF[frame.part], frame.tag, frame.vr, offset, value_offset, 0, depth)
                frame = stack.pop()
                depth = len(stack) // 2
            else:
                depth = len(stack) // 2 + 1
                yield Token(Part.ITEM, tag, b"", offset, value_offset, length, depth)
                stack.append(frame)
                frame = opened
            offset = value_offset
            continue
        if not vr:
            if tag != ITEM_DELIMITATION or not frame.delimited or length:
                raise MalformedError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) stands where no item can be", offset=offset)
            yield Token(Part.ITEM_END, frame.tag, b"", offset, value_offset, 0, depth)
            frame = stack.pop()
            depth = len(stack) // 2
            offset = value_offset
            continue
        if length != UNDEFINED and value_offset + length > frame.end:
            raise MalformedError(f"an element claims {length} bytes, more than there are", offset=offset, standard="PS3.5 7.1")
        if vr != b"SQ" and length != UNDEFINED:
            yield Token(Part.ELEMENT, tag, vr, offset, value_offset, length, depth)
            offset = value_offset + length
            continue
        opened = _open_sequence(frame, tag, vr, offset, value_offset, length)
        yield Token(opened.part, tag, vr, offset, value_offset, length, depth)
        if not descend and length != UNDEFINED:
            offset = value_offset + length
            yield Token(Part.SEQUENCE_END, tag, vr, offset, offset, 0, depth)
            continue
        if len(stack) >= 2 * MAX_NESTING:
            raise MalformedError(f"sequences are nested more than {MAX_NESTING} deep", offset=offset)
        stack.append(frame)
        frame = opened
        offset = value_offset


_END_OF = {Part.SEQUENCE: Part.SEQUENCE_END, Part.ITEM: Part.ITEM_END, Part.FRAGMENTS: Part.FRAGMENTS_END}


def _open_item(frame: _Frame, tag: int, offset: int, value_offset: int, length: int) -> _Frame | None:
    """Return the frame of the item whose header was read, or None when it is the delimiter that closes `frame`."""
    if tag == SEQUENCE_DELIMITATION and frame.delimited:
        if length:
            raise MalformedError("a sequence delimiter has a length", offset=offset, standard="PS3.5 7.5")
        return None
    if tag != ITEM:
        raise MalformedError("a sequence holds something that is not an item", offset=offset, standard="PS3.5 7.5")
    if length == UNDEFINED:
        if frame.part is Part.FRAGMENTS:
            raise MalformedError("a fragment has no length", offset=offset, standard="PS3.5 A.4")
        end = frame.end
    else:
        end = value_offset + length
        if end > frame.end:
            raise MalformedError(f"an item claims {length} bytes, more than there are", offset=offset, standard="PS3.5 7.5")
    dictionary = frame.dictionary.nested() if frame.dictionary is not None else None
    return _Frame(Part.ITEM, tag, b"", end, length == UNDEFINED, frame.encoding, dictionary)


def _open_sequence(frame: _Frame, tag: int, vr: bytes, offset: int, value_offset: int, length: int) -> _Frame:
    """Return the frame of a sequence or of encapsulated data; UN of undefined length is read as implicit VR (PS3.5 6.2.2)."""
    undefined = length == UNDEFINED
    end = frame.end if undefined else value_offset + length
    if vr == b"SQ":
        return _Frame(Part.SEQUENCE, tag, vr, end, undefined, frame.encoding, frame.dictionary)
    if vr == b"UN":
        return _Frame(Part.SEQUENCE, tag, vr, end, undefined, IMPLICIT_LITTLE, frame.dictionary)
    if vr in (b"OB", b"OW"):
        return _Frame(Part.FRAGMENTS, tag, vr, end, undefined, frame.encoding, None)
    raise MalformedError(f"an element of VR {vr.decode('ascii')} has no length", offset=offset, standard="PS3.5 7.1.2")


def walk(data: Buffer, offset: int = 0, *, explicit: bool = True, little: bool = True, end: int | None = None) -> Iterator[Element]:
    """Yield the top-level elements of data[offset:end] in file order; nested content is stepped over (PS3.5 7.1)."""
    head: Token | None = None
    for token in tokens(data, offset, encoding=Encoding(explicit, little), end=end, descend=False):
        if token.depth:
            continue
        if token.part is Part.ELEMENT:
            next_offset = token.value_offset + token.length
            yield Element(token.tag, token.vr, token.offset, token.value_offset, token.length, next_offset)
        elif token.part in (Part.SEQUENCE, Part.FRAGMENTS):
            head = token
        elif token.part in (Part.SEQUENCE_END, Part.FRAGMENTS_END) and head is not None:
            yield Element(head.tag, head.vr, head.offset, head.value_offset, head.length, token.value_offset)
            head = None
