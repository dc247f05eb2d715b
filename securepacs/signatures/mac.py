"""The byte stream a Message Authentication Code is computed over (PS3.3 C.12.1.1.3.1.1).

The stream is the explicit VR little endian encoding of the signed elements, then of the signature item's own elements, with
sequences and encapsulated data reduced to what every encoding has in common: no lengths of sequences and items, no item
delimiters, always a sequence delimiter. `MacStream` makes it from the tokens of the walker and hands it to `update` in spans;
values that are stored as they are hashed are never copied.

Several readings of the same file exist in the field (`Reading`): the letter of the standard; DCMTK's, which drops surplus padding
of text values; that of DCMTK before 3.5.4, which included the length of each fragment; and, for a file in implicit VR, that its
pixel data were OB when they were signed, which implicit VR forgets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from securepacs.dicom.edit import swap_words
from securepacs.dicom.elements import EXPLICIT_LITTLE, PIXEL_DATA, Encoding, Part, Token
from securepacs.dicom.vr import LONG_FORM, TEXT
from securepacs.errors import MalformedError
from securepacs.signatures.profiles import is_signable_tag, signable_of

_MOST_SKIPPED = 100_000  # a data set of that many attributes does not exist; a file made to exhaust memory may
_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0"
_PAD = {b"UI": b"\0"}
_PADS = b"\0 "
_OPENING = (Part.SEQUENCE, Part.FRAGMENTS)
_CLOSING = (Part.SEQUENCE_END, Part.FRAGMENTS_END)

# elements of the signature item that are not hashed: certificate, signature, time stamp
NOT_HASHED = frozenset({0x04000115, 0x04000120, 0x04000305, 0x04000310})


class Reading(NamedTuple):
    """How a verifier reads the data set: `trimmed` as DCMTK does, `fragment_lengths` as DCMTK before 3.5.4 did.

    `pixel_bytes`: implicit VR pixel data were OB, not OW.
    """

    trimmed: bool = False
    fragment_lengths: bool = False
    pixel_bytes: bool = False


BIT_EXACT = Reading()


class _Signable:
    """The set of those tags in `wanted` that may be in a MAC, for a `wanted` that cannot be listed."""

    def __init__(self, wanted: Container[int]) -> None:
        self._wanted = wanted

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, int) and tag in self._wanted and is_signable_tag(tag)


class UnsignableError(MalformedError):
    """A signed sequence contains an element of unknown VR, which the standard bars from any MAC."""

    code = "unsignable"


@dataclass
class MacStream:
    """Feeds `update` with the stream. After feeding, `padded`, `fragmented` and `guessed` tell which other readings could differ.

    `skipped` collects (start, end) of what is not hashed, in file order: elements that are not wanted, and what stands inside
    wanted sequences and may not be signed; `skipped_in_item` the same of the signature item, for whoever feeds that as well;
    `seen` the wanted tags that were there.
    """

    update: Callable[[memoryview | bytes], object]
    reading: Reading = BIT_EXACT
    padded: bool = False
    fragmented: bool = False
    guessed: bool = False
    skipped: list[tuple[int, int]] = field(default_factory=list)
    skipped_in_item: list[tuple[int, int]] = field(default_factory=list)
    seen: dict[int, None] = field(default_factory=dict)  # a set that keeps its order

    def feed(self, view: memoryview, tokens: Iterable[Token], wanted: Container[int], encoding: Encoding) -> None:
        """Emit the elements of one data set whose tag is in `wanted`; `tokens` must be those of that data set alone.

        UnsignableError when a wanted sequence holds a UN at any depth; wanted elements that cannot be signed at all are left out.
        """
        self._feed(_Spans(view, self.update), view, tokens, wanted, encoding)

    def follow(self, view: memoryview, plan: Plan) -> None:
        """Emit what `plan` says, as `feed` would; `view` must hold the data set that was planned, or one laid out alike."""
        for part in plan.parts:
            self.update(part if isinstance(part, bytes) else view[part[0] : part[1]])
        self.padded |= any(view[end - 1] in _PADS and _has_surplus(view, start, end, vr) for start, end, vr in plan.texts)
        self.fragmented |= plan.fragmented
        self.skipped += plan.skipped
        self.seen.update(plan.seen)

    def _feed(self, spans: _Spans, view: memoryview, tokens: Iterable[Token], wanted: Container[int], encoding: Encoding) -> None:
        plain = encoding == EXPLICIT_LITTLE and not self.reading.trimmed  # leaf elements are hashed as they are stored
        hashed = signable_of(wanted) if isinstance(wanted, frozenset) else _Signable(wanted)
        seen = self.seen
        inside = False  # within a wanted top-level sequence
        top = 0  # where the last top-level sequence began
        skip: Token | None = None  # within something that is not hashed, until it closes
        leaf, fragment = Part.ELEMENT, Part.FRAGMENT
        for token in tokens:
            part, tag, vr, offset, value_offset, length, depth = token
            if part is leaf and not depth:  # the bulk of every file
                end = value_offset + length
                if tag not in hashed or vr == b"UN":
                    self._skip(offset, end)
                    continue
                seen[tag] = None
                if not plain:
                    self._emit_leaf(spans, view, token, encoding)
                    continue
                if vr in TEXT and length and spans.surplus(value_offset, end, vr):
                    self.padded = True
                if offset == spans.end:
                    spans.end = end
                else:
                    spans.extend(offset, end)
                continue
            if not depth and part not in _CLOSING and part is not fragment:
                top = offset
                inside = tag in hashed and vr != b"UN"
                if inside:
                    seen[tag] = None
            if not inside:
                if not depth and part in _CLOSING:
                    self._skip(top, value_offset)
                continue
            if vr == b"UN" and part is not Part.SEQUENCE_END:
                raise UnsignableError("a signed sequence contains an element of unknown VR", offset=offset)
            if skip is not None:
                if part in _CLOSING and depth == skip.depth:
                    self._skip(skip.offset, value_offset)
                    skip = None
                continue
            if depth and part not in _CLOSING and vr and not is_signable_tag(tag):
                if part in _OPENING:
                    skip = token
                else:
                    self._skip(offset, value_offset + length)
                continue
            self._emit(spans, view, token, encoding)
        spans.flush()

    def _skip(self, start: int, end: int) -> None:
        skipped = self.skipped
        if skipped and skipped[-1][1] == start:
            skipped[-1] = (skipped[-1][0], end)
        elif len(skipped) >= _MOST_SKIPPED:
            raise MalformedError("signed and unsigned elements alternate too often", offset=start)
        else:
            skipped.append((start, end))

    def _emit(self, spans: _Spans, view: memoryview, token: Token, encoding: Encoding) -> None:
        part = token.part
        if part is Part.ELEMENT:
            self._emit_leaf(spans, view, token, encoding)
        elif part is Part.FRAGMENTS and token.vr != b"OB":
            self._skip(token.offset + 4, token.offset + 6)
            spans.add(_head(token.tag, b"OB"))  # encapsulated data are OB (PS3.5 A.4) even where a writer said OW
        elif part in _OPENING:
            if encoding == EXPLICIT_LITTLE:
                spans.add((token.offset, token.offset + 8))
            else:
                spans.add(_head(token.tag, token.vr, reserved=_reserved(view, token, encoding)))
        elif part is Part.ITEM:
            spans.add(_ITEM)
        elif part is Part.FRAGMENT:
            self.fragmented = True
            spans.add(_ITEM + struct.pack("<I", token.length) if self.reading.fragment_lengths else _ITEM)
            spans.add((token.value_offset, token.value_offset + token.length))
        elif part in _CLOSING:
            spans.add(_SEQUENCE_END)

    def _emit_leaf(self, spans: _Spans, view: memoryview, token: Token, encoding: Encoding) -> None:
        start, end = token.value_offset, token.value_offset + token.length
        if token.vr in TEXT and token.length and spans.surplus(start, end, token.vr):
            self.padded = True
            if self.reading.trimmed:
                value = _trim(bytes(view[start:end]), token.vr)
                spans.add(_head(token.tag, token.vr, len(value)))
                spans.add(value)
                return
        if encoding == EXPLICIT_LITTLE:
            spans.add((token.offset, end))
            return
        vr = token.vr
        if token.tag == PIXEL_DATA and not encoding.explicit:
            self.guessed = True
            vr = b"OB" if self.reading.pixel_bytes else vr
        reserved = _reserved(view, token, encoding)
        spans.add(_head(token.tag, vr, token.length, offset=token.offset, reserved=reserved))
        spans.add((start, end) if encoding.little else swap_words(view[start:end], token.vr))


class _Spans:
    """Joins neighbouring parts of the file, so that a plain image is a handful of updates."""

    __slots__ = ("_start", "_update", "_view", "end")

    def __init__(self, view: memoryview, update: Callable[[memoryview | bytes], object]) -> None:
        self._view = view
        self._update = update
        self._start = self.end = 0

    def add(self, part: tuple[int, int] | bytes) -> None:
        if isinstance(part, bytes):
            self.flush()
            self._update(part)
            return
        self.extend(*part)

    def extend(self, start: int, end: int) -> None:
        if start != self.end:
            self.flush()
            self._start = start
        self.end = end

    def flush(self) -> None:
        if self.end > self._start:
            self._update(self._view[self._start : self.end])
        self._start = self.end

    def surplus(self, start: int, end: int, vr: bytes) -> bool:
        """Return whether a text value, not empty, carries surplus padding."""
        return self._view[end - 1] in _PADS and _has_surplus(self._view, start, end, vr)


@dataclass(frozen=True, slots=True)
class Plan:
    """The bit-exact stream of a data set in explicit VR little endian, as far as its structure tells.

    `parts`: places in the data set, or bytes. `texts`: the text values, of which each may be padded. The rest as in MacStream.
    """

    parts: tuple[tuple[int, int] | bytes, ...]
    texts: tuple[tuple[int, int, bytes], ...]
    fragmented: bool
    skipped: tuple[tuple[int, int], ...]
    seen: dict[int, None]


def plan(tokens: Iterable[Token], wanted: frozenset[int]) -> Plan:
    """Plan the stream of the `wanted` elements. The errors are those of `MacStream.feed`."""
    spans = _Planned()
    stream = MacStream(update=len)
    stream._feed(spans, memoryview(b""), tokens, wanted, EXPLICIT_LITTLE)
    return Plan(tuple(spans.parts), tuple(spans.texts), stream.fragmented, tuple(stream.skipped), stream.seen)


class _Planned(_Spans):
    """Writes down what would be hashed, and looks at no value."""

    __slots__ = ("parts", "texts")

    def __init__(self) -> None:
        super().__init__(memoryview(b""), self._literal)
        self.parts: list[tuple[int, int] | bytes] = []
        self.texts: list[tuple[int, int, bytes]] = []

    def _literal(self, part: memoryview | bytes) -> None:
        self.parts.append(bytes(part))

    def flush(self) -> None:
        if self.end > self._start:
            self.parts.append((self._start, self.end))
        self._start = self.end

    def surplus(self, start: int, end: int, vr: bytes) -> bool:
        self.texts.append((start, end, vr))
        return False


def _reserved(view: memoryview, token: Token, encoding: Encoding) -> bytes:
    """Return the reserved field of a long header as it stands, so that nobody can use it unnoticed; zeros in implicit VR."""
    if encoding.explicit and token.vr in LONG_FORM:
        return bytes(view[token.offset + 6 : token.offset + 8])
    return b"\0\0"


def _head(tag: int, vr: bytes, length: int | None = None, *, offset: int | None = None, reserved: bytes = b"\0\0") -> bytes:
    """Encode a header in explicit VR little endian; without `length` that of a sequence or of encapsulated data."""
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if length is None:
        return start + reserved
    if vr in LONG_FORM:
        return start + reserved + struct.pack("<I", length)
    if length > 0xFFFF:
        raise UnsignableError(f"a value of VR {vr.decode('ascii')} with {length} bytes has no explicit VR form", offset=offset)
    return start + struct.pack("<H", length)


def _has_surplus(view: memoryview, start: int, end: int, vr: bytes) -> bool:
    """Return whether trimming would change the value view[start:end]: more than the one pad byte that even length may need."""
    last = view[end - 1]
    if last not in _PADS:
        return False
    length = end - start
    return length % 2 == 1 or length < 2 or view[end - 2] in _PADS or last != (0 if vr == b"UI" else 0x20)


def _trim(value: bytes, vr: bytes) -> bytes:
    """Return the value as DCMTK hashes it: trailing padding dropped, then padded to even length."""
    pad = _PAD.get(vr, b" ")
    trimmed = value.rstrip(b"\0" if vr == b"UI" else b"\0 ")
    return trimmed + pad * (len(trimmed) % 2)
