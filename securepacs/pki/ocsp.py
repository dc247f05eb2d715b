"""An OCSP responder over bytes (RFC 6960, with the nonce of RFC 9654): request in, response out, no clock and no socket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from securepacs.pki.authority import CLOCK_SKEW, Register
from securepacs.tokens.credential import Credential
from securepacs.trust.ocsp import cert_id_names

ANSWER_LIFETIME = timedelta(hours=12)
MAX_REQUEST_BYTES = 4096
_NONCE_OCTETS = range(1, 129)  # RFC 9654 2.1


class OcspResponder:
    """Answers for one issuing CA with a delegated certificate (RFC 6960 4.2.2.2). `register` is asked anew for each answer."""

    def __init__(
        self,
        issuer: x509.Certificate,
        responder: Credential,
        register: Callable[[], Register],
        *,
        lifetime: timedelta = ANSWER_LIFETIME,
    ) -> None:
        self._issuer = issuer
        self._responder = responder
        self._register = register
        self._lifetime = lifetime

    def respond(self, raw: bytes, *, at: datetime) -> bytes:
        """Return the DER OCSPResponse to the DER OCSPRequest `raw`; never raises for a bad request.

        malformedRequest for what cannot be read or asks about several certificates at once, unauthorized for certificates of other
        issuers (RFC 5019 2.2.3); a serial number this CA never issued is `unknown`.
        """
        if len(raw) > MAX_REQUEST_BYTES:
            return _refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
        try:
            request = ocsp.load_der_ocsp_request(raw)
            nonce = _nonce(request)
            mine = cert_id_names(request.hash_algorithm, request.issuer_name_hash, request.issuer_key_hash, self._issuer)
        except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm, x509.DuplicateExtension):
            return _refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
        if not mine:
            return _refusal(ocsp.OCSPResponseStatus.UNAUTHORIZED)
        return self._answer(request, nonce, at.replace(microsecond=0))

    def _answer(self, request: ocsp.OCSPRequest, nonce: bytes | None, at: datetime) -> bytes:
        register = self._register()
        revocation = register.revoked.get(request.serial_number)
        status = ocsp.OCSPCertStatus.UNKNOWN
        if revocation is not None:
            status = ocsp.OCSPCertStatus.REVOKED
        elif request.serial_number in register.issued:
            status = ocsp.OCSPCertStatus.GOOD
        reason = None
        if revocation is not None and revocation.reason is not x509.ReasonFlags.unspecified:
            reason = revocation.reason
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                issuer_name_hash=request.issuer_name_hash,
                issuer_key_hash=request.issuer_key_hash,
                serial_number=request.serial_number,
                algorithm=request.hash_algorithm,
                cert_status=status,
                this_update=at - CLOCK_SKEW,
                next_update=at + self._lifetime,
                revocation_time=revocation.at if revocation else None,
                revocation_reason=reason,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self._responder.certificate)
            .certificates([self._responder.certificate])
        )
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        return builder.sign(self._responder.private_key, hashes.SHA256()).public_bytes(Encoding.DER)


def _nonce(request: ocsp.OCSPRequest) -> bytes | None:
    """Return the nonce to echo; ValueError when it has an illegal length or an unknown extension is critical."""
    nonce = None
    for extension in request.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonce = extension.value.nonce
            if len(nonce) not in _NONCE_OCTETS:
                raise ValueError("nonce length")
        elif extension.critical:
            raise ValueError("unknown critical extension")
    return nonce


def _refusal(status: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
