"""EncapsulatedContentInfo (RFC 5652 5.2) as a stream, the same in SignedData and DigestedData."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from asn1crypto import core

from securepacs.cms.algorithms import HashState
from securepacs.cms.nesting import content_type as read_content_type
from securepacs.cms.stream import OCTET_STRING, SEQUENCE, Buffer, Level, Reader
from securepacs.errors import MalformedError

_EXPLICIT_0 = 0xA0


def content_levels(structure: Level, content_type: str, wrapped_as: str | None) -> list[Level]:
    """Return the levels from the outermost to the content: ContentInfo if `wrapped_as` names its type, the structure."""
    outer = [] if wrapped_as is None else [Level(SEQUENCE, _oid(wrapped_as)), Level(_EXPLICIT_0)]
    return [*outer, structure, Level(SEQUENCE, _oid(content_type)), Level(_EXPLICIT_0)]


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


class Encapsulated:
    """The content of a structure being read."""

    def __init__(self, reader: Reader, what: str) -> None:
        reader.enter(SEQUENCE, "encapsulated content")
        self._reader = reader
        self.content_type = read_content_type(reader)
        if reader.at_end():
            raise MalformedError(f"the {what} carries no content", standard="RFC 5652 5.2")

    def chunks(self) -> Iterator[Buffer]:
        """Yield the content and step out of it."""
        self._reader.enter(_EXPLICIT_0, "content")
        yield from self._reader.octets(OCTET_STRING)
        self._reader.leave()
        self._reader.leave()


def watched(chunks: Iterable[Buffer], states: Sequence[HashState]) -> Iterator[Buffer]:
    """Pass pieces on after all hashes have seen them."""
    for chunk in chunks:
        for state in states:
            state.update(chunk)
        yield chunk


def joined(chunks: Iterable[Buffer]) -> bytes:
    """Return a stream in one piece."""
    whole = bytearray()
    for chunk in chunks:
        whole += chunk
    return bytes(whole)
