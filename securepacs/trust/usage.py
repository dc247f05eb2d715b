"""Which certificates may serve which purpose, and which keys and hashes are too weak (RFC 5280 4.2.1; PS3.15 B.13). Pure."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.trust.policy import Purpose

MINIMUM_EC_BITS = 256

# what path validation reads; subjectDirectoryAttributes is left out, because asn1crypto does not know the values of hcRole
_FIELDS = ("version", "serial_number", "signature", "issuer", "validity", "subject", "subject_public_key_info")
_EXTENSIONS = (
    "authority_information_access",
    "authority_key_identifier",
    "basic_constraints",
    "certificate_policies",
    "crl_distribution_points",
    "extended_key_usage",
    "freshest_crl",
    "inhibit_any_policy",
    "issuer_alt_name",
    "key_identifier",
    "key_usage",
    "name_constraints",
    "policy_constraints",
    "policy_mappings",
    "subject_alt_name",
)
_WEAK_HASHES = (hashes.MD5, hashes.SHA1)
_INFRASTRUCTURE = frozenset(
    {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.TIME_STAMPING,
        ExtendedKeyUsageOID.OCSP_SIGNING,
        ExtendedKeyUsageOID.CODE_SIGNING,
    }
)


@functools.lru_cache(maxsize=1024)
def read_problem(certificate: x509.Certificate) -> str:
    """Return why parts of `certificate` cannot be read, or an empty string; checked once so that later steps need not."""
    try:
        len(certificate.extensions)  # parses them all
        certificate.public_key()
        str(certificate.signature_hash_algorithm)
        parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER), strict=True)
        body = parsed["tbs_certificate"]
        _ = [body[field].native for field in _FIELDS], parsed.critical_extensions
        _ = [value.native for value in (getattr(parsed, f"{name}_value") for name in _EXTENSIONS) if value is not None]
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        return str(error) or type(error).__name__
    return ""


def usage_problem(certificate: x509.Certificate, purpose: Purpose) -> str:
    """Return why `certificate` must not be used for `purpose`, or an empty string when it may.

    A missing keyUsage or extendedKeyUsage extension restricts nothing (RFC 5280 4.2.1.3), except for time stamping (RFC 3161 2.3:
    critical, alone) and OCSP signing (RFC 6960 4.2.2.2), which must be named. A signer needs digitalSignature or nonRepudiation and
    must not be a certificate for TLS servers or other infrastructure only.
    """
    if purpose is Purpose.ANY:
        return ""
    if purpose is Purpose.TLS_SERVER:
        return _key_usage_problem(certificate, "digital_signature", "key_encipherment") or _extended_problem(
            certificate, ExtendedKeyUsageOID.SERVER_AUTH
        )
    problem = _key_usage_problem(
        certificate, "digital_signature", *(() if purpose is Purpose.TLS_CLIENT else ("content_commitment",))
    )
    if problem:
        return problem
    if purpose is Purpose.TLS_CLIENT:
        return _extended_problem(certificate, ExtendedKeyUsageOID.CLIENT_AUTH)
    if purpose is Purpose.TIMESTAMPING:
        return _timestamping_problem(certificate)
    if purpose is Purpose.OCSP:
        extended = _extended_key_usage(certificate)
        named = extended is not None and ExtendedKeyUsageOID.OCSP_SIGNING in extended.value
        return "" if named else "the certificate is not marked for OCSP signing"
    extended = _extended_key_usage(certificate)
    if extended is not None and _INFRASTRUCTURE.issuperset(extended.value):
        return "the certificate is for TLS servers or other infrastructure only, not for signing documents"
    return ""


def weakness(chain: Sequence[x509.Certificate], *, minimum_rsa_bits: int) -> str:
    """Return what is cryptographically too weak in `chain` (end entity first, anchor last), or an empty string.

    Every key counts; signatures count except the anchor's own, which nobody relies on.
    """
    for position, certificate in enumerate(chain):
        name = "the certificate" if position == 0 else f"CA certificate {certificate.subject.rfc4514_string()!r}"
        problem = key_weakness(certificate, minimum_rsa_bits=minimum_rsa_bits)
        if problem:
            return f"{name} has {problem}"
        if position < len(chain) - 1 and _weakly_signed(certificate):
            return f"{name} is signed with a weak hash"
    return ""


def key_weakness(certificate: x509.Certificate, *, minimum_rsa_bits: int) -> str:
    """Return what is wrong with the public key, or an empty string."""
    try:
        key = certificate.public_key()
    except (ValueError, x509.UnsupportedGeneralNameType) as error:
        return f"a public key that cannot be read ({type(error).__name__})"
    if isinstance(key, rsa.RSAPublicKey):
        return f"an RSA key of {key.key_size} bits" if key.key_size < minimum_rsa_bits else ""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"a key on the curve {key.curve.name}" if key.curve.key_size < MINIMUM_EC_BITS else ""
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ""
    return f"a key of an unsupported kind ({type(key).__name__})"


def _weakly_signed(certificate: x509.Certificate) -> bool:
    try:
        return isinstance(certificate.signature_hash_algorithm, _WEAK_HASHES)
    except ValueError:  # UnsupportedAlgorithm is not a ValueError: path validation has already refused unknown signatures
        return True


def _key_usage_problem(certificate: x509.Certificate, *any_of: str) -> str:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return ""
    if any(getattr(usage, name) for name in any_of):
        return ""
    return f"key usage does not include {' or '.join(any_of)}"


def _extended_key_usage(certificate: x509.Certificate) -> x509.Extension[x509.ExtendedKeyUsage] | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return None


def _extended_problem(certificate: x509.Certificate, wanted: x509.ObjectIdentifier) -> str:
    extended = _extended_key_usage(certificate)
    if extended is None or wanted in extended.value or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in extended.value:
        return ""
    return f"extended key usage does not include {wanted._name}"


def _timestamping_problem(certificate: x509.Certificate) -> str:
    extended = _extended_key_usage(certificate)
    if extended is None or list(extended.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        return "extended key usage is not timeStamping alone (RFC 3161 2.3)"
    return "" if extended.critical else "extended key usage timeStamping is not critical (RFC 3161 2.3)"
