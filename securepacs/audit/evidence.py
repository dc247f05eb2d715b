"""The folder an audit log is exported to: all that is needed to verify it on a machine with neither network nor database.

scope                    which octets are in the folder (see `Scope`)
checkpoint               the newest signed checkpoint
checkpoints/SIZE         every earlier signed checkpoint
stamps/SIZE.N.tst        time stamp tokens over checkpoints (RFC 3161, DER)
tile/...                 the log itself in the tlog-tiles layout: hashes and entries, no patient data
content/N                octets and salts of the records of entry bundle N: for each its place in the bundle (1 octet), its
salt (32), its length (4, big-endian) and its octets
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct

from securepacs.audit.log_entry import SALT_SIZE, decode_ranges, encode_ranges
from securepacs.audit.tiles import bundle_path
from securepacs.errors import MalformedError

_TITLE = "securepacs audit export v1"
_ALL = "all"
_SCOPE = re.compile(rf"{_TITLE}\nsize (?P<size>0|[1-9]\d{{0,18}})\ncontent (?P<content>all|none|[0-9,-]+)\n", flags=re.ASCII)
_HEADER = Struct(f">B{SALT_SIZE}sI")


@dataclass(frozen=True, slots=True)
class Scope:
    """What an export holds: the log up to `size`, and the octets of all entries (None) or of those listed."""

    size: int
    content: tuple[range, ...] | None

    @classmethod
    def of(cls, size: int, content: Iterable[int] | None) -> Scope:
        """Return a scope; `content` are indexes of entries, None for all."""
        if content is None:
            return cls(size, None)
        numbers = encode_ranges(content)
        return cls(size, decode_ranges(numbers) if numbers else ())

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read the file `scope`; MalformedError for anything `text` would not write."""
        found = _SCOPE.fullmatch(text)
        if found is None:
            raise MalformedError("the file `scope` of the export cannot be read")
        content = found["content"]
        ranges = None if content == _ALL else () if content == "none" else decode_ranges(content)
        scope = cls(int(found["size"]), ranges)
        if scope.text() != text:
            raise MalformedError("the file `scope` of the export is not written as it must be")
        return scope

    def text(self) -> str:
        """Return the file `scope`."""
        if self.content is None:
            content = _ALL
        else:
            content = ",".join(f"{each.start}" if len(each) == 1 else f"{each.start}-{each.stop - 1}" for each in self.content)
        return f"{_TITLE}\nsize {self.size}\ncontent {content or 'none'}\n"


@dataclass(frozen=True, slots=True)
class Content:
    """The octets of one entry and their salt; `place` is its position in the bundle."""

    place: int
    salt: bytes
    raw: bytes


def content_path(number: int) -> str:
    """Return the path of the octets of entry bundle `number`."""
    return bundle_path(number).replace("tile/entries/", "content/", 1)


def encode_content(contents: Iterable[Content]) -> bytes:
    """Return octets as they stand in a content file."""
    return b"".join(_HEADER.pack(each.place, each.salt, len(each.raw)) + each.raw for each in contents)


def decode_content(octets: bytes) -> list[Content]:
    """Read a content file; MalformedError when it is cut off or out of order."""
    contents, offset = list[Content](), 0
    while offset < len(octets):
        start = offset + _HEADER.size
        if start > len(octets):
            raise MalformedError("a content file is cut off", offset=offset)
        place, salt, length = _HEADER.unpack_from(octets, offset)
        if start + length > len(octets) or (contents and place <= contents[-1].place):
            raise MalformedError("a content file is cut off or out of order", offset=offset)
        contents.append(Content(place, salt, octets[start : start + length]))
        offset = start + length
    return contents
