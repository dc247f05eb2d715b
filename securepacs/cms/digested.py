"""CMS DigestedData (RFC 5652 7): integrity without an author. It means something only inside an encryption or a signature."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator

from asn1crypto import cms, core

from securepacs.cms import ber
from securepacs.cms.algorithms import SIGNING_HASHES, HashState, hash_state
from securepacs.cms.encapsulated import Encapsulated, content_levels, joined, watched
from securepacs.cms.nesting import enter
from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, Buffer, Level, Reader, Stream, framed, tlv
from securepacs.codes import ID_DATA, ID_DIGESTED_DATA
from securepacs.errors import IntegrityFailure, MalformedError, UsageError


def seal_stream(
    content: Stream,
    *,
    digest: str = "sha256",
    content_type: str = ID_DATA,
    bare: bool = False,
    new_hash: Callable[[str], HashState] = hash_state,
) -> Stream:
    """Return `content` with its digest as a ContentInfo, or with `bare` the DigestedData alone (RFC 5652 7)."""
    if digest not in SIGNING_HASHES:
        raise UsageError(f"the digest {digest} is not one of {', '.join(SIGNING_HASHES)}", standard="RFC 5754")
    state = new_hash(digest)
    algorithm = tlv(SEQUENCE, cms.DigestAlgorithm({"algorithm": digest})["algorithm"].dump(), core.Null().dump())
    version = tlv(INTEGER, b"\0" if content_type == ID_DATA else b"\2")
    trailing = len(tlv(OCTET_STRING, bytes(state.digest_size)))
    structure = Level(SEQUENCE, version + algorithm, trailing)
    levels = content_levels(structure, content_type, None if bare else ID_DIGESTED_DATA)

    def trailers() -> list[bytes]:
        return [tlv(OCTET_STRING, state.digest()) if level is structure else b"" for level in levels]

    return framed(levels, OCTET_STRING, Stream(content.size, watched(content.chunks, [state])), trailers)


def seal(content: bytes, *, digest: str = "sha256", content_type: str = ID_DATA, bare: bool = False) -> bytes:
    """Return `content` with its digest as DER; see `seal_stream`."""
    return joined(seal_stream(Stream(len(content), [content]), digest=digest, content_type=content_type, bare=bare).chunks)


class DigestedReader:
    """A DigestedData whose version has just been read: `chunks` gives the content and checks the digest at its end."""

    def __init__(self, reader: Reader, new_hash: Callable[[str], HashState] = hash_state) -> None:
        encoded = reader.value(limit=1024)
        with ber.asn1_errors("DigestedData"):
            name = cms.DigestAlgorithm.load(encoded, strict=True)["algorithm"].native
        self._state = new_hash(name)
        self._reader = reader
        self._content = Encapsulated(reader, "DigestedData")
        self.content_type = self._content.content_type

    def chunks(self) -> Iterator[Buffer]:
        """Yield the content; IntegrityFailure at its end when the digest differs."""
        yield from watched(self._content.chunks(), [self._state])
        encoded = self._reader.value(limit=256)
        with ber.asn1_errors("DigestedData"):
            expected = core.OctetString.load(encoded, strict=True).native
        if not hmac.compare_digest(self._state.digest(), expected):
            raise IntegrityFailure("the content does not have the digest that came with it", standard="RFC 5652 7")


def check(der: bytes) -> tuple[str, bytes]:
    """Return content type and content of a DigestedData, bare or in a ContentInfo; IntegrityFailure when the digest differs."""
    reader = Reader([der])
    layer, entered = enter(reader)
    if layer != "digested":
        raise MalformedError("the CMS message is not DigestedData", standard="RFC 5652 7")
    inside = DigestedReader(reader)
    content = joined(inside.chunks())
    for _ in range(entered):
        reader.leave()
    reader.finish()
    return inside.content_type, content
