"""What an OCSP response says about a certificate (RFC 6960). Bytes in, answer out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.trust.status import NOT_CONCERNED, Outcome, RevocationStatus, aged
from securepacs.trust.usage import key_weakness

_UNDATED_LIFETIME = timedelta(minutes=30)  # an answer without nextUpdate says "newer information is always available"


def build_request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return the DER of an OCSPRequest for one certificate (RFC 6960 4.1), CertID by SHA-1 as RFC 5019 2.1.1 asks of clients.

    Without a nonce: cached answers of public responders ignore it, and freshness comes from thisUpdate and nextUpdate.
    """
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1()).build()  # noqa: S303 - a name, not a proof
    return request.public_bytes(Encoding.DER)


def ocsp_status(
    raw: bytes, certificate: x509.Certificate, issuer: x509.Certificate, *, at: datetime, minimum_rsa_bits: int = 2048
) -> RevocationStatus:
    """Say what the OCSPResponse `raw` knows about `certificate` as of `at` (RFC 6960 3.2); newer answers than `at` are welcome.

    Checks: 1 the answer is about this certificate; 2 signature by the issuer or by a responder the issuer delegated; 3 age.
    """
    try:
        response = ocsp.load_der_ocsp_response(raw)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return RevocationStatus(Outcome.UNUSABLE, f"the OCSP responder said {response.response_status.name.lower()}")
        single = _single_about(response.responses, certificate, issuer)
        if single is None:
            return NOT_CONCERNED
        problem = _signature_problem(response, issuer, at, minimum_rsa_bits)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return RevocationStatus(Outcome.UNUSABLE, f"the OCSP response cannot be read: {error}")
    if problem:
        return RevocationStatus(Outcome.UNUSABLE, problem)
    return _judge(single, at)


def _judge(single: ocsp.OCSPSingleResponse, at: datetime) -> RevocationStatus:
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        reason = single.revocation_reason.value if single.revocation_reason else x509.ReasonFlags.unspecified.value
        return RevocationStatus(Outcome.REVOKED, "by OCSP", single.revocation_time_utc, reason, valid_until=single.next_update_utc)
    if single.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
        return RevocationStatus(Outcome.UNUSABLE, "the OCSP responder does not know the certificate")
    next_update = single.next_update_utc or single.this_update_utc + _UNDATED_LIFETIME
    return aged(RevocationStatus(Outcome.GOOD), next_update=next_update, at=at, what="OCSP response")


def _single_about(
    responses: Iterable[ocsp.OCSPSingleResponse], certificate: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse | None:
    """Step 1: find the answer whose CertID names this serial number, issuer name and issuer key (RFC 6960 4.1.1)."""
    for single in responses:
        if single.serial_number == certificate.serial_number and cert_id_names(
            single.hash_algorithm, single.issuer_name_hash, single.issuer_key_hash, issuer
        ):
            return single
    return None


def cert_id_names(algorithm: hashes.HashAlgorithm, name_hash: bytes, key_hash: bytes, issuer: x509.Certificate) -> bool:
    """Whether the hashes of a CertID are those of `issuer` (RFC 6960 4.1.1). ValueError for an unsupported kind of key."""
    name = issuer.subject.public_bytes()
    return name_hash == _digest(algorithm, name) and key_hash == _digest(algorithm, _key_bits(issuer))


def _signature_problem(response: ocsp.OCSPResponse, issuer: x509.Certificate, at: datetime, minimum_rsa_bits: int) -> str:
    """Step 2: find the signer among the issuer and the delegates that came along, and verify (RFC 6960 4.2.2.2)."""
    if isinstance(response.signature_hash_algorithm, hashes.MD5 | hashes.SHA1):
        return "the OCSP response is signed with a weak hash"
    for signer in (issuer, *response.certificates):
        if not _names_responder(response, signer):
            continue
        if signer != issuer:
            problem = _delegate_problem(signer, issuer, at, minimum_rsa_bits)
            if problem:
                return problem
        return "" if _verifies(response, signer) else "the signature of the OCSP response is wrong"
    return "the signer of the OCSP response is neither the issuer nor one of its responders"


def _names_responder(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    if response.responder_key_hash is not None:
        return response.responder_key_hash == _digest(hashes.SHA1(), _key_bits(signer))  # noqa: S303 - RFC 6960 KeyHash
    return response.responder_name == signer.subject


def _delegate_problem(delegate: x509.Certificate, issuer: x509.Certificate, at: datetime, minimum_rsa_bits: int) -> str:
    """Why the issuer did not delegate to this responder, or an empty string; it may be younger than `at`, but not expired."""
    try:
        delegate.verify_directly_issued_by(issuer)
        usages = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return "the OCSP responder is not authorised by the issuer"
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        return "the OCSP responder is not authorised by the issuer"
    if isinstance(delegate.signature_hash_algorithm, hashes.MD5 | hashes.SHA1):
        return "the OCSP responder's certificate is signed with a weak hash"
    weak = key_weakness(delegate, minimum_rsa_bits=minimum_rsa_bits)
    if weak:
        return f"the OCSP responder has {weak}"
    return "the OCSP responder's certificate has expired" if at > delegate.not_valid_after_utc else ""


def _verifies(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if algorithm is None:
        return False
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _key_bits(certificate: x509.Certificate) -> bytes:
    """Return the content of the subjectPublicKey BIT STRING, which CertID and KeyHash digest."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    raise ValueError("unsupported kind of key")


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
