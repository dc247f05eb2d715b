"""The integrity layer inside a decrypted envelope, read as a stream (PS3.15 D.1): SignedData, DigestedData, or none at all.

What fails inside an envelope is always one error, so that nobody learns where (RFC 3218); and it is reported only after the
envelope was read to its end, so that not even the structure around it tells whether the inside looked right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from securepacs.cms.digested import DigestedReader
from securepacs.cms.enveloped import AuthenticatedAttributes, Decryption
from securepacs.cms.nesting import enter
from securepacs.cms.signed import SignedReader
from securepacs.cms.stream import Buffer, Reader
from securepacs.dicom.part10 import PREAMBLE_SIZE
from securepacs.errors import IntegrityFailure, MalformedError, SecurePacsError, UsageError

STANDARD = "PS3.15 D.1"
NOT_OPENED = "the file cannot be opened: it was changed, or the private key is not the recipient's"

Integrity = Literal["signed", "digested", "encrypted", "none"]


class _Outer(Exception):
    """Carries an error of the envelope past those of what lies in it."""

    def __init__(self, error: SecurePacsError) -> None:
        super().__init__()
        self.error = error


class Unsealing:
    """The file inside a `Decryption`; after `chunks` has ended without an error, the other attributes are true.

    `integrity` is `encrypted` when there is no layer inside but the envelope is AuthEnvelopedData.
    """

    def __init__(self, decryption: Decryption) -> None:
        self.integrity: Integrity = "none"
        self.inside: SignedReader | DigestedReader | None = None
        self._decryption = decryption

    def chunks(self) -> Iterator[Buffer]:
        """Yield the content; nothing of it may be believed before the iterator has ended."""
        envelope = _of_envelope(self._decryption)
        try:
            try:
                yield from self._inner(envelope)
            except (MalformedError, UsageError, IntegrityFailure):
                for _ in envelope:
                    pass
                raise IntegrityFailure(NOT_OPENED, standard=STANDARD) from None
        except _Outer as outer:
            if isinstance(outer.error, IntegrityFailure) and not isinstance(outer.error, AuthenticatedAttributes):
                raise IntegrityFailure(NOT_OPENED, standard=STANDARD) from None
            raise outer.error from None

    def _inner(self, envelope: Iterator[Buffer]) -> Iterator[Buffer]:
        reader = Reader(envelope)
        if looks_like_part10(reader.ahead(PREAMBLE_SIZE + 4)):
            self.integrity = "encrypted" if self._decryption.authenticated else "none"
            yield from reader.rest()
            return
        layer, entered = enter(reader)
        if layer == "signed":
            self.inside, self.integrity = SignedReader(reader), "signed"
        elif layer == "digested":
            self.inside, self.integrity = DigestedReader(reader), "digested"
        else:
            raise MalformedError("there is no integrity layer", standard=STANDARD)
        yield from self.inside.chunks()
        for _ in range(entered):
            reader.leave()
        reader.finish()


def _of_envelope(decryption: Decryption) -> Iterator[Buffer]:
    try:
        yield from decryption.chunks()
    except SecurePacsError as error:
        raise _Outer(error) from None


def looks_like_part10(data: bytes) -> bool:
    """Tell whether `data` has "DICM" after the preamble (PS3.10 7.1)."""
    return data[PREAMBLE_SIZE : PREAMBLE_SIZE + 4] == b"DICM"
