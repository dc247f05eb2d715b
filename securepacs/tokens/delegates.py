"""Private keys that never leave their token, in pyca/cryptography's private key interfaces (its documented pattern for HSMs).

Hashing and padding headers are computed here and only the bare RSA or ECDSA operation is asked of the token: this is what every
token can do. Whatever would take the key out raises TokenError.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric import padding as paddings
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from pkcs11 import MGF, Mechanism

from securepacs.errors import TokenError, UsageError

# DER of DigestInfo up to the digest (RFC 8017 9.2 note 1)
_DIGEST_INFO = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha224": bytes.fromhex("302d300d06096086480165030402040500041c"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
    "ripemd160": bytes.fromhex("3021300906052b2403020105000414"),
}
_PSS_HASHES = {
    "sha1": (Mechanism.SHA_1, MGF.SHA1),
    "sha224": (Mechanism.SHA224, MGF.SHA224),
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}


class TokenKey(Protocol):
    """The bare operations of one private key on its token."""

    def sign(self, data: bytes, mechanism: Mechanism, parameter: Any = None) -> bytes:
        """Return the raw signature of `data`."""
        ...

    def decrypt(self, data: bytes, mechanism: Mechanism, parameter: Any = None) -> bytes:
        """Return the plaintext; ValueError when the token finds no valid padding."""
        ...


def _digest(data: Any, algorithm: Any) -> tuple[bytes, hashes.HashAlgorithm]:
    """Return the digest of `data` (which already is one when `algorithm` is Prehashed) and its hash."""
    if isinstance(algorithm, Prehashed):
        hash_algorithm: hashes.HashAlgorithm = algorithm._algorithm
        if len(data) != hash_algorithm.digest_size:
            raise ValueError("The provided data must be the same length as the hash algorithm's digest size.")
        return bytes(data), hash_algorithm
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise UsageError("a token signs digests only")
    state = hashes.Hash(algorithm)
    state.update(data)
    return state.finalize(), algorithm


def _stays() -> NoReturn:
    raise TokenError("the private key does not leave its token")


class Pkcs11RSAPrivateKey(rsa.RSAPrivateKey):
    """An RSA key inside a token. Signs PKCS1v15 and PSS; decrypts PKCS1v15 and, where the token can, OAEP (else TokenError)."""

    def __init__(self, token_key: TokenKey, public_key: rsa.RSAPublicKey) -> None:
        self.token_key = token_key
        self._public_key = public_key

    @property
    def key_size(self) -> int:
        """Length of the modulus in bits."""
        return self._public_key.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """The public half, an ordinary key."""
        return self._public_key

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        """Sign as pyca's interface says (RFC 8017 8.1, 8.2)."""
        digest, hash_algorithm = _digest(data, algorithm)
        if isinstance(padding, paddings.PKCS1v15):
            return self._sign_pkcs1v15(digest, hash_algorithm)
        if isinstance(padding, paddings.PSS):
            return self._sign_pss(digest, hash_algorithm, padding)
        raise UsageError("tokens sign PKCS #1 v1.5 and PSS only", standard="RFC 8017 8")

    def _sign_pkcs1v15(self, digest: bytes, hash_algorithm: hashes.HashAlgorithm) -> bytes:
        if hash_algorithm.name not in _DIGEST_INFO:
            raise UsageError(f"the token does not sign {hash_algorithm.name} digests", standard="RFC 8017 9.2")
        return self.token_key.sign(_DIGEST_INFO[hash_algorithm.name] + digest, Mechanism.RSA_PKCS)

    def _sign_pss(self, digest: bytes, hash_algorithm: hashes.HashAlgorithm, pss: paddings.PSS) -> bytes:
        mask_hash = pss.mgf._algorithm
        if hash_algorithm.name not in _PSS_HASHES or mask_hash.name not in _PSS_HASHES:
            raise UsageError(f"the token does not sign {hash_algorithm.name} digests", standard="RFC 8017 9.1")
        salt = self._salt_length(pss._salt_length, hash_algorithm)
        parameter = (_PSS_HASHES[hash_algorithm.name][0], _PSS_HASHES[mask_hash.name][1], salt)
        return self.token_key.sign(digest, Mechanism.RSA_PKCS_PSS, parameter)

    def _salt_length(self, wanted: object, hash_algorithm: hashes.HashAlgorithm) -> int:
        if isinstance(wanted, int):
            return wanted
        if wanted is paddings.PSS.DIGEST_LENGTH:
            return hash_algorithm.digest_size
        if wanted is paddings.PSS.MAX_LENGTH:
            return paddings.calculate_max_pss_salt_length(self._public_key, hash_algorithm)
        raise ValueError("PSS salt length can only be set to Auto when verifying")

    def decrypt(self, ciphertext: bytes, padding: Any) -> bytes:
        """Decrypt as pyca's interface says (RFC 8017 7.1, 7.2); ValueError when there is no valid padding.

        A token has no implicit rejection: callers must treat ValueError and a wrong plaintext alike (RFC 3218).
        """
        if isinstance(padding, paddings.PKCS1v15):
            return self.token_key.decrypt(ciphertext, Mechanism.RSA_PKCS)
        if isinstance(padding, paddings.OAEP):
            digest, mask = padding.algorithm.name, padding.mgf._algorithm.name
            if digest in _PSS_HASHES and mask in _PSS_HASHES:
                parameter = (_PSS_HASHES[digest][0], _PSS_HASHES[mask][1], padding._label or None)
                return self.token_key.decrypt(ciphertext, Mechanism.RSA_PKCS_OAEP, parameter)
        raise UsageError("tokens decrypt PKCS #1 v1.5 and OAEP with SHA-1 or SHA-2 only", standard="RFC 8017 7")

    def private_numbers(self) -> NoReturn:
        """Refuse."""
        _stays()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:
        """Refuse."""
        _stays()

    def __copy__(self) -> Pkcs11RSAPrivateKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Pkcs11RSAPrivateKey:
        return self

    def __reduce__(self) -> NoReturn:
        _stays()


class Pkcs11EllipticCurvePrivateKey(ec.EllipticCurvePrivateKey):
    """An elliptic curve key inside a token. Signs ECDSA; key agreement is not offered."""

    def __init__(self, token_key: TokenKey, public_key: ec.EllipticCurvePublicKey) -> None:
        self.token_key = token_key
        self._public_key = public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve of the key."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve's field."""
        return self._public_key.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half, an ordinary key."""
        return self._public_key

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        """Sign as pyca's interface says; the result is DER (RFC 3279 2.2.3), the token's is r and s side by side."""
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise UsageError("elliptic curve keys in tokens sign ECDSA only")
        digest, _ = _digest(data, signature_algorithm.algorithm)
        field_bytes = (self.key_size + 7) // 8
        raw = self.token_key.sign(digest[:field_bytes], Mechanism.ECDSA)  # the leftmost bits count (FIPS 186-5 6.4)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def exchange(self, algorithm: Any, peer_public_key: Any) -> NoReturn:
        """Refuse: no profile of this product needs key agreement with a token."""
        raise TokenError("the token key signs only")

    def private_numbers(self) -> NoReturn:
        """Refuse."""
        _stays()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:
        """Refuse."""
        _stays()

    def __copy__(self) -> Pkcs11EllipticCurvePrivateKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Pkcs11EllipticCurvePrivateKey:
        return self

    def __reduce__(self) -> NoReturn:
        _stays()
