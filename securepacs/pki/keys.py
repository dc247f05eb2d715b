"""Making key pairs of the kinds that the profiles allow."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from securepacs.errors import UsageError
from securepacs.tokens.credential import SigningKey

KeyKind: TypeAlias = Literal["p256", "rsa-2048", "rsa-3072"]
CertifiedKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

MINIMUM_RSA_BITS = 2048
MINIMUM_EC_BITS = 256


def generate_key(kind: KeyKind) -> SigningKey:
    """Return a new private key; RSA with the public exponent 65537, P-256 otherwise."""
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "rsa-3072":
        return rsa.generate_private_key(65537, 3072)
    if kind == "rsa-2048":
        return rsa.generate_private_key(65537, 2048)
    raise UsageError(f"unknown kind of key: {kind!r}", hint="p256, rsa-2048 or rsa-3072")


def key_kind(name: str) -> KeyKind:
    """Return `name` as a kind of key; UsageError for any other."""
    for kind in get_args(KeyKind):
        if name == kind:
            return cast(KeyKind, kind)
    raise UsageError(f"unknown kind of key: {name!r}", hint=", ".join(get_args(KeyKind)))


def certifiable(public_key: PublicKeyTypes) -> CertifiedKey:
    """Return `public_key` when the CA may certify it: RSA of 2048 bits or more, or a curve of 256 bits or more (PS3.15 B.13).

    Raises UsageError otherwise.
    """
    if isinstance(public_key, rsa.RSAPublicKey):
        if public_key.key_size >= MINIMUM_RSA_BITS:
            return public_key
        raise UsageError(f"an RSA key of {public_key.key_size} bits is too small", hint=f"{MINIMUM_RSA_BITS} bits or more")
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        if public_key.curve.key_size >= MINIMUM_EC_BITS:
            return public_key
        raise UsageError(f"the curve {public_key.curve.name} is too small", hint=f"{MINIMUM_EC_BITS} bits or more")
    raise UsageError(f"keys of type {type(public_key).__name__} are not issued", hint="RSA or elliptic curve")
