"""What OpenSSL's security level 2 keeps out, checked by ourselves: PS3.15 B.13 asks servers for a suite that this level refuses.

TLS_AES_128_CCM_8_SHA256 has a tag of 64 bits, for which OpenSSL wants level 0. Level 0 would also let in short keys, and
certificates signed over MD5 or SHA-1; groups and signature algorithms of the handshake are the profile's lists at any level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from OpenSSL import SSL, crypto

from securepacs.tls import SECURITY_LEVEL, TlsProfile
from securepacs_proxy.tls_bio.native import PRIVATE_API_AVAILABLE
from securepacs_proxy.tls_bio.reasons import Verdict

_SHORTEST_HASH: Final = 28  # bytes: SHA-224
Judge = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]


def needs_level_0(profile: TlsProfile) -> bool:
    """Say whether a suite of the profile is refused at any higher level. Without lists of groups and signatures the level stays."""
    return PRIVATE_API_AVAILABLE and any("CCM_8" in suite for suite in profile.tls13_suites)


def cipher_string(profile: TlsProfile) -> str:
    """Return the TLS 1.2 suites in OpenSSL's syntax, with the security level at which all suites of the profile can be used."""
    return f"{':'.join(profile.tls12_suites)}:@SECLEVEL={0 if needs_level_0(profile) else SECURITY_LEVEL}"


def weakness(certificate: x509.Certificate, profile: TlsProfile, *, signed: bool = True) -> str:
    """Return why a certificate is too weak, "" when it is not; `signed`: its own signature counts, as it does not of an anchor."""
    try:
        key = certificate.public_key()
        digest = certificate.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return "its key or signature is of an unknown kind"
    if isinstance(key, rsa.RSAPublicKey):
        strong = key.key_size >= profile.minimum_rsa_bits
    elif isinstance(key, ec.EllipticCurvePublicKey):
        strong = key.curve.key_size >= profile.minimum_ec_bits
    else:
        strong = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    if not strong:
        return "its key is too short, or of a kind that is not used"
    if signed and digest is not None and digest.digest_size < _SHORTEST_HASH:
        return f"it is signed over {digest.name.upper()}"
    return ""


def also_strong(judge: Judge, profile: TlsProfile) -> Judge:
    """Return a judge that refuses, besides, every weak certificate of a path."""

    def both(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        if not judge(connection, certificate, error, depth, ok):
            return False
        shown = certificate.to_cryptography()
        weak = weakness(shown, profile, signed=shown.subject != shown.issuer)
        if weak:
            connection.get_app_data().append(Verdict(certificate, error, depth, weak))
        return not weak

    return both
