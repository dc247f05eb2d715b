"""New signatures of one instance on their way: planned, hashed, signed, put together (PS3.3 C.12.1.1.3).

Planning needs no key, hashing no card, and putting together neither content nor key: callers may show what will be signed before
they ask for a PIN, or write a large file while it is hashed. `sign` does the planning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding as CertificateEncoding

from securepacs.dicom.edit import Path, encode_item, encode_sequence, join_pieces, splice
from securepacs.dicom.elements import Buffer
from securepacs.dicom.part10 import EncodedDataSet
from securepacs.signatures.check import digest
from securepacs.signatures.profiles import CREATION_ALGORITHMS, Coverage, Profile
from securepacs.signatures.sequences import (
    DIGITAL_SIGNATURES_SEQUENCE,
    MAC_PARAMETERS_SEQUENCE,
    Scope,
    encode_signature_value,
    with_items,
)
from securepacs.tokens.credential import Credential, SigningKey

_HASH = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@dataclass(frozen=True, slots=True)
class SigningOptions:
    """How to sign. The fields are the parameters of `sign`."""

    at: datetime
    profile: Profile = Profile.CREATOR
    coverage: Coverage | None = None
    mac: str = "sha256"
    purpose: int | None = None
    tags: tuple[int, ...] = ()
    item: Path = ()
    identity: bool = False
    timestamp: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed instance: the file in pieces, the new elements (tag to encoded element), the UIDs of the signatures made.

    `padded`: some signed text value carries surplus padding, which verifiers that trim values (DCMTK) will not reproduce.
    """

    pieces: tuple[Buffer, ...]
    additions: dict[int, bytes]
    uids: tuple[str, ...]
    padded: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """One new signature without its value: the content of its MAC Parameters item, and the hashed parts of its own item."""

    uid: str
    parameters: bytes
    head: bytes
    purpose: bytes
    tags: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """The MAC of one draft; `padded` as in Signed."""

    mac: bytes
    padded: bool


@dataclass(frozen=True, slots=True)
class Value:
    """What completes a draft: signature value and time stamp (or b""); `padded` as in Signed."""

    signature: bytes
    timestamp: bytes = b""
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Preparation:
    """New signatures of one instance, complete but for their values."""

    raw: Buffer
    dataset: EncodedDataSet
    scope: Scope
    options: SigningOptions
    drafts: tuple[Draft, ...]

    def digests(self) -> list[Digest]:
        """Hash what each draft signs."""
        algorithm = CREATION_ALGORITHMS[self.options.mac]
        made = []
        for draft in self.drafts:
            hashed = draft.head + draft.purpose
            mac, stream = digest(self.dataset, self.scope, frozenset(draft.tags), (memoryview(hashed), 0, len(hashed)), algorithm)
            made.append(Digest(mac, stream.padded))
        return made

    def values(self, credential: Credential, digests: Sequence[Digest] | None = None) -> list[Value]:
        """Sign the digests, computed now unless they are given; get the time stamps if some are asked for."""
        stamp, made = self.options.timestamp, []
        for one in self.digests() if digests is None else digests:
            signature = sign_digest(credential.private_key, one.mac, self.options.mac)
            made.append(Value(signature, stamp(signature) if stamp else b"", one.padded))
        return made

    def assemble(self, credential: Credential, values: Sequence[Value]) -> Signed:
        """Put the instance together with one value for each draft."""
        dataset, scope, encoding = self.dataset, self.scope, self.dataset.encoding
        certificate = credential.certificate.public_bytes(CertificateEncoding.DER)
        items = [
            draft.head + encode_signature_value(certificate, value.signature, value.timestamp, encoding) + draft.purpose
            for draft, value in zip(self.drafts, values, strict=True)
        ]
        grown = (
            (MAC_PARAMETERS_SEQUENCE, scope.mac_parameters, [draft.parameters for draft in self.drafts]),
            (DIGITAL_SIGNATURES_SEQUENCE, scope.signatures, items),
        )
        additions = {tag: _grown(dataset, tag, place, contents) for tag, place, contents in grown}
        pieces = join_pieces(self.raw, splice(dataset, additions, path=self.options.item))
        return Signed(tuple(pieces), additions, tuple(draft.uid for draft in self.drafts), any(value.padded for value in values))


def sign_digest(key: SigningKey, mac: bytes, algorithm: str) -> bytes:
    """Sign a finished digest: RSA PKCS #1 v1.5 with DigestInfo, or ECDSA as DER."""
    prehashed = Prehashed(_HASH[algorithm])
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(mac, padding.PKCS1v15(), prehashed)
    return key.sign(mac, ec.ECDSA(prehashed))


def _grown(dataset: EncodedDataSet, tag: int, place: tuple[int, int] | None, contents: list[bytes]) -> bytes:
    """Return the sequence with the new items at its end, made when it was not there."""
    if place is None:
        return encode_sequence(tag, contents, dataset.encoding)
    items = b"".join(encode_item(content, dataset.encoding) for content in contents)
    return with_items(bytes(dataset.view[place[0] : place[1]]), items, dataset.encoding)
