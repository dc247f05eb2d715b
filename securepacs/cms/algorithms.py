"""Digest, signature and cipher algorithms of CMS by name (RFC 3370, 3565, 5754): tables, and the calls into pyca/cryptography."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

from asn1crypto import algos
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from securepacs.errors import UsageError, VerificationError

HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
SIGNING_HASHES = ("sha256", "sha384", "sha512")


class HashState(Protocol):
    """A digest in the making, as hashlib gives it."""

    @property
    def digest_size(self) -> int:
        """Octets of the digest."""
        ...

    def update(self, data: Any, /) -> None:
        """Take more content."""
        ...

    def digest(self) -> bytes:
        """Return the digest of what was taken so far."""
        ...


def hash_state(name: str) -> HashState:
    """Return a fresh digest in the making; VerificationError when CMS messages of this product may not use it."""
    if name not in HASHES:
        raise VerificationError(f"the digest algorithm {name} is not supported", standard="RFC 5754")
    return hashlib.new(name, usedforsecurity=False)  # SHA-1 is read, never written


def hash_named(name: str) -> hashes.HashAlgorithm:
    """Return a fresh hash algorithm; VerificationError when CMS messages of this product may not use it."""
    if name not in HASHES:
        raise VerificationError(f"the digest algorithm {name} is not supported", standard="RFC 5754")
    return HASHES[name]()


def digest(name: str, data: bytes) -> bytes:
    """Hash `data` with the named algorithm."""
    state = hash_state(name)
    state.update(data)
    return state.digest()


def sign_with(private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, hash_name: str, data: bytes) -> tuple[str, bytes]:
    """Sign `data`; return asn1crypto's name of the signature algorithm and the signature value (RFC 3370 3.2, RFC 5754 3.3)."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        return "rsassa_pkcs1v15", private_key.sign(data, padding.PKCS1v15(), HASHES[hash_name]())
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return f"{hash_name}_ecdsa", private_key.sign(data, ec.ECDSA(HASHES[hash_name]()))
    raise UsageError("a CMS signer needs an RSA or an elliptic curve key", standard="RFC 3370")


def signature_holds(
    public_key: object, algorithm: algos.SignedDigestAlgorithm, digest_name: str, signature: bytes, hashed: Callable[[str], bytes]
) -> bool:
    """Tell whether `signature` is right over what `hashed` gives the digest of, for the name of a digest algorithm.

    `digest_name` counts where the signature algorithm names no digest itself.
    """
    kind = algorithm.signature_algo
    hash_name = digest_name if algorithm["algorithm"].native in ("rsassa_pkcs1v15", "ecdsa") else algorithm.hash_algo
    prehashed, data = Prehashed(hash_named(hash_name)), hashed(hash_name)
    try:
        if kind == "rsassa_pkcs1v15" and isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, data, padding.PKCS1v15(), prehashed)
        elif kind == "rsassa_pss" and isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, data, _pss(algorithm["parameters"]), prehashed)
        elif kind == "ecdsa" and isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, data, ec.ECDSA(prehashed))
        else:
            raise VerificationError(f"the signature algorithm {kind} does not fit the signer's key or is not supported")
    except InvalidSignature:
        return False
    except UnsupportedAlgorithm:
        raise VerificationError(f"the signature algorithm {kind} with {hash_name} is not supported") from None
    return True


def _pss(parameters: Any) -> padding.PSS:
    mask_hash = parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native
    return padding.PSS(padding.MGF1(hash_named(mask_hash)), int(parameters["salt_length"].native))
