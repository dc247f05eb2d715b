"""Reading syslog frames from a byte stream (RFC 5425 4.3, RFC 6587 3.4), without a socket.

Every declared octet is consumed, whatever its number: an oversize frame is kept as its head, its length and the SHA-256 of the
whole, and the stream stays in step. Also accepted: byte order marks and line ends before a frame, and LF-terminated records
that begin with `<` (RFC 6587 3.4.2). With `by_line` a stream whose first octet is no digit is lines to its end (non-transparent
framing): then every line is a record, whatever it begins with, and nothing can break the framing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from securepacs.errors import MalformedError

DEFAULT_LIMIT = 1024 * 1024  # octets kept of one record; PS3.15 A.6 asks for at least 32,768
MAX_DIGITS = 10
_BETWEEN = b"\xef\xbb\xbf\r\n"
_LINE_ENDS = b"\r\n"
_DIGITS = b"0123456789"
_COUNT = re.compile(rb"([1-9][0-9]{0,%d}) " % (MAX_DIGITS - 1))
_ZERO, _SPACE, _LESS_THAN = b"0 <"


@dataclass(frozen=True, slots=True)
class Frame:
    """One record as received: `data` its octets (the head of them when `truncated`), `length` and `sha256` those of the whole.

    A frame cut off by the end of the stream is truncated too; its `length` is then what arrived.
    """

    data: bytes
    length: int
    sha256: bytes
    truncated: bool = False


class FrameReader:
    """Turns received bytes into frames; any split of the stream gives the same frames.

    At the first octet that can begin no frame `error` is set: the frames before it are still returned, every later `feed` raises
    it, and `end` gives the octets from there on. The connection must then be closed, because nothing tells where the next frame
    begins. `by_line` also takes streams that are lines without octet counts (RFC 6587 3.4.2).
    """

    def __init__(self, *, limit: int = DEFAULT_LIMIT, by_line: bool = False) -> None:
        self.error: MalformedError | None = None
        self._limit = limit
        self._undecided = by_line  # until the first octet of the first frame
        self._lines_only = False
        self._digits = bytearray()
        self._kept = bytearray()
        self._hash = sha256()
        self._seen = 0
        self._length: int | None = None  # of the frame being read; None: reading its count
        self._by_line = False
        self._position = 0  # octets consumed in the life of the stream

    @property
    def inside_frame(self) -> bool:
        """True when a frame has begun and not ended."""
        return bool(self._digits) or self._length is not None or self._by_line

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Take received bytes and return the frames they complete, in order. Raises MalformedError once `error` is set."""
        if self.error is not None:
            raise self.error
        buffer, offset, frames = bytes(data), 0, list[Frame]()
        while offset < len(buffer) and self.error is None:
            if not self.inside_frame and not self._lines_only:
                offset = self._read_whole_frames(buffer, offset, frames)
                if offset == len(buffer):
                    break
            if self._by_line:
                offset = self._read_line(buffer, offset, frames)
            elif self._length is not None:
                offset = self._read_octets(buffer, offset, frames)
            else:
                offset = self._read_count(buffer, offset)
        if self.error is not None:
            rest = bytes(self._digits) + buffer[offset:]
            self._digits.clear()
            self._keep(rest, 0, len(rest))
        return frames

    def feed_rest(self, data: bytes) -> None:
        """Take octets after `error` was set: `end` gives them with what began no frame, as far as the limit goes."""
        self._keep(data, 0, len(data))

    def end(self) -> Frame | None:
        """Tell that the stream ended; what is left (an unfinished frame, octets that begin none) is returned as truncated."""
        if not self._seen:  # a count without an octet after it says nothing worth keeping
            return None
        return self._finish(truncated=True)

    def _read_whole_frames(self, buffer: bytes, offset: int, frames: list[Frame]) -> int:
        """Take the frames that are in the buffer from their count to their end; the common case, and all of it at once."""
        while found := _COUNT.match(buffer, offset):
            self._undecided = False
            start, length = found.end(), int(found[1])
            if length > self._limit or start + length > len(buffer):
                break
            data = buffer[start : start + length]
            frames.append(Frame(data, length, sha256(data).digest()))
            self._position += start + length - offset
            offset = start + length
        return offset

    def _read_count(self, buffer: bytes, offset: int) -> int:
        """Consume one octet of MSG-LEN, or the space after it."""
        octet = buffer[offset]
        if self._undecided and octet not in _BETWEEN:
            self._undecided, self._lines_only = False, octet not in _DIGITS
        if self._lines_only:
            self._by_line = octet not in _LINE_ENDS
            self._position += not self._by_line
            return offset + (not self._by_line)
        if octet in _DIGITS and (self._digits or octet != _ZERO) and len(self._digits) < MAX_DIGITS:
            self._digits.append(octet)
        elif octet == _SPACE and self._digits:
            self._length = int(self._digits)
            self._digits.clear()
        elif octet == _LESS_THAN and not self._digits:  # no count: the record ends with a line feed
            self._by_line = True
            return offset
        elif octet not in _BETWEEN or self._digits:
            self.error = MalformedError(
                "a syslog frame begins with its octet count", offset=self._position, standard="RFC 5425 4.3"
            )
            return offset
        self._position += 1
        return offset + 1

    def _read_octets(self, buffer: bytes, offset: int, frames: list[Frame]) -> int:
        end = min(len(buffer), offset + (self._length or 0) - self._seen)
        self._keep(buffer, offset, end)
        if self._seen == self._length:
            frames.append(self._finish())
        return end

    def _read_line(self, buffer: bytes, offset: int, frames: list[Frame]) -> int:
        end = buffer.find(b"\n", offset)
        if end < 0:
            self._keep(buffer, offset, len(buffer))
            return len(buffer)
        self._keep(buffer, offset, end)
        self._position += 1
        frames.append(self._finish())
        return end + 1

    def _keep(self, buffer: bytes, start: int, end: int) -> None:
        view = memoryview(buffer)[start:end]
        self._hash.update(view)
        self._kept += view[: self._limit - len(self._kept)]
        self._seen += end - start
        self._position += end - start

    def _finish(self, *, truncated: bool = False) -> Frame:
        done = Frame(bytes(self._kept), self._seen, self._hash.digest(), truncated or self._seen > self._limit)
        self._kept.clear()
        self._hash, self._seen, self._length, self._by_line = sha256(), 0, None, False
        return done
