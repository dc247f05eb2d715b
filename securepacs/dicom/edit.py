"""Insert, replace and remove elements of an encoded file; everything else stays byte for byte (PS3.5 7).

For one or a few top-level elements, bytes in and bytes out:

    head = read_part10(raw)
    raw = replace_elements(raw, {
        0x01000410: encode_element(0x01000410, b"CS", b"AO", head.encoding),     # inserted, or replaced where it stands
        0x01000424: None,                                                        # removed if there
    })

Encoded elements must be written in the file's own encoding (`encode_element` does it: VR letters, byte order, even length). New
elements go to their place in tag order. Lengths that contain the change follow it: group lengths where they exist, and, inside
items, the explicit lengths of the item and of every sequence around it. Deflated files are inflated, edited and deflated again.

`splice` is the same for data sets of any size: it returns the pieces of the new encoding as views, without copying the rest.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from securepacs.dicom.elements import ITEM, UNDEFINED, Buffer, Encoding, Part, Token
from securepacs.dicom.part10 import EncodedDataSet, deflate_pieces, open_dataset, read_part10
from securepacs.dicom.vr import LONG_FORM, PADDING, WORD_SIZE
from securepacs.errors import MalformedError, UsageError

Path: TypeAlias = "tuple[tuple[int, int], ...]"  # (sequence tag, item index from 0), outermost first
Changes: TypeAlias = "Mapping[int, bytes | None]"


def encode_element(tag: int, vr: bytes, value: bytes, encoding: Encoding) -> bytes:
    """Encode one element of defined length in `encoding`; `value` is little endian, padded here to even length (PS3.5 7.1)."""
    if len(value) % 2:
        value += PADDING.get(vr, b" ")
    if not encoding.little:
        value = swap_words(value, vr)
    order = "<" if encoding.little else ">"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not encoding.explicit:
        return head + struct.pack(order + "I", len(value)) + value
    if vr in LONG_FORM:
        return head + vr + b"\0\0" + struct.pack(order + "I", len(value)) + value
    if len(value) > 0xFFFF:
        raise UsageError(f"a value of VR {vr.decode('ascii')} cannot have {len(value)} bytes", standard="PS3.5 7.1.2")
    return head + vr + struct.pack(order + "H", len(value)) + value


def encode_sequence(tag: int, items: Sequence[bytes], encoding: Encoding) -> bytes:
    """Encode a sequence of explicit length from items that are encoded data sets in `encoding` (PS3.5 7.5)."""
    content = b"".join(encode_item(item, encoding) for item in items)
    order = "<" if encoding.little else ">"
    vr = b"SQ\0\0" if encoding.explicit else b""
    return struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr + struct.pack(order + "I", len(content)) + content


def encode_item(content: bytes, encoding: Encoding) -> bytes:
    """Encode one sequence item of explicit length around an encoded data set (PS3.5 7.5.2)."""
    return struct.pack("<HHI" if encoding.little else ">HHI", ITEM >> 16, ITEM & 0xFFFF, len(content)) + content


def swap_words(value: Buffer, vr: bytes) -> bytes:
    """Return `value` with the byte order of its words reversed, as VR `vr` asks for (PS3.5 7.3)."""
    size = WORD_SIZE.get(vr)
    if size is None:
        return bytes(value)
    if len(value) % size:
        raise MalformedError(f"a value of VR {vr.decode('ascii')} has {len(value)} bytes, not whole words", standard="PS3.5 6.2")
    words = array({2: "H", 4: "I", 8: "Q"}[size], bytes(value))
    words.byteswap()
    return words.tobytes()


def replace_elements(part10: Buffer, changes: Changes) -> bytes:
    """Return the DICOM file `part10` with top-level elements inserted, replaced (bytes) or removed (None)."""
    return b"".join(join_pieces(part10, splice(open_dataset(part10), changes)))


def join_pieces(part10: Buffer, pieces: Sequence[Buffer]) -> list[Buffer]:
    """Return the pieces of the whole file: its old head, then the spliced data set, deflated when the file is."""
    head = read_part10(part10)
    start = memoryview(part10)[: head.dataset_offset]
    return [start, *deflate_pieces(pieces)] if head.deflated else [start, *pieces]


def splice(dataset: EncodedDataSet, changes: Changes, *, path: Path = ()) -> list[memoryview]:
    """Return the new data set as pieces, with `changes` made in the item at `path` (empty: the outermost data set).

    UsageError when there is no such item. Nothing is copied but the new elements and the lengths that had to follow.
    """
    view = dataset.view
    cuts = _cuts(dataset, changes, path)
    pieces: list[memoryview] = []
    position = dataset.start
    for start, end, replacement in cuts:
        pieces += [view[position:start], memoryview(replacement)]
        position = end
    pieces.append(view[position : dataset.end])
    return [piece for piece in pieces if len(piece)]


@dataclass
class _Level:
    """One data set on the way to the edited one."""

    opened: tuple[Token, Token] | None = None  # the SEQUENCE and ITEM headers that lead to it
    group_lengths: dict[int, Token] = field(default_factory=dict)


def _cuts(dataset: EncodedDataSet, changes: Changes, path: Path) -> list[tuple[int, int, bytes]]:
    """Return (start, end, replacement) of every change, ascending, lengths included."""
    levels, places, close = _find(dataset, changes, path)
    cuts: list[tuple[int, int, bytes]] = []
    growth: dict[int, int] = {}
    for tag in sorted(changes):
        new = changes[tag] or b""
        start, end = places.get(tag, (close, close))
        cuts.append((start, end, new))
        growth[tag >> 16] = growth.get(tag >> 16, 0) + len(new) - (end - start)
    total = sum(growth.values())
    cuts += [
        _longer(dataset, levels[-1].group_lengths[group], by) for group, by in growth.items() if group in levels[-1].group_lengths
    ]
    for outer, (tag, _) in zip(levels, path, strict=False):
        if tag >> 16 in outer.group_lengths:
            cuts.append(_longer(dataset, outer.group_lengths[tag >> 16], total))
    for level in levels:
        cuts += [_new_length(dataset, token, total) for token in level.opened or () if token.length != UNDEFINED]
    return sorted((cut for cut in cuts if cut[0] != cut[1] or cut[2]), key=lambda cut: cut[:2])


def _find(dataset: EncodedDataSet, changes: Changes, path: Path) -> tuple[list[_Level], dict[int, tuple[int, int]], int]:
    """Return the levels down to `path`, where each changed tag stands or belongs, and where the edited data set closes."""
    levels = [_Level()]
    places: dict[int, tuple[int, int]] = {}
    waiting = sorted(changes)
    header, index, inside = None, -1, 0  # the sequence being looked through; `inside`: depth of the innermost open level
    started: Token | None = None
    leaf = Part.ELEMENT
    for token in dataset.tokens():
        tag = token.tag
        if token.part is leaf and tag & 0xFFFF and not (waiting and tag >= waiting[0]):
            continue  # the bulk of every file
        target = len(levels) - 1 == len(path)
        if token.part is Part.ITEM_END and token.depth == inside and inside:
            if target:
                return levels, places, token.offset
            break
        if token.part is Part.ITEM and header is not None and token.depth == inside + 1:
            index += 1
            if index == path[len(levels) - 1][1]:
                levels.append(_Level(opened=(header, token)))
                inside, header, index = inside + 1, None, -1
            continue
        if token.depth != inside:
            continue
        if token.part in (Part.SEQUENCE_END, Part.FRAGMENTS_END):
            if header is not None:
                break
            if started is not None:
                places[started.tag] = (started.offset, token.value_offset)
                started = None
            continue
        if token.part not in (Part.ELEMENT, Part.SEQUENCE, Part.FRAGMENTS):
            continue
        if token.part is Part.ELEMENT and token.tag & 0xFFFF == 0 and token.length == 4:
            levels[-1].group_lengths[token.tag >> 16] = token
        if not target:
            if token.part is Part.SEQUENCE and token.tag == path[len(levels) - 1][0]:
                header, index = token, -1
            continue
        while waiting and waiting[0] < token.tag:
            places.setdefault(waiting.pop(0), (token.offset, token.offset))
        if waiting and waiting[0] == token.tag:
            waiting.pop(0)
            if token.part is Part.ELEMENT:
                places[token.tag] = (token.offset, token.value_offset + token.length)
            else:
                started = token
    if len(levels) - 1 != len(path) or path:
        raise UsageError(f"the data set has no item {format_path(path)}")
    return levels, places, dataset.end


def _longer(dataset: EncodedDataSet, token: Token, by: int) -> tuple[int, int, bytes]:
    """Return the cut that adds `by` to a group length element."""
    order = "<I" if dataset.encoding.little else ">I"
    (old,) = struct.unpack(order, dataset.value(token))
    return token.value_offset, token.value_offset + 4, struct.pack(order, max(0, min(old + by, UNDEFINED)))


def _new_length(dataset: EncodedDataSet, token: Token, by: int) -> tuple[int, int, bytes]:
    """Return the cut that adds `by` to the length of a sequence or item; it stands in the last four bytes of the header."""
    if token.length + by >= UNDEFINED:
        raise UsageError("a sequence would grow beyond 4 GiB")
    order = "<I" if dataset.encoding.little else ">I"
    return token.value_offset - 4, token.value_offset, struct.pack(order, token.length + by)


def format_path(path: Path) -> str:
    """Write a path as the command line takes it: 0040A730[0]/0040A043[0]; empty for the outermost data set."""
    return "/".join(f"{tag:08X}[{index}]" for tag, index in path)
