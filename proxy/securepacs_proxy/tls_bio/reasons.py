"""Why a peer was not let in, in words for the audit trail; the peer itself gets only TLS alerts."""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL, crypto

from securepacs.errors import ProtocolError


class HandshakeRefused(ProtocolError):
    """The peer was not authenticated: the exact reason, for the audit trail; `claimed` is the subject it showed, or empty."""

    code = "handshake"

    def __init__(self, reason: str, *, claimed: str = "") -> None:
        super().__init__(reason, standard="PS3.15 B.12")
        self.claimed = claimed


class Verdict:
    """Why a certificate was refused: by OpenSSL's error, or for a `reason` of our own."""

    def __init__(self, certificate: crypto.X509, error: int, depth: int, reason: str = "") -> None:
        what = "certificate" if depth == 0 else f"CA certificate at depth {depth}"
        self.text = f"{what}: {reason or _VERIFY_REASONS.get(error, f'refused, OpenSSL verification error {error}')}"
        self.claimed = certificate.to_cryptography().subject.rfc4514_string() if depth == 0 else ""


_V = SSL.X509VerificationCodes
_VERIFY_REASONS: Final[dict[int, str]] = {
    _V.ERR_UNABLE_TO_GET_ISSUER_CERT: "issued by an unknown CA",
    _V.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "issued by an unknown CA",
    _V.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "issued by an unknown CA",
    _V.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "self-signed and not trusted",
    _V.ERR_SELF_SIGNED_CERT_IN_CHAIN: "its path ends at an unknown CA",
    _V.ERR_CERT_SIGNATURE_FAILURE: "its signature is wrong",
    _V.ERR_CERT_NOT_YET_VALID: "not yet valid",
    _V.ERR_CERT_HAS_EXPIRED: "expired",
    _V.ERR_CERT_REVOKED: "revoked",
    _V.ERR_UNABLE_TO_GET_CRL: "no certificate revocation list of its issuer is configured",
    _V.ERR_CRL_SIGNATURE_FAILURE: "the signature of its certificate revocation list is wrong",
    _V.ERR_CRL_NOT_YET_VALID: "its certificate revocation list is not yet valid",
    _V.ERR_CRL_HAS_EXPIRED: "its certificate revocation list has expired",
    _V.ERR_INVALID_PURPOSE: "not meant for TLS clients",
    _V.ERR_INVALID_CA: "not a CA certificate",
    _V.ERR_CERT_CHAIN_TOO_LONG: "its path is too long",
    _V.ERR_PATH_LENGTH_EXCEEDED: "its path exceeds the length a CA allows",
    _V.ERR_PERMITTED_VIOLATION: "outside the names its CA may certify",
    _V.ERR_EXCLUDED_VIOLATION: "in the names its CA must not certify",
    _V.ERR_UNHANDLED_CRITICAL_EXTENSION: "it has an unknown critical extension",
}

_HANDSHAKE_REASONS: Final[dict[str, str]] = {
    "peer did not return a certificate": "no certificate was shown",
    "unsupported protocol": "no TLS version in common",
    "version too low": "no TLS version in common",
    "wrong version number": "not TLS",
    "no shared cipher": "no cipher suite in common",
    "no suitable key share": "no key exchange group in common",
    "no suitable groups": "no key exchange group in common",
    "no shared signature algorithms": "no signature algorithm in common",
    "bad signature": "the peer does not own the key of its certificate",
}

OPENING_LENGTH: Final = 8
_HTTP_METHODS: Final = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PRI * ")


def foreign_protocol(opening: bytes) -> str:
    """Name what came instead of a TLS record, "" when it looks like TLS (RFC 8446 5.1: handshake 0x16, alert 0x15, version 3.x)."""
    if any(opening.startswith(method[:OPENING_LENGTH]) for method in _HTTP_METHODS):
        return "not TLS: an HTTP request"
    if opening[:2] == b"\x01\x00":
        return "not TLS: an unencrypted DICOM association request"
    if opening[:1] not in {b"\x16", b"\x15"} or opening[1:2] != b"\x03":
        return "not TLS"
    return ""


def reason_of(error: SSL.Error | crypto.Error) -> str:
    """Return OpenSSL's own words for an error of pyOpenSSL."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, list) and queue:
        return str(queue[0][-1])
    return " ".join(str(argument) for argument in error.args if argument != -1)


def refusal(verdicts: list[Verdict], opening: bytes, error: SSL.Error) -> HandshakeRefused:
    """Return the most telling reason: OpenSSL's verdict on a certificate, what came instead of TLS, OpenSSL's own words."""
    if verdicts:
        return HandshakeRefused(verdicts[-1].text, claimed=verdicts[-1].claimed)
    reason = foreign_protocol(opening) or reason_of(error) or "handshake failed"
    return HandshakeRefused(_HANDSHAKE_REASONS.get(reason, reason))
