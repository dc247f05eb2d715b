"""BER read and written piece by piece (X.690 8.1): values of any size in constant memory, all bounds checked, no recursion.

`Reader` walks over a source of chunks. Small values are handed out whole, as octets for a decoder; long octet strings come as a
stream of pieces, whatever mixture of definite and indefinite lengths the writer chose. No length that a message merely claims
reserves memory. A piece is valid only until the next one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from securepacs.cms import ber
from securepacs.errors import MalformedError, UsageError

Buffer: TypeAlias = bytes | bytearray | memoryview

SEQUENCE, SET, OCTET_STRING, INTEGER, OBJECT_IDENTIFIER = 0x30, 0x31, 0x04, 0x02, 0x06
CONSTRUCTED = 0x20
END_OF_CONTENTS = b"\0\0"
MAX_VALUE = 1 << 20  # octets of a value that is read whole

_MAX_HEADER = 16
_SHORT_SEGMENT = 1 << 16  # shorter ones are gathered, because every piece costs the consumer a call


@dataclass(frozen=True, slots=True)
class Header:
    """Identifier and length octets of one value. `length` is None when indefinite; `end` is the offset where contents must end."""

    tag: int
    length: int | None
    offset: int
    end: int | None


class Reader:
    """A cursor over chunks of BER.

    Containers are entered and left explicitly: `enter` checks the tag, `at_end` tells whether anything follows in the innermost
    one, `leave` demands that nothing does. Raises MalformedError with the offset in this message.
    """

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._chunks = iter(chunks)
        self._view = memoryview(b"")
        self._position = 0
        self._base = 0
        self._open: list[Header] = []

    @property
    def offset(self) -> int:
        """Octets consumed so far."""
        return self._base + self._position

    def peek(self) -> int:
        """Return the next identifier octet, -1 at the end of the source."""
        self._fill(1)
        return self._view[self._position] if self._position < len(self._view) else -1

    def ahead(self, count: int) -> bytes:
        """Return up to `count` of the next octets without consuming them."""
        self._fill(count)
        return bytes(self._view[self._position : self._position + count])

    def enter(self, tag: int, what: str) -> None:
        """Read the header of a constructed value with this identifier octet and step into it."""
        header = self._header()
        if header.tag != tag:
            raise MalformedError(f"there is no {what} where one belongs", offset=header.offset)
        self._open.append(header)

    def at_end(self) -> bool:
        """Tell whether the innermost container has nothing more."""
        header = self._open[-1]
        if header.length is not None:
            return self.offset == header.end
        self._fill(2)
        return bytes(self._view[self._position : self._position + 2]) == END_OF_CONTENTS

    def leave(self) -> None:
        """Step out of the innermost container; MalformedError when something is left in it."""
        if not self.at_end():
            raise MalformedError("a structure holds more than it should", offset=self.offset)
        if self._open.pop().length is None:
            self._position += 2

    def rest(self) -> Iterator[Buffer]:
        """Yield everything that has not been consumed."""
        while True:
            if self._position == len(self._view):
                self._fill(1)
                if self._position == len(self._view):
                    return
            piece = self._view[self._position :]
            self._position = len(self._view)
            yield piece

    def finish(self) -> None:
        """Demand that the source ends here."""
        self._fill(1)
        if self._position < len(self._view):
            raise MalformedError("data follows the value", offset=self.offset)

    def value(self, *, limit: int = MAX_VALUE) -> bytes:
        """Return the next value whole, checked to be well-formed BER of at most `limit` octets."""
        start = self.offset
        header = self._header()
        raw = bytearray(_header_octets(header, start, self.offset, self._view, self._position))
        depth = 0
        while True:
            if header.length is None:
                depth += 1
            elif header.length == 0 and header.tag == 0 and depth:
                depth -= 1
            else:
                self._append(raw, header.length, limit, start)
            if depth > ber.MAX_DEPTH:
                raise MalformedError(f"values are nested more than {ber.MAX_DEPTH} deep", offset=start)
            if not depth:
                break
            before = self.offset
            header = self._header()
            raw += _header_octets(header, before, self.offset, self._view, self._position)
        octets = bytes(raw)
        ber.check(octets)
        return octets

    def octets(self, tag: int) -> Iterator[Buffer]:
        """Yield the contents of an octet string in pieces: `tag` when primitive, or constructed of OCTET STRING segments."""
        header = self._header()
        if header.tag == tag and header.length is not None:
            yield from self._pieces(header.length)
            return
        if header.tag != tag | CONSTRUCTED:
            raise MalformedError("there is no octet string where one belongs", offset=header.offset, standard="X.690 8.7")
        bottom = len(self._open)
        self._open.append(header)
        gathered: list[Buffer] = []
        while len(self._open) > bottom:
            if self._near_end():  # the chunk goes away with the next read
                if gathered:
                    yield b"".join(gathered)
                gathered = []
                self._fill(_MAX_HEADER)
            if self.at_end():
                self.leave()
                continue
            header = self._header()
            if header.tag == OCTET_STRING | CONSTRUCTED:
                self._open.append(header)
                if len(self._open) > ber.MAX_DEPTH:
                    raise MalformedError(f"values are nested more than {ber.MAX_DEPTH} deep", offset=header.offset)
                continue
            if header.tag != OCTET_STRING or header.length is None:
                raise MalformedError("an octet string holds something else", offset=header.offset, standard="X.690 8.7")
            end = self._position + header.length
            if header.length < _SHORT_SEGMENT and end <= len(self._view):
                gathered.append(self._view[self._position : end])
                self._position = end
                if header.length:
                    self._gather_equals(header, gathered)
                continue
            if gathered:
                yield b"".join(gathered)
                gathered = []
            yield from self._pieces(header.length)
        if gathered:
            yield b"".join(gathered)

    def _gather_equals(self, first: Header, gathered: list[Buffer]) -> None:
        """Take the segments that follow with the very same header: streaming writers make them by the hundred thousand."""
        length = first.length or 0
        step = self.offset - first.offset
        view, position = self._view, self._position
        head = bytes(view[position - step : position - length])
        width = len(head)
        outer = self._open[-1].end
        stop = len(view) if outer is None else min(len(view), outer - self._base)
        last = stop - step
        while position <= last and view[position : position + width] == head:
            gathered.append(view[position + width : position + step])
            position += step
        self._position = position

    def _near_end(self) -> bool:
        return len(self._view) - self._position < _MAX_HEADER

    def _pieces(self, length: int) -> Iterator[Buffer]:
        """Yield the next `length` octets as they come."""
        while length:
            if self._position == len(self._view):
                self._next_chunk()
            end = min(len(self._view), self._position + length)
            piece = self._view[self._position : end]
            self._position = end
            length -= len(piece)
            yield piece

    def _append(self, raw: bytearray, length: int, limit: int, start: int) -> None:
        if len(raw) + length > limit:
            raise MalformedError(f"a value is longer than {limit} octets", offset=start)
        for piece in self._pieces(length):
            raw += piece

    def _header(self) -> Header:
        self._fill(_MAX_HEADER)
        start = self.offset
        try:
            constructed, length, after = ber.header(self._view, self._position, len(self._view))
        except MalformedError as error:
            raise MalformedError(error.message.rpartition(" at byte ")[0], offset=start, standard=error.standard) from None
        tag = self._view[self._position]
        self._position = after
        limit = self._open[-1].end if self._open else None
        if length is None:
            if not constructed:
                raise MalformedError("a primitive value has indefinite length", offset=start, standard="X.690 8.1.3")
            end = limit
        else:
            end = self.offset + length
            if limit is not None and end > limit:
                raise MalformedError("a value is longer than what holds it", offset=start, standard="X.690 8.1.3")
        if limit is not None and self.offset > limit:
            raise MalformedError("a value is longer than what holds it", offset=start, standard="X.690 8.1.3")
        return Header(tag, length, start, end)

    def _fill(self, count: int) -> None:
        """Have `count` octets in the view, or all that the source still has."""
        while len(self._view) - self._position < count:
            rest = bytes(self._view[self._position :])
            chunk = next(self._chunks, None)
            if chunk is None:
                return
            self._base += self._position
            self._position = 0
            self._view = memoryview(rest + bytes(chunk)) if rest else memoryview(chunk)

    def _next_chunk(self) -> None:
        """Replace an exhausted view; MalformedError at the end of the source."""
        while self._position == len(self._view):
            chunk = next(self._chunks, None)
            if chunk is None:
                raise MalformedError("data ends before its value does", offset=self.offset, standard="X.690 8.1")
            self._base += self._position
            self._position = 0
            self._view = memoryview(chunk)


def _header_octets(header: Header, start: int, end: int, view: memoryview, position: int) -> Buffer:
    """Return the octets of the header that was just read; they are still in the view."""
    return view[position - (end - start) : position]


def tlv(tag: int, *contents: Buffer) -> bytes:
    """Return one value in definite length (X.690 8.1.3.4, 10.1)."""
    return b"".join((header(tag, sum(map(len, contents))), *contents))


def header(tag: int, length: int | None) -> bytes:
    """Return identifier and length octets; `length` None is the indefinite form (X.690 8.1.3.6)."""
    if length is None:
        return bytes((tag, 0x80))
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets


@dataclass(frozen=True, slots=True)
class Stream:
    """Octets in pieces. `size` is None when it is not known before the last piece."""

    size: int | None
    chunks: Iterable[Buffer]


@dataclass(frozen=True, slots=True)
class Level:
    """A constructed value around a stream: what stands in it before the next level, and how many octets after it."""

    tag: int
    leading: bytes = b""
    trailing: int = 0


def framed(levels: Sequence[Level], tag: int, content: Stream, trailers: Callable[[], Sequence[bytes]]) -> Stream:
    """Return the encoding of `levels` around an octet string with identifier octet `tag` and contents `content`.

    `trailers` is asked after the content for what each level ends with, outermost first. With a known size all lengths are
    definite; without one, indefinite, and the octet string is constructed of segments.
    """
    if content.size is None:
        return Stream(None, _indefinite(levels, tag, content.chunks, trailers))
    size = content.size
    heads = [header(tag, size)]
    size += len(heads[0])
    for level in reversed(levels):
        size += len(level.leading) + level.trailing
        heads.append(header(level.tag, size) + level.leading)
        size += len(heads[-1]) - len(level.leading)
    return Stream(size, _definite(b"".join(reversed(heads)), content, [level.trailing for level in levels], trailers))


def _definite(head: bytes, content: Stream, sizes: Sequence[int], trailers: Callable[[], Sequence[bytes]]) -> Iterator[Buffer]:
    yield head
    written = 0
    for chunk in content.chunks:
        written += len(chunk)
        yield chunk
    ends = trailers()
    if written != content.size or [len(end) for end in ends] != list(sizes):
        raise UsageError(
            "the content changed its size while it was read", hint="nothing may write to a file that is being protected"
        )
    yield b"".join(reversed(ends))


def _indefinite(
    levels: Sequence[Level], tag: int, chunks: Iterable[Buffer], trailers: Callable[[], Sequence[bytes]]
) -> Iterator[Buffer]:
    yield b"".join(header(level.tag, None) + level.leading for level in levels) + header(tag | CONSTRUCTED, None)
    for chunk in chunks:
        if len(chunk):
            yield header(OCTET_STRING, len(chunk))
            yield chunk
    yield END_OF_CONTENTS + b"".join(end + END_OF_CONTENTS for end in reversed(trailers()))
