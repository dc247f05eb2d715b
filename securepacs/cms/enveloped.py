"""CMS EnvelopedData (RFC 5652 6) with RSA PKCS #1 v1.5 key transport (RFC 3370 4.2.1) and CBC ciphers (RFC 3565, RFC 3370 5.1).

EnvelopedData gives confidentiality only. A wrong private key, a damaged encrypted key and damaged content all end in one error or
in meaningless bytes (implicit rejection, RFC 3218): the caller must find integrity in an inner SignedData or DigestedData, and must
not tell the sender which step failed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asn1crypto import cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.cms import ber
from securepacs.cms.algorithms import READABLE_CIPHERS, WRITABLE_CIPHERS
from securepacs.cms.identifiers import matches
from securepacs.cms.structures import load, wrap
from securepacs.codes import ID_ENVELOPED_DATA, ID_SIGNED_DATA
from securepacs.errors import IntegrityFailure, MalformedError, NoMatchingRecipient, UsageError, VerificationError

_AES_BLOCK = 16
_NOT_OPENED = "the content cannot be decrypted: it was changed, or the private key is not the recipient's"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RecipientInfo, as far as it can be known without keys. `kind` is ktri, kari, kekri, pwri or ori (RFC 5652 6.2)."""

    kind: str
    issuer: str = ""
    serial_number: int | None = None
    subject_key_identifier: bytes | None = None
    algorithm: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an EnvelopedData says of itself. `cipher` is its dotted OID when this product does not know it."""

    content_type: str
    cipher: str
    recipients: tuple[Recipient, ...]
    encrypted_length: int


def encrypt(
    content: bytes, recipients: Sequence[x509.Certificate], *, cipher: str = "aes256-cbc", content_type: str = ID_SIGNED_DATA
) -> bytes:
    """Encrypt `content` for every certificate in `recipients` and return a DER ContentInfo (RFC 5652 6.1-6.3).

    `cipher` is aes128-cbc, aes192-cbc or aes256-cbc. NOT checked: validity, trust and key usage of the certificates.
    """
    if not recipients:
        raise UsageError("EnvelopedData needs at least one recipient", standard="RFC 5652 6.1")
    if cipher not in WRITABLE_CIPHERS:
        raise UsageError(f"the cipher {cipher} is not one of {', '.join(WRITABLE_CIPHERS)}", standard="RFC 3565")
    key, iv = os.urandom(WRITABLE_CIPHERS[cipher]), os.urandom(_AES_BLOCK)
    infos = [_key_transport(certificate, key) for certificate in dict.fromkeys(recipients)]
    padder, encryptor = PKCS7(8 * _AES_BLOCK).padder(), Cipher(AES(key), modes.CBC(iv)).encryptor()
    encrypted = b"".join((encryptor.update(padder.update(content)), encryptor.update(padder.finalize()), encryptor.finalize()))
    structure = cms.EnvelopedData(
        {
            "version": "v0",
            "recipient_infos": infos,
            "encrypted_content_info": {
                "content_type": content_type,
                "content_encryption_algorithm": {"algorithm": cipher.replace("-", "_"), "parameters": iv},
                "encrypted_content": encrypted,
            },
        }
    )
    return wrap(ID_ENVELOPED_DATA, structure)


def _key_transport(certificate: x509.Certificate, key: bytes) -> cms.RecipientInfo:
    public_key = certificate.public_key()
    if not isinstance(public_key, RSAPublicKey):
        raise UsageError("a recipient's key is not RSA", hint="the profile has RSA key transport only", standard="RFC 3370 4.2.1")
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
    return cms.RecipientInfo(
        "ktri",
        {
            "version": "v0",
            "rid": cms.RecipientIdentifier(
                "issuer_and_serial_number", {"issuer": parsed.issuer, "serial_number": parsed.serial_number}
            ),
            "key_encryption_algorithm": {"algorithm": "rsaes_pkcs1v15"},
            "encrypted_key": public_key.encrypt(key, padding.PKCS1v15()),
        },
    )


def decrypt(
    der: bytes, credential_certificate: x509.Certificate, private_key: RSAPrivateKey | EllipticCurvePrivateKey
) -> tuple[str, bytes]:
    """Decrypt for the recipient whose certificate is `credential_certificate`; return content type and content (RFC 5652 6).

    `private_key` may be a token delegate. Raises NoMatchingRecipient when the message is not for this certificate, IntegrityFailure
    when it does not open, MalformedError for bad structure, VerificationError for a cipher that is neither AES-CBC nor Triple-DES.
    The result may be meaningless bytes (see the module): integrity is NOT checked.
    """
    ber.check(der)
    with ber.asn1_errors("EnvelopedData"):
        structure = load(der, ID_ENVELOPED_DATA, cms.EnvelopedData)
        content_info = structure["encrypted_content_info"]
        content_type = str(content_info["content_type"].dotted)
        algorithm = content_info["content_encryption_algorithm"]["algorithm"]
        parameters = content_info["content_encryption_algorithm"]["parameters"]
        iv = parameters.native if isinstance(parameters, core.OctetString) else b""
        encrypted = _encrypted_octets(content_info)
        encrypted_key = _encrypted_key_for(structure, credential_certificate)
    if algorithm.native not in READABLE_CIPHERS:
        raise VerificationError(f"the cipher {algorithm.dotted} is not supported", standard="RFC 3565")
    if encrypted_key is None or not isinstance(private_key, RSAPrivateKey):
        raise NoMatchingRecipient("the message is not encrypted for this certificate", standard="RFC 5652 6.2.1")
    _, key_length, make_cipher = READABLE_CIPHERS[algorithm.native]
    cipher = make_cipher(_content_key(private_key, encrypted_key, key_length))
    return content_type, _open_cbc(cipher, iv, encrypted)


def _content_key(private_key: RSAPrivateKey, encrypted_key: bytes, length: int) -> bytes:
    """Unwrap the content key; whatever goes wrong gives a random key, so that all failures look the same (RFC 3218 2.3.2)."""
    substitute = os.urandom(length)
    try:
        key = private_key.decrypt(encrypted_key, padding.PKCS1v15())
    except ValueError:
        return substitute
    return key if len(key) == length else substitute


def _open_cbc(cipher: Any, iv: bytes, encrypted: bytes) -> bytes:
    block = cipher.block_size // 8
    if len(iv) != block or not encrypted or len(encrypted) % block:
        raise MalformedError("the encrypted content is not whole blocks after an initialization vector", standard="RFC 5652 6.3")
    decryptor, unpadder = Cipher(cipher, modes.CBC(iv)).decryptor(), PKCS7(cipher.block_size).unpadder()
    plain = unpadder.update(decryptor.update(encrypted) + decryptor.finalize())
    try:
        return plain + unpadder.finalize()
    except ValueError:
        raise IntegrityFailure(_NOT_OPENED, standard="RFC 3218") from None


def _encrypted_octets(content_info: Any) -> bytes:
    value = content_info["encrypted_content"]
    if isinstance(value, core.Void):
        raise MalformedError("the message carries no encrypted content", standard="RFC 5652 6.1")
    return bytes(value)


def _encrypted_key_for(structure: Any, certificate: x509.Certificate) -> bytes | None:
    """Return the encrypted content key of the first PKCS #1 v1.5 recipient that means `certificate`."""
    for info in structure["recipient_infos"]:
        if info.name != "ktri":
            continue
        recipient = info.chosen
        if recipient["key_encryption_algorithm"]["algorithm"].native == "rsaes_pkcs1v15" and matches(recipient["rid"], certificate):
            return bytes(recipient["encrypted_key"])
    return None


def inspect(der: bytes) -> Envelope:
    """Read recipients and cipher of an EnvelopedData without any key."""
    ber.check(der)
    with ber.asn1_errors("EnvelopedData"):
        structure = load(der, ID_ENVELOPED_DATA, cms.EnvelopedData)
        content_info = structure["encrypted_content_info"]
        algorithm = content_info["content_encryption_algorithm"]["algorithm"]
        return Envelope(
            str(content_info["content_type"].dotted),
            READABLE_CIPHERS[algorithm.native][0] if algorithm.native in READABLE_CIPHERS else str(algorithm.dotted),
            tuple(_recipient(info) for info in structure["recipient_infos"]),
            len(_encrypted_octets(content_info)),
        )


def _recipient(info: cms.RecipientInfo) -> Recipient:
    if info.name != "ktri":
        return Recipient(info.name)
    identifier = info.chosen["rid"]
    algorithm = str(info.chosen["key_encryption_algorithm"]["algorithm"].native)
    if identifier.name == "issuer_and_serial_number":
        name = identifier.chosen["issuer"].human_friendly
        return Recipient("ktri", name, identifier.chosen["serial_number"].native, algorithm=algorithm)
    return Recipient("ktri", subject_key_identifier=identifier.chosen.native, algorithm=algorithm)
