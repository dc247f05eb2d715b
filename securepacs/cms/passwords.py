"""Password recipients (RFC 5652 6.2.4): PBKDF2 (RFC 8018) makes a key encryption key, PWRI-KEK (RFC 3211) wraps the content key."""

from __future__ import annotations

import hmac
import os
from typing import Any

from asn1crypto import algos, cms, core
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from securepacs.cms import ber
from securepacs.cms.algorithms import HASHES
from securepacs.cms.ciphers import CIPHERS, ContentCipher, readable
from securepacs.cms.stream import INTEGER, OCTET_STRING, SEQUENCE, tlv
from securepacs.codes import ID_HMAC_SHA256, ID_PBKDF2, ID_PWRI_KEK
from securepacs.errors import MalformedError, UsageError, VerificationError

MINIMUM_ITERATIONS = 600_000
MAX_ITERATIONS = 10_000_000  # of all password recipients of a message together: some seconds of one core

_SALT_SIZE = 16
_MAX_SALT = 1024
_MAX_KEPT = 64  # keys of one Password: a medium made to fill the memory gains nothing
_CHECK = 3  # octets of the content key that are repeated, inverted
_PRFS = {name: HASHES[name] for name in ("sha1", "sha224", "sha256", "sha384", "sha512")}


def password_octets(password: str) -> bytes:
    """Return the octets of a password: the graphic characters of ISO IR 6 only (PS3.15 D.1); UsageError for others."""
    if not password or not all(0x20 <= ord(character) <= 0x7E for character in password):
        raise UsageError(
            "a password of protected media has printable ASCII characters only, and at least one",
            hint="use a generated passphrase",
            standard="PS3.15 D.1, ISO IR 6",
        )
    return password.encode("ascii")


class Password:
    """A password with the keys that PBKDF2 made of it, so that files which share a salt cost one derivation and not one each.

    What is written for it shares one salt: each file still has its own content key. Give one object to everything that belongs
    together, for example to the files of a disc, and no further. Threads may share it.
    """

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.salt = os.urandom(_SALT_SIZE)
        self._keys: dict[tuple[int, bytes, int, str], bytes] = {}

    def __repr__(self) -> str:
        return "Password()"

    def key(self, size: int, salt: bytes, iterations: int, prf: str = "sha256") -> bytes:
        """Return the key of `size` octets (PBKDF2, RFC 8018 5.2)."""
        parameters = size, salt, iterations, prf
        known = self._keys.get(parameters)
        if known is None:
            known = PBKDF2HMAC(_PRFS[prf](), size, salt, iterations).derive(self._octets)
            if len(self._keys) < _MAX_KEPT:
                self._keys[parameters] = known
        return known


def recipient_info(password: bytes | Password, content_key: bytes, *, iterations: int = MINIMUM_ITERATIONS) -> bytes:
    """Return a PasswordRecipientInfo: PBKDF2 with HMAC-SHA256 and the salt of the Password, PWRI-KEK with AES-256."""
    if iterations < MINIMUM_ITERATIONS:
        raise UsageError(f"fewer than {MINIMUM_ITERATIONS} iterations do not protect a password", standard="RFC 8018 4.2")
    cipher = CIPHERS["aes256-cbc"]
    secret = _password(password)
    salt, vector = secret.salt, os.urandom(cipher.block)
    key = secret.key(cipher.key_size, salt, iterations)
    prf = tlv(SEQUENCE, _oid(ID_HMAC_SHA256), core.Null().dump())
    parameters = tlv(SEQUENCE, tlv(OCTET_STRING, salt), core.Integer(iterations).dump(), prf)
    return tlv(
        0xA3,
        tlv(INTEGER, b"\0"),
        tlv(0xA0, _oid(ID_PBKDF2), parameters),
        tlv(SEQUENCE, _oid(ID_PWRI_KEK), cipher.identifier(vector)),
        tlv(OCTET_STRING, wrap(cipher, key, vector, content_key)),
    )


def _password(password: bytes | Password) -> Password:
    return password if isinstance(password, Password) else Password(password)


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def unlock(infos: list[Any], passwords: tuple[bytes | Password, ...]) -> bytes | None:
    """Return the content key that one of the passwords unwraps from one of the PasswordRecipientInfos, None when none does.

    MalformedError when they ask for more than MAX_ITERATIONS together.
    """
    budget = MAX_ITERATIONS
    secrets = [_password(password) for password in passwords]
    for info in infos:
        with ber.asn1_errors("PasswordRecipientInfo"):
            derivation, kek, encrypted = _read(info)
            salt, iterations, prf = derivation
        cipher, vector = kek
        for password in secrets:
            budget -= iterations
            if budget < 0:
                raise MalformedError(
                    f"the password recipients ask for more than {MAX_ITERATIONS} iterations",
                    hint="the message is made to keep its reader busy",
                    standard="RFC 8018 5.2",
                )
            key = password.key(cipher.key_size, salt, iterations, prf)
            content_key = unwrap(cipher, key, vector, encrypted)
            if content_key is not None:
                return content_key
    return None


def _read(info: Any) -> tuple[tuple[bytes, int, str], tuple[ContentCipher, bytes], bytes]:
    derivation = info["key_derivation_algorithm"]
    if isinstance(derivation, core.Void) or derivation["algorithm"].dotted != ID_PBKDF2:
        raise VerificationError("the password derivation is not PBKDF2", standard="RFC 3370 4.4.1")
    parameters = algos.Pbkdf2Params.load(derivation["parameters"].dump(), strict=True)
    prf = parameters["prf"]["algorithm"].native
    salt = parameters["salt"].chosen
    iterations = parameters["iteration_count"].native
    if prf not in _PRFS or not isinstance(salt, core.OctetString):
        raise VerificationError(f"PBKDF2 with {prf} is not supported", standard="RFC 8018 5.2")
    if iterations < 1 or len(salt.native) > _MAX_SALT:
        raise MalformedError("the parameters of PBKDF2 are out of range", standard="RFC 8018 5.2")
    algorithm = info["key_encryption_algorithm"]
    if algorithm["algorithm"].dotted != ID_PWRI_KEK:
        raise VerificationError("the password recipient's key wrap is not PWRI-KEK", standard="RFC 3211 2.3")
    inner = cms.EncryptionAlgorithm.load(algorithm["parameters"].dump(), strict=True)
    cipher, vector, _ = readable(inner["algorithm"].dotted, inner["parameters"])
    if cipher.authenticated:
        raise VerificationError("PWRI-KEK needs a CBC cipher", standard="RFC 3211 2.3")
    return (salt.native, iterations, prf), (cipher, vector), bytes(info["encrypted_key"])


def wrap(cipher: ContentCipher, key: bytes, vector: bytes, content_key: bytes) -> bytes:
    """Wrap a content key twice in CBC (RFC 3211 2.3.1)."""
    check = bytes(octet ^ 0xFF for octet in content_key[:_CHECK])
    block = bytes((len(content_key),)) + check + content_key
    size = max(2 * cipher.block, -(-len(block) // cipher.block) * cipher.block)
    context = Cipher(cipher.algorithm(key), modes.CBC(vector)).encryptor()
    once = context.update(block + os.urandom(size - len(block)))
    return context.update(once)  # the chaining goes on: the last block is the vector of the second pass


def unwrap(cipher: ContentCipher, key: bytes, vector: bytes, encrypted: bytes) -> bytes | None:
    """Undo `wrap` (RFC 3211 2.3.2); None when the check octets do not fit, which is how a wrong password shows."""
    size = cipher.block
    if len(encrypted) < 2 * size or len(encrypted) % size or len(encrypted) > 1024:
        return None
    algorithm = cipher.algorithm(key)
    last = Cipher(algorithm, modes.CBC(encrypted[-2 * size : -size])).decryptor().update(encrypted[-size:])
    first = Cipher(algorithm, modes.CBC(last)).decryptor().update(encrypted[:-size])
    block = Cipher(algorithm, modes.CBC(vector)).decryptor().update(first + last)
    length = block[0]
    content_key = block[1 + _CHECK : 1 + _CHECK + length]
    inverted = bytes(octet ^ 0xFF for octet in block[1 : 1 + _CHECK])
    if len(content_key) != length or length < _CHECK or not hmac.compare_digest(inverted, content_key[:_CHECK]):
        return None
    return content_key
