"""KEKRecipientInfo: content keys wrapped with a key that both sides have already (RFC 5652 6.2.3, AES Key Wrap of RFC 3394)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from asn1crypto import core
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, tlv
from securepacs.errors import UsageError

TAG = 0xA2
_WRAPS = {16: "2.16.840.1.101.3.4.1.5", 24: "2.16.840.1.101.3.4.1.25", 32: "2.16.840.1.101.3.4.1.45"}  # RFC 3565 2.3.2


@dataclass(frozen=True, slots=True)
class KeyEncryptionKey:
    """A symmetric key of 16, 24 or 32 octets, and the name by which both sides know it."""

    identifier: bytes
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) not in _WRAPS or not self.identifier:
            raise UsageError("a key encryption key has 16, 24 or 32 octets and an identifier", standard="RFC 3565 2.3.2")


def recipient_info(kek: KeyEncryptionKey, content_key: bytes) -> bytes:
    """Return the KEKRecipientInfo for `content_key`."""
    identifier = tlv(SEQUENCE, tlv(OCTET_STRING, kek.identifier))
    algorithm = tlv(SEQUENCE, core.ObjectIdentifier(_WRAPS[len(kek.key)]).dump())
    return tlv(TAG, tlv(INTEGER, b"\x04"), identifier, algorithm, tlv(OCTET_STRING, aes_key_wrap(kek.key, content_key)))


def is_for(info: Any, kek: KeyEncryptionKey) -> bool:
    """Tell whether a parsed KEKRecipientInfo names this key, wrapped by a way that is known."""
    algorithm = info["key_encryption_algorithm"]["algorithm"].dotted
    return bool(info["kekid"]["key_identifier"].native == kek.identifier) and algorithm == _WRAPS[len(kek.key)]


def unlock(info: Any, kek: KeyEncryptionKey) -> bytes | None:
    """Return the content key; None when the wrapping does not verify."""
    try:
        return aes_key_unwrap(kek.key, bytes(info["encrypted_key"]))
    except (InvalidUnwrap, ValueError):
        return None
