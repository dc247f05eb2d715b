"""Does the signature fit the content? Digest and signature value, nothing about trust (PS3.3 C.12.1.1.3, PS3.15 C.1).

RSA is PKCS #1 v1.5 with DigestInfo. DSA and ECDSA are outside every DICOM profile, and are checked as DCMTK writes them: DER in an
OB that may end with a pad byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from securepacs.dicom.elements import EXPLICIT_LITTLE, tokens
from securepacs.dicom.part10 import EncodedDataSet
from securepacs.errors import MalformedError
from securepacs.signatures.mac import BIT_EXACT, NOT_HASHED, MacStream, Reading, plan
from securepacs.signatures.profiles import ALGORITHMS, MANY_TAGS
from securepacs.signatures.sequences import (
    Scope,
    derive,
    scope_tokens,
)
from securepacs.signatures.values import der_value
from securepacs.trust.usage import read_problem

PublicKey: TypeAlias = "rsa.RSAPublicKey | ec.EllipticCurvePublicKey | dsa.DSAPublicKey"

# DigestInfo up to the digest (RFC 8017 9.2) of the hashes that cryptography does not sign with
_DIGEST_INFO = {
    "RIPEMD160": bytes.fromhex("3021300906052b2403020105000414"),
    "MD5": bytes.fromhex("3020300c06082a864886f70d020505000410"),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA1": hashes.SHA1(),  # noqa: S303  (old signatures must stay checkable; the policy calls them weak)
    "SHA224": hashes.SHA224(),
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
    "SHA512_224": hashes.SHA512_224(),
    "SHA512_256": hashes.SHA512_256(),
    "SHA3_224": hashes.SHA3_224(),
    "SHA3_256": hashes.SHA3_256(),
    "SHA3_384": hashes.SHA3_384(),
    "SHA3_512": hashes.SHA3_512(),
}


class Fit(StrEnum):
    """Outcome of the mathematical check; the two failures carry the names of their ETSI sub-indications."""

    MATCHES = "MATCHES"
    HASH_FAILURE = "HASH_FAILURE"  # the signature is the signer's, the content is not what was signed
    SIG_CRYPTO_FAILURE = "SIG_CRYPTO_FAILURE"  # the value was not made with the certificate's key over this content


@dataclass(frozen=True, slots=True)
class Checked:
    """Outcome, the reading that matched (or the letter's), and the stream facts of that reading."""

    fit: Fit
    reading: Reading
    stream: MacStream


class _Hashed:
    """The set of all elements of a signature item that are hashed."""

    def __contains__(self, tag: object) -> bool:
        return tag not in NOT_HASHED


HASHED = _Hashed()


_MOST_CERTIFICATE = 1 << 16  # bytes


@lru_cache(maxsize=256)
def read_certificate(raw: bytes) -> x509.Certificate:
    """Read a Certificate of Signer: one DER certificate, perhaps with a pad byte. MalformedError for anything else."""
    if len(raw) > _MOST_CERTIFICATE:
        raise MalformedError(f"the certificate has {len(raw)} bytes, more than {_MOST_CERTIFICATE}", standard="PS3.3 C.12.1.1.3")
    try:
        value = der_value(raw)
        certificate = x509.load_der_x509_certificate(value)
    except (MalformedError, ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        kind = "is PEM, not DER" if raw.startswith(b"-----BEGIN") else "cannot be read"
        raise MalformedError(f"the certificate {kind}", standard="PS3.3 C.12.1.1.3") from None
    if not value.endswith(b"\0" + certificate.signature):  # the octet that counts unused bits is under no signature
        raise MalformedError("the signature of the certificate is no whole number of octets", standard="RFC 5280 4.1.1.3")
    problem = read_problem(certificate)
    if problem:
        raise MalformedError(f"the certificate cannot be read: {problem}", standard="PS3.3 C.12.1.1.3")
    return certificate


@dataclass(frozen=True, slots=True)
class Signer:
    """What a verifier asks a certificate for each signature anew. `key` is None when its kind cannot sign in DICOM."""

    certificate: x509.Certificate
    key: PublicKey | None
    subject: str
    fingerprint: bytes  # SHA-256
    not_before: datetime
    not_after: datetime


@lru_cache(maxsize=256)
def read_signer(raw: bytes) -> Signer:
    """Read a Certificate of Signer as `read_certificate` does."""
    certificate = read_certificate(raw)
    key = certificate.public_key()
    return Signer(
        certificate,
        key if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | dsa.DSAPublicKey) else None,
        certificate.subject.rfc4514_string(),
        certificate.fingerprint(hashes.SHA256()),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def digest(
    dataset: EncodedDataSet,
    scope: Scope,
    wanted: Container[int],
    item: tuple[memoryview, int, int],
    mac_algorithm: str,
    reading: Reading = BIT_EXACT,
) -> tuple[bytes, MacStream]:
    """Return the MAC of the `wanted` elements of a scope and of a signature item (view, start, end), and what was met on the way.

    `mac_algorithm` is a defined term of MAC Algorithm. UnsignableError when the content cannot be in a MAC.
    """
    state = hashlib.new(ALGORITHMS[mac_algorithm], usedforsecurity=False)
    stream = MacStream(state.update, reading)
    found = scope_tokens(dataset, scope)
    plain = reading == BIT_EXACT and dataset.encoding == EXPLICIT_LITTLE
    if plain and isinstance(found, list) and isinstance(wanted, frozenset) and len(wanted) <= MANY_TAGS:
        stream.follow(dataset.view, derive(dataset, scope, plan, wanted))
    else:
        stream.feed(dataset.view, found, wanted, dataset.encoding)
    view, start, end = item
    tail = MacStream(state.update, reading)
    tail.feed(view, tokens(view, start, encoding=dataset.encoding, end=end), HASHED, dataset.encoding)
    stream.padded |= tail.padded
    stream.skipped_in_item = tail.skipped
    return state.digest(), stream


def check(
    dataset: EncodedDataSet,
    scope: Scope,
    wanted: Container[int],
    item: tuple[int, int],
    mac_algorithm: str,
    key: PublicKey,
    signature: bytes,
) -> Checked:
    """Check a signature under the letter of the standard, then in the other readings of `mac.Reading` (PS3.15 C.1).

    Readings that cannot differ for this content are not tried.
    """
    place = (dataset.view, *item)
    value, stream = digest(dataset, scope, wanted, place, mac_algorithm)
    first = Checked(fits(key, signature, value, mac_algorithm), BIT_EXACT, stream)
    if first.fit is Fit.MATCHES:
        return first
    for reading in _other_readings(stream):
        value, again = digest(dataset, scope, wanted, place, mac_algorithm, reading)
        if fits(key, signature, value, mac_algorithm) is Fit.MATCHES:
            return Checked(Fit.MATCHES, reading, again)
    return first


def _other_readings(stream: MacStream) -> list[Reading]:
    """Return the readings that could give another stream for this content, the likeliest first."""
    old = (False, True) if stream.fragmented else (False,)
    guesses = (False, True) if stream.guessed else (False,)
    trims = (False, True) if stream.padded else (False,)
    readings = [Reading(trimmed, lengths, guess) for lengths in old for guess in guesses for trimmed in trims]
    return [reading for reading in readings if reading != BIT_EXACT]


def fits(key: PublicKey, signature: bytes, mac: bytes, mac_algorithm: str) -> Fit:
    """Check a signature value over a digest."""
    if isinstance(key, rsa.RSAPublicKey):
        return _fits_rsa(key, signature, mac, mac_algorithm)
    algorithm = _HASHES.get(mac_algorithm)
    try:
        value = der_value(signature)
        # the hash object only tells the length of the digest here; 160 bits are 160 bits
        prehashed = Prehashed(algorithm or (hashes.SHA1() if len(mac) == 20 else hashes.MD5()))  # noqa: S303
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(value, mac, ec.ECDSA(prehashed))
        else:
            key.verify(value, mac, prehashed)
    except (InvalidSignature, MalformedError, UnsupportedAlgorithm):
        return Fit.SIG_CRYPTO_FAILURE
    return Fit.MATCHES


def _fits_rsa(key: rsa.RSAPublicKey, signature: bytes, mac: bytes, mac_algorithm: str) -> Fit:
    size = (key.key_size + 7) // 8
    if len(signature) not in (size, size + size % 2):
        return Fit.SIG_CRYPTO_FAILURE
    value = signature[:size]
    algorithm = _HASHES.get(mac_algorithm)
    try:
        if algorithm is None:
            recovered = key.recover_data_from_signature(value, padding.PKCS1v15(), None)
            prefix = _DIGEST_INFO[mac_algorithm]
            if recovered[: len(prefix)] != prefix or len(recovered) != len(prefix) + len(mac):
                return Fit.SIG_CRYPTO_FAILURE
            return Fit.MATCHES if recovered[len(prefix) :] == mac else Fit.HASH_FAILURE
        try:
            key.verify(value, mac, padding.PKCS1v15(), Prehashed(algorithm))
        except InvalidSignature:
            key.recover_data_from_signature(value, padding.PKCS1v15(), algorithm)
            return Fit.HASH_FAILURE  # a sound signature of this key and hash, over something else
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return Fit.SIG_CRYPTO_FAILURE
    return Fit.MATCHES
