"""Structures seen before: data sets that are laid out alike are read once (PS3.5 7).

The images of a series often differ in values alone: the same elements of the same lengths in the same places. With explicit VR,
reading depends on nothing but the headers: if each header of a data set stands where it stood in an earlier one and is the same,
byte for byte, then so is the whole structure. To compare them is one step instead of hundreds.

Only what came twice is remembered, and only structures of ordinary size; see docs/adr/0032.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from securepacs.dicom.elements import Encoding, Part, Token

_MOST_TOKENS = 1000  # a quarter of a megabyte; few images of a series have more
_MOST_LAYOUTS = 16
_MOST_DERIVED = 8  # of one layout
_MOST_PLACES = 1024  # sizes of data sets that came once

T = TypeVar("T")


class Layout:
    """The tokens of a data set, and what was found out from nothing but them. Shared: neither may be changed."""

    __slots__ = ("_derived", "tokens")

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self._derived: dict[Hashable, Any] = {}

    def derive(self, compute: Callable[..., T], *arguments: Hashable) -> T:
        """Return compute(tokens, *arguments), computed once. `compute` is a function of a module and depends on nothing else."""
        key = (compute, *arguments)
        try:
            found: T = self._derived[key]
        except KeyError:
            found = compute(self.tokens, *arguments)
            if len(self._derived) < _MOST_DERIVED:
                self._derived[key] = found
        return found


class _Known:
    """A layout that came twice, with the headers by which it is recognized."""

    __slots__ = ("_headers", "_read", "layout")

    def __init__(self, layout: Layout, view: memoryview, start: int) -> None:
        self.layout = layout
        self._read = _reader(layout.tokens, start).unpack_from
        self._headers = self._read(view, start)

    def fits(self, view: memoryview, start: int) -> bool:
        return self._read(view, start) == self._headers


def _reader(tokens: Sequence[Token], start: int) -> struct.Struct:
    """Return the structure whose fields are all headers and delimiters of the tokens, and whose padding is the values."""
    parts, position = ["="], start
    for token in tokens:
        gap, size = token.offset - position, token.value_offset - token.offset
        if size:
            parts.append(f"{gap}x{size}s" if gap else f"{size}s")
            position = token.value_offset
    return struct.Struct("".join(parts))


class Layouts:
    """Remembers the layouts that came last. Threads may share it: each step on a dictionary is whole, what is lost is read anew."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, int, Encoding], _Known] = OrderedDict()
        self._once: OrderedDict[tuple[int, int, Encoding], None] = OrderedDict()

    def recall(self, view: memoryview, start: int, end: int, encoding: Encoding) -> Layout | None:
        """Return the layout of view[start:end] if it is a known one."""
        known = self._known.get((start, end, encoding))
        return known.layout if known is not None and known.fits(view, start) else None

    def learn(self, tokens: list[Token], view: memoryview, start: int, end: int, encoding: Encoding) -> Layout:
        """Make the layout of a data set that was just read, and remember it when one of its size came before."""
        layout = Layout(tokens)
        if not encoding.explicit or len(tokens) > _MOST_TOKENS:
            return layout
        if any(token.part is Part.SEQUENCE and token.vr == b"UN" for token in tokens):  # its content is in implicit VR
            return layout
        place = (start, end, encoding)
        if place in self._once or place in self._known:
            self._once.pop(place, None)
            self._known.pop(place, None)
            self._known[place] = _Known(layout, view, start)
            _shorten(self._known, _MOST_LAYOUTS)
        else:
            self._once[place] = None
            _shorten(self._once, _MOST_PLACES)
        return layout


def _shorten(places: OrderedDict[tuple[int, int, Encoding], Any], most: int) -> None:
    if len(places) > most:
        with suppress(KeyError):  # another thread was faster
            places.popitem(last=False)
