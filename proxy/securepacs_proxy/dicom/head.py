"""Reads the head of a data set as its bytes pass, and whole identifiers (PS3.5 7). Knows only what is needed to find values.

Rules:
1. Top-level elements ascend strictly; a duplicate, an unordered tag or a group below 0008 is refused.
2. Sequences and encapsulated data are stepped over, never interpreted; their depth is bounded.
3. What is not complete within `limit` bytes is refused; nothing but the unread tail is kept.
4. Any split of the bytes gives the same values or the same refusal.
"""

from __future__ import annotations

import struct
import zlib

from pydicom.charset import convert_encodings, decode_bytes, python_encoding

from securepacs import codes
from securepacs.errors import MalformedError

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
ACCESSION_NUMBER = 0x00080050
QUERY_RETRIEVE_LEVEL = 0x00080052
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
HEAD_TAGS = frozenset(
    (SPECIFIC_CHARACTER_SET, SOP_CLASS_UID, SOP_INSTANCE_UID, ACCESSION_NUMBER, PATIENT_ID, STUDY_INSTANCE_UID),
)
MAX_VALUE = 4096
MAX_DEPTH = 32

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT_VRS = frozenset(b"AE,AS,AT,CS,DA,DS,DT,FD,FL,IS,LO,LT,PN,SH,SL,SS,ST,TM,UI,UL,US".split(b","))
_SPANS = frozenset((b"SQ", b"UN", b"OB", b"OW"))  # the VRs that may have undefined length
_IMPLICIT = frozenset((codes.IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.113619.5.2", "1.2.840.10008.1.20"))  # GE private, Papyrus 3
_DEFLATED = frozenset((codes.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"))


class HeadReader:
    """Finds `wanted` top-level values up to `last_tag`; feed it until `complete`, or until the data set ends.

    `wanted` of None keeps every top-level value. `limit` is in bytes, of the encoded and of the inflated data set.
    """

    def __init__(
        self,
        transfer_syntax: str,
        *,
        wanted: frozenset[int] | None = HEAD_TAGS,
        last_tag: int = STUDY_INSTANCE_UID,
        limit: int = 65_536,
    ) -> None:
        self.complete = False
        self.values: dict[int, bytes] = {}
        self._wanted = wanted
        self._last_wanted = last_tag
        self._limit = limit
        self._explicit = transfer_syntax not in _IMPLICIT
        self._order = ">" if transfer_syntax == codes.EXPLICIT_VR_BIG_ENDIAN else "<"
        self._tag_struct = struct.Struct(self._order + "HH")
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax in _DEFLATED else None
        self._raw_seen = 0
        self._seen = 0
        self._tail = bytearray()
        self._skip = 0
        self._last_tag = 0x0007FFFF
        # one entry per open undefined-length span: (holds items rather than elements, explicit VR)
        self._stack: list[tuple[bool, bool]] = []

    def feed(self, data: bytes | memoryview) -> bool:
        """Read on; return whether the head is complete. Raises MalformedError."""
        if self.complete:
            return True
        self._raw_seen += len(data)
        if self._inflate is None:
            self._read(data, self._raw_seen > self._limit)
        else:
            self._read_deflated(data)
        return self.complete

    def finish(self) -> None:
        """Tell that the data set has ended. Raises MalformedError when it ended inside an element."""
        if not self.complete and (self._tail or self._skip or self._stack):
            raise MalformedError("data set ends inside an element", offset=self._seen)
        self.complete = True

    def _read_deflated(self, data: bytes | memoryview) -> None:
        inflate = self._inflate
        if inflate is None or inflate.eof:
            return
        try:
            plain = inflate.decompress(data, self._limit - self._seen + 1)
        except zlib.error:
            raise MalformedError("deflated data set is damaged", offset=self._seen) from None
        too_long = self._raw_seen > self._limit or self._seen + len(plain) > self._limit or bool(inflate.unconsumed_tail)
        self._read(plain, too_long)

    def _read(self, data: bytes | memoryview, too_long: bool) -> None:
        usable = data[: self._limit - self._seen]
        self._seen += len(usable)
        skipped = min(self._skip, len(usable))
        self._skip -= skipped
        self._tail += usable[skipped:]
        if not self._skip:
            self._parse()
        if too_long and not self.complete:
            raise MalformedError(f"head of the data set is not complete within {self._limit} bytes")

    def _parse(self) -> None:
        pos, tail, end = 0, self._tail, len(self._tail)
        while not self.complete:
            step = self._element(pos, tail, end)
            if not step:
                break
            pos += step
            if pos > end:
                self._skip = pos - end
                pos = end
                break
        del tail[:pos]

    def _element(self, pos: int, tail: bytearray, end: int) -> int:
        """Read one element or item header at `pos`; return how far to go on, 0 when more bytes are needed."""
        if end - pos < 8:
            return 0
        group, element = self._tag_struct.unpack_from(tail, pos)
        tag = group << 16 | element
        if not self._stack:
            if tag <= self._last_tag:
                raise MalformedError("data set has duplicate, unordered or misplaced elements", offset=self._at(end - pos))
            if tag > self._last_wanted:
                self.complete = True
                return 0
        holds_items, explicit = self._stack[-1] if self._stack else (False, self._explicit)
        if group == 0xFFFE:
            return self._delimiter(tag, self._unsigned(tail, pos + 4, 4), holds_items, explicit, end - pos)
        if holds_items:
            raise MalformedError("sequence has an element outside an item", offset=self._at(end - pos))
        header, length, vr = self._length(tail, pos, end, explicit)
        if not header:
            return 0
        if length == _UNDEFINED:
            if explicit and vr not in _SPANS:
                raise MalformedError("element of undefined length has a VR that forbids it", offset=self._at(end - pos))
            self._enter_element(tag)
            # PS3.5 6.2.2: UN of undefined length holds Implicit VR items
            self._push(True, explicit and vr != b"UN")
            return header
        if not self._stack and (self._wanted is None or tag in self._wanted):
            if length > MAX_VALUE and self._wanted is not None:
                raise MalformedError("an identifying value is too long", offset=self._at(end - pos))
            if end - pos < header + length:
                return 0
            self.values[tag] = bytes(tail[pos + header : pos + header + length])
        self._enter_element(tag)
        if not self._stack and tag == self._last_wanted:
            self.complete = True
        return header + length

    def _enter_element(self, tag: int) -> None:
        if not self._stack:
            self._last_tag = tag

    def _delimiter(self, tag: int, length: int, holds_items: bool, explicit: bool, left: int) -> int:
        if not self._stack:
            raise MalformedError("item delimiter outside a sequence", offset=self._at(left))
        if tag == _ITEM and holds_items:
            if length != _UNDEFINED:
                return 8 + length
            self._push(False, explicit)
        elif length == 0 and tag == (_SEQUENCE_END if holds_items else _ITEM_END):
            self._stack.pop()
        else:
            raise MalformedError("item structure is damaged", offset=self._at(left))
        return 8

    def _length(self, tail: bytearray, pos: int, end: int, explicit: bool) -> tuple[int, int, bytes]:
        """Return header length (0: more bytes needed), value length and VR."""
        if not explicit:
            return 8, self._unsigned(tail, pos + 4, 4), b""
        vr = bytes(tail[pos + 4 : pos + 6])
        if vr in _SHORT_VRS:
            return 8, self._unsigned(tail, pos + 6, 2), vr
        if vr not in _LONG_VRS:
            raise MalformedError("element has an unknown VR", offset=self._at(end - pos))
        if end - pos < 12:
            return 0, 0, vr
        return 12, self._unsigned(tail, pos + 8, 4), vr

    def _push(self, holds_items: bool, explicit: bool) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise MalformedError("sequences are nested too deep")
        self._stack.append((holds_items, explicit))

    def _unsigned(self, tail: bytearray, pos: int, width: int) -> int:
        return int.from_bytes(tail[pos : pos + width], "big" if self._order == ">" else "little")

    def _at(self, left: int) -> int:
        return self._seen - left


def read_identifier(data: bytes, transfer_syntax: str, *, limit: int) -> dict[int, bytes]:
    """Return all top-level values of a whole identifier. Raises MalformedError."""
    reader = HeadReader(transfer_syntax, wanted=None, last_tag=0xFFFFFFFF, limit=limit)
    reader.feed(data)
    reader.finish()
    return reader.values


def uid_value(values: dict[int, bytes], tag: int) -> str:
    """Return a UID (several are joined by backslash), empty when absent. Raises MalformedError when it is none."""
    text = values.get(tag, b"").rstrip(b"\0 ").decode("latin-1")
    if text and not (len(text) <= 64 * 1024 and all(c in "0123456789.\\" for c in text)):
        raise MalformedError("an identifying UID is not a UID")
    return text


def text_value(values: dict[int, bytes], tag: int) -> str:
    """Return a text value without padding, decoded by Specific Character Set (PS3.5 6.1); undecodable bytes are replaced."""
    raw = values.get(tag, b"").strip(b"\0 ")
    if raw.isascii() and b"\x1b" not in raw:
        text = raw.decode("ascii")
    else:
        names = values.get(SPECIFIC_CHARACTER_SET, b"").rstrip(b"\0 ").decode("latin-1").split("\\")
        # only names of PS3.3 C.12.1.1.2: pydicom would also take any codec of Python
        known = [name.strip() if name.strip() in python_encoding else "ISO_IR 6" for name in names]
        text = str(decode_bytes(raw, convert_encodings(known), {0x5C}))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
