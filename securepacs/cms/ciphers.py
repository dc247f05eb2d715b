"""Content encryption piece by piece: AES and Triple-DES in CBC (RFC 3565, RFC 3370 5.1), AES in GCM (RFC 5084).

Output buffers are used again: a piece is valid only until the next one is asked for. What the decryptors yield is NOT verified
until the iterator has ended without an error, and for CBC not even then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from asn1crypto import core
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, Buffer, tlv
from securepacs.errors import IntegrityFailure, MalformedError, UsageError, VerificationError

TAG_SIZE = 16
NOT_OPENED = "the content cannot be decrypted: it was changed, or the private key is not the recipient's"

_NONCE_SIZE = 12
_DEFAULT_TAG_SIZE = 12  # RFC 5084 3.2, aes-ICVlen
_STEP = 1 << 20
_HOLD = 64  # room for what a cipher object may hold back


@dataclass(frozen=True, slots=True)
class ContentCipher:
    """One content encryption algorithm. `within_profile`: PS3.15 D.1 has it."""

    name: str
    oid: str
    key_size: int
    block: int
    mode: Literal["cbc", "gcm"]
    algorithm: Callable[[bytes], BlockCipherAlgorithm]
    within_profile: bool = True

    @property
    def authenticated(self) -> bool:
        """Whether it goes into AuthEnvelopedData (RFC 5083)."""
        return self.mode == "gcm"

    def fresh_vector(self) -> bytes:
        """Return a random initialization vector or nonce."""
        return os.urandom(_NONCE_SIZE if self.authenticated else self.block)

    def identifier(self, vector: bytes) -> bytes:
        """Return the AlgorithmIdentifier as DER."""
        parameters = tlv(OCTET_STRING, vector)
        if self.authenticated:
            parameters = tlv(SEQUENCE, parameters, tlv(INTEGER, bytes((TAG_SIZE,))))
        return tlv(SEQUENCE, bytes(core.ObjectIdentifier(self.oid).dump()), parameters)

    def encrypted_size(self, size: int) -> int:
        """Return how many octets `size` octets become, without the authentication tag."""
        return size if self.authenticated else size - size % self.block + self.block


_AES = "2.16.840.1.101.3.4.1."
CIPHERS = {
    cipher.name: cipher
    for cipher in (
        ContentCipher("aes128-cbc", _AES + "2", 16, 16, "cbc", AES),
        ContentCipher("aes192-cbc", _AES + "22", 24, 16, "cbc", AES),
        ContentCipher("aes256-cbc", _AES + "42", 32, 16, "cbc", AES),
        ContentCipher("des-ede3-cbc", "1.2.840.113549.3.7", 24, 8, "cbc", TripleDES),
        ContentCipher("aes128-gcm", _AES + "6", 16, 16, "gcm", AES, within_profile=False),
        ContentCipher("aes192-gcm", _AES + "26", 24, 16, "gcm", AES, within_profile=False),
        ContentCipher("aes256-gcm", _AES + "46", 32, 16, "gcm", AES, within_profile=False),
    )
}
_BY_OID = {cipher.oid: cipher for cipher in CIPHERS.values()}


def writable(name: str) -> ContentCipher:
    """Return the cipher a writer asked for; UsageError for unknown names."""
    if name not in CIPHERS:
        raise UsageError(f"the cipher {name} is not one of {', '.join(CIPHERS)}", standard="RFC 3565")
    return CIPHERS[name]


def name_of(oid: str) -> str:
    """Return our name of a content encryption algorithm, or its OID when this product does not know it."""
    return _BY_OID[oid].name if oid in _BY_OID else oid


def readable(oid: str, parameters: Any) -> tuple[ContentCipher, bytes, int]:
    """Return cipher, vector and authentication tag size of a received AlgorithmIdentifier (its parameters as asn1crypto value)."""
    cipher = _BY_OID.get(oid)
    if cipher is None:
        raise VerificationError(f"the cipher {oid} is not supported", standard="RFC 3565")
    try:
        encoded = parameters.dump() if parameters is not None else b""
        if cipher.authenticated:
            fields = core.SequenceOf.load(encoded, spec=core.Any, strict=True)
            vector = core.OctetString.load(fields[0].dump(), strict=True).native
            tag_size = core.Integer.load(fields[1].dump(), strict=True).native if len(fields) > 1 else _DEFAULT_TAG_SIZE
        else:
            vector, tag_size = core.OctetString.load(encoded, strict=True).native, 0
    except (ValueError, TypeError, IndexError):
        raise MalformedError("the cipher's parameters do not follow their structure", standard="RFC 3565, RFC 5084") from None
    if cipher.authenticated and not (12 <= tag_size <= TAG_SIZE and 8 <= len(vector) <= 64):
        raise MalformedError("nonce or tag size are outside what GCM allows", standard="RFC 5084 3.2")
    if not cipher.authenticated and len(vector) != cipher.block:
        raise MalformedError("the initialization vector is not one block", standard="RFC 5652 6.3")
    return cipher, vector, tag_size


class Encryptor:
    """Encrypts a stream; after the iterator of `encrypt` has ended, `tag` is the authentication tag (GCM)."""

    def __init__(self, cipher: ContentCipher, key: bytes, vector: bytes) -> None:
        self._cipher = cipher
        mode = modes.GCM(vector) if cipher.authenticated else modes.CBC(vector)
        self._context: Any = Cipher(cipher.algorithm(key), mode).encryptor()
        self.tag = b""

    def encrypt(self, chunks: Iterable[Buffer]) -> Iterator[Buffer]:
        """Yield the encrypted octets, padded for CBC (RFC 5652 6.3)."""
        buffer = bytearray(_STEP + _HOLD)
        view = memoryview(buffer)
        size = 0
        for piece in _steps(chunks):
            size += len(piece)
            if done := self._context.update_into(piece, buffer):
                yield view[:done]
        if not self._cipher.authenticated:
            missing = self._cipher.block - size % self._cipher.block
            if done := self._context.update_into(bytes((missing,)) * missing, buffer):
                yield view[:done]
        self._context.finalize()
        if self._cipher.authenticated:
            self.tag = self._context.tag


def decrypt_cbc(cipher: ContentCipher, key: bytes, vector: bytes, chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    """Yield what was encrypted; the padding is looked at last: IntegrityFailure. Integrity is NOT checked."""
    context = Cipher(cipher.algorithm(key), modes.CBC(vector)).decryptor()
    block = cipher.block
    buffer = bytearray(block + _STEP + _HOLD)  # the last block stays back, because it may be padding
    view = memoryview(buffer)
    size = held = 0
    for piece in _steps(chunks):
        size += len(piece)
        done = held + context.update_into(piece, view[held:])
        if done > block:
            yield view[: done - block]
            view[:block] = bytes(view[done - block : done])
            done = block
        held = done
    if not size or size % block:
        raise MalformedError("the encrypted content is not whole blocks", standard="RFC 5652 6.3")
    count = view[block - 1]
    if not 1 <= count <= block or bytes(view[block - count : block]) != bytes((count,)) * count:
        raise IntegrityFailure(NOT_OPENED, standard="RFC 3218")
    if count < block:
        yield view[: block - count]


class GcmDecryptor:
    """Decrypts a stream; nothing it yields may be believed before `finish` has returned."""

    def __init__(self, cipher: ContentCipher, key: bytes, nonce: bytes, tag_size: int, additional: bytes) -> None:
        mode = modes.GCM(nonce, None, min_tag_length=tag_size)
        self._context: Any = Cipher(cipher.algorithm(key), mode).decryptor()
        self._tag_size = tag_size
        if additional:
            self._context.authenticate_additional_data(additional)

    def decrypt(self, chunks: Iterable[Buffer]) -> Iterator[Buffer]:
        """Yield the decrypted, unverified octets."""
        buffer = bytearray(_STEP + _HOLD)
        view = memoryview(buffer)
        for piece in _steps(chunks):
            if done := self._context.update_into(piece, buffer):
                yield view[:done]

    def finish(self, tag: bytes) -> None:
        """Check the authentication tag (RFC 5083 2.2); IntegrityFailure when it does not fit."""
        if len(tag) != self._tag_size:
            raise MalformedError("the authentication tag has another size than announced", standard="RFC 5084 3.2")
        try:
            self._context.finalize_with_tag(tag)
        except InvalidTag:
            raise IntegrityFailure(NOT_OPENED, standard="RFC 5083 2.2") from None


def _steps(chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    """Cut pieces that are larger than the output buffer."""
    for chunk in chunks:
        if len(chunk) <= _STEP:
            yield chunk
            continue
        view = memoryview(chunk)
        for start in range(0, len(view), _STEP):
            yield view[start : start + _STEP]
