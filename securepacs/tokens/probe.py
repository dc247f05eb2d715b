"""Trying a key out: does it sign, does it decrypt, does it belong to its certificate."""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from securepacs.errors import TokenError
from securepacs.tokens.credential import Credential, SigningKey

_CHALLENGE_BYTES = 32


def proves_possession(key: SigningKey, public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None = None) -> bool:
    """Tell whether `key` signs a random challenge so that `public_key` (its own when None) verifies it."""
    challenge = os.urandom(_CHALLENGE_BYTES)
    public = public_key or key.public_key()
    try:
        if isinstance(key, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
            signature = key.sign(challenge, padding.PKCS1v15(), hashes.SHA256())
            public.verify(signature, challenge, padding.PKCS1v15(), hashes.SHA256())
            return True
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(key.sign(challenge, ec.ECDSA(hashes.SHA256())), challenge, ec.ECDSA(hashes.SHA256()))
            return True
    except InvalidSignature:
        return False
    return False


def decrypts(key: SigningKey) -> bool:
    """Tell whether an RSA `key` opens what its public half encrypted (PKCS #1 v1.5)."""
    if not isinstance(key, rsa.RSAPrivateKey):
        return False
    challenge = os.urandom(_CHALLENGE_BYTES)
    try:
        return hmac.compare_digest(
            key.decrypt(key.public_key().encrypt(challenge, padding.PKCS1v15()), padding.PKCS1v15()), challenge
        )
    except ValueError:
        return False


def probe(credential: Credential) -> dict[str, str]:
    """Return what works with `credential`: `sign` and `decrypt` are ok, failed, not offered, or the token's own words."""
    public = credential.certificate.public_key()
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return {"sign": "failed", "decrypt": "not offered"}
    result = {}
    try:
        result["sign"] = "ok" if proves_possession(credential.private_key, public) else "failed"
    except TokenError as error:
        result["sign"] = error.message
    try:
        offered = isinstance(public, rsa.RSAPublicKey)
        result["decrypt"] = ("ok" if decrypts(credential.private_key) else "failed") if offered else "not offered"
    except TokenError as error:
        result["decrypt"] = error.message
    return result
