"""Attributes as values that can be changed and encoded anew, and where they stand in an encoded data set (PS3.5 7).

Only attributes that a rule may touch are read into `Attribute`; everything else stays a view of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from securepacs.dicom import EncodedDataSet, Encoding, Part, Token, encode_element, encode_item, encode_sequence
from securepacs.dicom.edit import swap_words
from securepacs.dicom.elements import SEQUENCE_DELIMITATION, UNDEFINED
from securepacs.dicom.vr import LONG_FORM

_SHORT_LIMIT = 0xFFFE


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: `value` little endian, or `items` of a sequence, or `fragments` of encapsulated data; the others are None."""

    tag: int
    vr: bytes
    value: bytes | None = None
    items: tuple[tuple[Attribute, ...], ...] | None = None
    fragments: tuple[bytes, ...] | None = None

    def encode(self, encoding: Encoding) -> bytes:
        """Return the attribute in `encoding`, lengths explicit where they may be."""
        if self.items is not None:
            return encode_sequence(self.tag, [encode_all(item, encoding) for item in self.items], encoding)
        if self.fragments is not None:
            return _encapsulated(self.tag, self.vr, self.fragments, encoding)
        value = self.value or b""
        if encoding.explicit and len(value) > _SHORT_LIMIT and self.vr not in LONG_FORM:
            return encode_element(self.tag, b"UN", value, encoding)  # the way out that PS3.5 6.2.2 gives
        return encode_element(self.tag, self.vr, value, encoding)

    @property
    def text(self) -> str:
        """The value without padding, one character for each octet."""
        return (self.value or b"").decode("latin-1").rstrip(" \0")


def encode_all(attributes: Iterable[Attribute], encoding: Encoding) -> bytes:
    """Return a data set of `attributes` in ascending order of tags."""
    return b"".join(attribute.encode(encoding) for attribute in sorted(attributes, key=lambda attribute: attribute.tag))


def _encapsulated(tag: int, vr: bytes, fragments: Sequence[bytes], encoding: Encoding) -> bytes:
    order = "<" if encoding.little else ">"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + (vr + b"\0\0" if encoding.explicit else b"")
    content = b"".join(encode_item(fragment, encoding) for fragment in fragments)
    end = struct.pack(order + "HHI", SEQUENCE_DELIMITATION >> 16, SEQUENCE_DELIMITATION & 0xFFFF, 0)
    return head + struct.pack(order + "I", UNDEFINED) + content + end


@dataclass(frozen=True, slots=True)
class Standing:
    """A top-level attribute where it stands: `dataset.view[start:end]`, with its tokens."""

    dataset: EncodedDataSet
    start: int
    end: int
    tokens: tuple[Token, ...]

    @property
    def tag(self) -> int:
        """Its tag."""
        return self.tokens[0].tag

    @property
    def vr(self) -> bytes:
        """Its VR; that of a sequence is SQ even when it is written as UN."""
        return b"SQ" if self.is_sequence else self.tokens[0].vr

    @property
    def is_sequence(self) -> bool:
        """Whether it has items."""
        return self.tokens[0].part is Part.SEQUENCE

    @property
    def encoded(self) -> memoryview:
        """Its octets in the file."""
        return self.dataset.view[self.start : self.end]

    def read(self) -> Attribute:
        """Return it as a value that can be changed."""
        return _Reading(self).attribute()


def standing(dataset: EncodedDataSet) -> Iterator[Standing]:
    """Yield the top-level attributes of a data set in file order."""
    opened: list[Token] = []
    for token in dataset.tokens():
        opened.append(token)
        if token.depth == 0 and token.part in (Part.ELEMENT, Part.SEQUENCE_END, Part.FRAGMENTS_END):
            end = token.value_offset + (token.length if token.part is Part.ELEMENT else 0)
            yield Standing(dataset, opened[0].offset, end, tuple(opened))
            opened = []


class _Reading:
    """Turns tokens into attributes; nesting is bounded by the walker."""

    def __init__(self, standing: Standing) -> None:
        self._view = standing.dataset.view
        self._big = not standing.dataset.encoding.little
        self._tokens = iter(standing.tokens)
        self._implicit = 0  # how many sequences of VR UN are open: they are little endian always (PS3.5 6.2.2)

    def attribute(self) -> Attribute:
        return self._from(next(self._tokens))

    def _from(self, token: Token) -> Attribute:
        if token.part is Part.ELEMENT:
            raw = self._view[token.value_offset : token.value_offset + token.length]
            swapped = self._big and not self._implicit
            return Attribute(token.tag, token.vr, value=swap_words(raw, token.vr) if swapped else bytes(raw))
        if token.part is Part.FRAGMENTS:
            return Attribute(token.tag, token.vr, fragments=tuple(self._fragments()))
        unknown = token.vr == b"UN"
        self._implicit += unknown
        items = tuple(self._items())
        self._implicit -= unknown
        return Attribute(token.tag, b"SQ", items=items)

    def _items(self) -> Iterator[tuple[Attribute, ...]]:
        for token in self._tokens:
            if token.part is Part.SEQUENCE_END:
                return
            yield tuple(self._content())

    def _content(self) -> Iterator[Attribute]:
        for token in self._tokens:
            if token.part is Part.ITEM_END:
                return
            yield self._from(token)

    def _fragments(self) -> Iterator[bytes]:
        for token in self._tokens:
            if token.part is Part.FRAGMENTS_END:
                return
            yield bytes(self._view[token.value_offset : token.value_offset + token.length])
