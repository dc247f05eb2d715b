"""Key agreement recipients: ephemeral-static ECDH with the X9.63 key derivation and AES key wrap (RFC 5753 3.1, 7).

Triple-DES key wrap (RFC 3217) is read, because openssl writes it beside Triple-DES content.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from asn1crypto import cms, core
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, tlv
from securepacs.errors import VerificationError

_EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_AES = "2.16.840.1.101.3.4.1."
_WRAPS = {_AES + "5": 16, _AES + "25": 24, _AES + "45": 32}
_TRIPLE_DES_WRAP = "1.2.840.113549.1.9.16.3.6"
_WRAP_OF_SIZE = {size: oid for oid, size in _WRAPS.items()}

_STANDARD_DH = "1.3.132.1.11."
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "1.3.133.16.840.63.0.2": hashes.SHA1,
    "1.3.133.16.840.63.0.3": hashes.SHA1,  # cofactor DH: the same on curves of cofactor 1
    **{_STANDARD_DH + str(n): hash_ for n, hash_ in enumerate((hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512))},
    **{"1.3.132.1.14." + str(n): hash_ for n, hash_ in enumerate((hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512))},
}
_CURVES: dict[str, tuple[str, Callable[[], hashes.HashAlgorithm]]] = {
    "secp256r1": (_STANDARD_DH + "1", hashes.SHA256),
    "secp384r1": (_STANDARD_DH + "2", hashes.SHA384),
    "secp521r1": (_STANDARD_DH + "3", hashes.SHA512),
}
_TRIPLE_DES_WRAP_VECTOR = bytes.fromhex("4adda22c79e82105")  # RFC 3217 3.1


class _OriginatorPublicKey(core.Sequence):  # type: ignore[misc]
    """OriginatorPublicKey (RFC 5652 6.2.2); asn1crypto takes it for a SubjectPublicKeyInfo, whose parameters may not be absent."""

    _fields = [("algorithm", core.Any), ("public_key", core.BitString)]  # noqa: RUF012


class _Originator(core.Choice):  # type: ignore[misc]
    _alternatives = [  # noqa: RUF012
        ("issuer_and_serial_number", cms.IssuerAndSerialNumber),
        ("subject_key_identifier", core.OctetString, {"implicit": 0}),
        ("originator_key", _OriginatorPublicKey, {"implicit": 1}),
    ]


class KeyAgreeRecipientInfo(core.Sequence):  # type: ignore[misc]
    """KeyAgreeRecipientInfo (RFC 5652 6.2.2)."""

    _fields = [  # noqa: RUF012
        ("version", cms.CMSVersion),
        ("originator", _Originator, {"explicit": 0}),
        ("ukm", core.OctetString, {"explicit": 1, "optional": True}),
        ("key_encryption_algorithm", cms.KeyEncryptionAlgorithm),
        ("recipient_encrypted_keys", cms.RecipientEncryptedKeys),
    ]


def supports(public_key: ec.EllipticCurvePublicKey) -> bool:
    """Tell whether messages can be written for this key: the NIST curves P-256, P-384 and P-521."""
    return public_key.curve.name in _CURVES


def recipient_info(identifier: bytes, public_key: ec.EllipticCurvePublicKey, content_key: bytes) -> bytes:
    """Return a KeyAgreeRecipientInfo for the certificate with this IssuerAndSerialNumber, with a fresh ephemeral key."""
    scheme, hash_ = _CURVES[public_key.curve.name]
    ephemeral = ec.generate_private_key(public_key.curve)
    wrap = tlv(SEQUENCE, _oid(_WRAP_OF_SIZE[len(content_key)]))
    key = _derive(ephemeral.exchange(ec.ECDH(), public_key), hash_(), wrap, len(content_key), b"")
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    originator = tlv(0xA1, tlv(SEQUENCE, _oid(_EC_PUBLIC_KEY)), tlv(0x03, b"\0", point))
    encrypted = tlv(SEQUENCE, identifier, tlv(OCTET_STRING, aes_key_wrap(key, content_key)))
    return tlv(
        0xA1,
        tlv(INTEGER, b"\3"),
        tlv(0xA0, originator),
        tlv(SEQUENCE, _oid(scheme), wrap),
        tlv(SEQUENCE, encrypted),
    )


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def _derive(secret: bytes, hash_: hashes.HashAlgorithm, wrap: bytes, size: int, ukm: bytes) -> bytes:
    """Derive the key encryption key; the shared info is ECC-CMS-SharedInfo (RFC 5753 7.2)."""
    user = tlv(0xA0, tlv(OCTET_STRING, ukm)) if ukm else b""
    info = tlv(SEQUENCE, wrap, user, tlv(0xA2, tlv(OCTET_STRING, (8 * size).to_bytes(4, "big"))))
    return X963KDF(hash_, size, info).derive(secret)


def unlock(info: Any, encrypted_key: bytes, private_key: ec.EllipticCurvePrivateKey) -> bytes | None:
    """Return the content key of a KeyAgreeRecipientInfo, None when the key does not unwrap it.

    VerificationError for schemes other than ephemeral-static ECDH with AES or Triple-DES key wrap.
    """
    algorithm = info["key_encryption_algorithm"]
    hash_ = _HASHES.get(algorithm["algorithm"].dotted)
    originator = info["originator"]
    if hash_ is None or originator.name != "originator_key":
        raise VerificationError("the key agreement is not ephemeral-static ECDH", standard="RFC 5753 3.1")
    wrap = algorithm["parameters"].dump()
    wrap_oid = core.ObjectIdentifier.load(core.Sequence.load(wrap, strict=True)[0].dump()).dotted
    size = 24 if wrap_oid == _TRIPLE_DES_WRAP else _WRAPS.get(wrap_oid, 0)
    if not size:
        raise VerificationError(f"the key wrap {wrap_oid} is not supported", standard="RFC 5753 7.1.5")
    ukm = b"" if isinstance(info["ukm"], core.Void) else bytes(info["ukm"])
    point = bytes(originator.chosen["public_key"].contents[1:])
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(private_key.curve, point)
        secret = private_key.exchange(ec.ECDH(), peer)
    except ValueError:  # not a point of this curve
        return None
    key = _derive(secret, hash_(), wrap, size, ukm)
    if wrap_oid == _TRIPLE_DES_WRAP:
        return _triple_des_unwrap(key, encrypted_key)
    try:
        return aes_key_unwrap(key, encrypted_key)
    except (InvalidUnwrap, ValueError):
        return None


def _triple_des_unwrap(key: bytes, encrypted: bytes) -> bytes | None:
    """Unwrap a Triple-DES key (RFC 3217 3.2)."""
    if len(encrypted) != 40:
        return None
    algorithm = TripleDES(key)
    outer = Cipher(algorithm, modes.CBC(_TRIPLE_DES_WRAP_VECTOR)).decryptor().update(encrypted)[::-1]
    block = Cipher(algorithm, modes.CBC(outer[:8])).decryptor().update(outer[8:])
    checksum = hashlib.sha1(block[:24], usedforsecurity=False).digest()[:8]
    return block[:24] if hmac.compare_digest(checksum, block[24:]) else None
