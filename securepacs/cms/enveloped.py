"""CMS EnvelopedData (RFC 5652 6) and AuthEnvelopedData (RFC 5083), in one piece or as streams in constant memory.

EnvelopedData gives confidentiality only. A wrong private key, a damaged encrypted key and damaged content all end in one error or
in meaningless bytes (implicit rejection, RFC 3218): the caller must find integrity in an inner SignedData or DigestedData, and must
not tell the sender which step failed. AuthEnvelopedData is verified when the stream has ended, not before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asn1crypto import core
from cryptography import x509

from securepacs.cms import ber, ciphers, recipients
from securepacs.cms.encapsulated import joined
from securepacs.cms.kek import KeyEncryptionKey
from securepacs.cms.nesting import content_type as read_content_type
from securepacs.cms.nesting import enter
from securepacs.cms.passwords import Password
from securepacs.cms.recipients import Keys, KeyTransport, PrivateKey, Recipient
from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, SET, Buffer, Level, Reader, Stream, framed, tlv
from securepacs.codes import ID_AUTH_ENVELOPED_DATA, ID_CONTENT_TYPE, ID_DATA, ID_ENVELOPED_DATA, ID_SIGNED_DATA
from securepacs.errors import IntegrityFailure, MalformedError

__all__ = [
    "AuthenticatedAttributes",
    "Decryption",
    "Envelope",
    "KeyEncryptionKey",
    "Keys",
    "Recipient",
    "decrypt",
    "encrypt",
    "encrypt_stream",
    "inspect",
]

_CONTENT, _ATTRIBUTES, _MORE_ATTRIBUTES = 0x80, 0xA1, 0xA2
_ORIGINATOR = 0xA0


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope says of itself. `cipher` is its dotted OID when this product does not know it."""

    content_type: str
    cipher: str
    recipients: tuple[Recipient, ...]
    encrypted_length: int
    authenticated: bool = False


class AuthenticatedAttributes(IntegrityFailure):
    """The authenticated attributes, which come after the content, are others than assumed: read again with `.encoded`."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__(ciphers.NOT_OPENED, standard="RFC 5083 2.2")
        self.encoded = encoded


def encrypt_stream(
    content: Stream,
    certificates: Sequence[x509.Certificate],
    *,
    passwords: Sequence[bytes | Password] = (),
    cipher: str = "aes256-cbc",
    content_type: str = ID_SIGNED_DATA,
    key_transport: KeyTransport = "pkcs1v15",
    keks: Sequence[KeyEncryptionKey] = (),
) -> Stream:
    """Encrypt `content` for every certificate, password and key encryption key; return a ContentInfo (RFC 5652 6.1-6.3, RFC 5083).

    Lengths are definite when the size of `content` is known. A GCM cipher gives AuthEnvelopedData, whose content
    type is then id-data, because other types ask for authenticated attributes. NOT checked: validity, trust and key usage of the
    certificates.
    """
    chosen = ciphers.writable(cipher)
    if chosen.authenticated:
        content_type = ID_DATA
    key, vector = os.urandom(chosen.key_size), chosen.fresh_vector()
    infos, version = recipients.write(certificates, key, password_list=passwords, key_transport=key_transport, keks=keks)
    encryptor = ciphers.Encryptor(chosen, key, vector)
    size = None if content.size is None else chosen.encrypted_size(content.size)
    tag_size = len(tlv(OCTET_STRING, bytes(ciphers.TAG_SIZE))) if chosen.authenticated else 0
    levels = [
        Level(SEQUENCE, _oid(ID_AUTH_ENVELOPED_DATA if chosen.authenticated else ID_ENVELOPED_DATA)),
        Level(0xA0),
        Level(SEQUENCE, tlv(INTEGER, bytes((0 if chosen.authenticated else version,))) + infos, tag_size),
        Level(SEQUENCE, _oid(content_type) + chosen.identifier(vector)),
    ]

    def trailers() -> list[bytes]:
        return [b"", b"", tlv(OCTET_STRING, encryptor.tag) if chosen.authenticated else b"", b""]

    return framed(levels, _CONTENT, Stream(size, encryptor.encrypt(content.chunks)), trailers)


def encrypt(
    content: bytes,
    certificates: Sequence[x509.Certificate],
    *,
    passwords: Sequence[bytes | Password] = (),
    cipher: str = "aes256-cbc",
    content_type: str = ID_SIGNED_DATA,
    key_transport: KeyTransport = "pkcs1v15",
) -> bytes:
    """Encrypt `content` and return a DER ContentInfo; see `encrypt_stream`."""
    stream = encrypt_stream(
        Stream(len(content), [content]), certificates, passwords=passwords, cipher=cipher, content_type=content_type,
        key_transport=key_transport,
    )  # fmt: skip
    return joined(stream.chunks)


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


class Decryption:
    """An envelope being read: its head is read at once, its content by `chunks`.

    Raises NoMatchingRecipient, PasswordIncorrect, MalformedError for bad structure, VerificationError for an unknown cipher.
    `additional` is the DER of the authenticated attributes, when a first attempt ended in AuthenticatedAttributes.
    """

    def __init__(self, chunks: Iterable[Buffer], keys: Keys, *, additional: bytes | None = None) -> None:
        self._reader = Reader(chunks)
        self._authenticated, self._entered = _enter(self._reader)
        found = recipients.find(recipients.read(self._reader), keys)
        self.content_type, oid, parameters = _content_head(self._reader)
        self._cipher, self._vector, self._tag_size = ciphers.readable(oid, parameters)
        if self._cipher.authenticated != self._authenticated:
            raise MalformedError("the cipher does not belong into this structure", standard="RFC 5083 2.1, RFC 5084")
        self._key = recipients.unlock(found, keys, self._cipher.key_size)
        self._additional = _expected_attributes(self.content_type) if additional is None else additional

    @property
    def authenticated(self) -> bool:
        """Whether the envelope itself protects the content against changes."""
        return self._authenticated

    def chunks(self) -> Iterator[Buffer]:
        """Yield the content; nothing of it may be believed before the iterator has ended without an error.

        IntegrityFailure when it does not open. For EnvelopedData the content may be meaningless even then (see the module).
        """
        encrypted = self._reader.octets(_CONTENT)
        if not self._authenticated:
            yield from ciphers.decrypt_cbc(self._cipher, self._key, self._vector, encrypted)
            self._reader.leave()
            self._skip(_ATTRIBUTES)
        else:
            context = ciphers.GcmDecryptor(self._cipher, self._key, self._vector, self._tag_size, self._additional)
            yield from context.decrypt(encrypted)
            self._reader.leave()
            self._finish_authenticated(context)
        for _ in range(self._entered):
            self._reader.leave()
        self._reader.finish()

    def _finish_authenticated(self, context: ciphers.GcmDecryptor) -> None:
        attributes = b""
        if self._reader.peek() == _ATTRIBUTES:
            attributes = bytes((SET,)) + self._reader.value()[1:]
        if attributes != self._additional:
            raise AuthenticatedAttributes(attributes)
        mac = self._reader.value(limit=64)
        with ber.asn1_errors("the authentication code"):
            tag = core.OctetString.load(mac, strict=True).native
        context.finish(tag)
        self._skip(_MORE_ATTRIBUTES)

    def _skip(self, tag: int) -> None:
        if self._reader.peek() == tag:
            self._reader.value()


def _expected_attributes(content_type: str) -> bytes:
    """Return what a writer authenticates besides the content: its type, unless it is id-data (RFC 5083 2.1)."""
    if content_type == ID_DATA:
        return b""
    return tlv(SET, tlv(SEQUENCE, _oid(ID_CONTENT_TYPE), tlv(SET, _oid(content_type))))


def _enter(reader: Reader) -> tuple[bool, int]:
    layer, entered = enter(reader)
    if layer not in ("enveloped", "auth-enveloped"):
        raise MalformedError("the CMS message is not EnvelopedData", standard="RFC 5652 6.1")
    if reader.peek() == _ORIGINATOR:
        reader.value()
    return layer == "auth-enveloped", entered


def _content_head(reader: Reader) -> tuple[str, str, core.Asn1Value | None]:
    """Step into EncryptedContentInfo: content type, cipher and its parameters (RFC 5652 6.1)."""
    reader.enter(SEQUENCE, "encrypted content")
    content_type = read_content_type(reader)
    encoded = reader.value(limit=1024)
    with ber.asn1_errors("the cipher"):
        algorithm = core.SequenceOf.load(encoded, spec=core.Any, strict=True)
        oid = str(core.ObjectIdentifier.load(algorithm[0].dump(), strict=True).dotted)
        parameters = algorithm[1] if len(algorithm) > 1 else None
    if reader.at_end():
        raise MalformedError("the message carries no encrypted content", standard="RFC 5652 6.1")
    return content_type, oid, parameters


def decrypt(der: bytes, certificate: x509.Certificate, private_key: PrivateKey) -> tuple[str, bytes]:
    """Decrypt for the recipient whose certificate is `certificate`; return content type and content (RFC 5652 6).

    `private_key` may be a token delegate. Errors as `Decryption`. The result may be meaningless bytes (see the module).
    """
    return decrypt_with(der, Keys(credentials=((certificate, private_key),)))


def decrypt_with(der: bytes, keys: Keys) -> tuple[str, bytes]:
    """Decrypt with whichever of `keys` fits; return content type and content."""
    decryption = Decryption([der], keys)
    try:
        return decryption.content_type, joined(decryption.chunks())
    except AuthenticatedAttributes as found:
        again = Decryption([der], keys, additional=found.encoded)
        return again.content_type, joined(again.chunks())


def inspect(source: bytes | Iterable[Buffer]) -> Envelope:
    """Read recipients and cipher of an envelope without any key."""
    reader = Reader([source] if isinstance(source, bytes) else source)
    authenticated, entered = _enter(reader)
    described = tuple(recipients.describe(info) for info in recipients.read(reader))
    content_type, oid, _ = _content_head(reader)
    length = sum(len(piece) for piece in reader.octets(_CONTENT))
    reader.leave()
    while not reader.at_end():
        reader.value()
    for _ in range(entered):
        reader.leave()
    reader.finish()
    return Envelope(content_type, ciphers.name_of(oid), described, length, authenticated)
