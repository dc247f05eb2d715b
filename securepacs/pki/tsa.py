"""A time stamp authority over bytes (RFC 3161, ESSCertIDv2 of RFC 5816): request in, response out, no clock and no socket."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

from asn1crypto import algos, cms, core, tsp

from securepacs.cms.signed import Signer, sign
from securepacs.tokens.credential import Credential
from securepacs.trust.timestamp import ID_CT_TST_INFO, IMPRINT_OCTETS, TimeStampResp

DEFAULT_POLICY = "2.25.252195542144090017468305617677953144914.1"  # pilot policy: the clock of the host, no audited time source
MAX_REQUEST_BYTES = 8192
ACCURACY_SECONDS = 1

_REFUSAL_TEXTS = {
    "bad_alg": "the hash algorithm is not supported",
    "bad_request": "the request is not one this authority answers",
    "bad_data_format": "the request cannot be read",
    "time_not_available": "the certificate of the authority is not valid now",
    "unaccepted_policy": "the policy is not offered",
    "unaccepted_extensions": "extensions are not supported",
}


def _random_serial() -> int:
    return secrets.randbits(127) | 1 << 127


class TimestampAuthority:
    """Stamps with one credential whose certificate is marked for time stamping (critically and alone, RFC 3161 2.3)."""

    def __init__(
        self, credential: Credential, *, policy: str = DEFAULT_POLICY, serial_numbers: Callable[[], int] = _random_serial
    ) -> None:
        self._credential = credential
        self._policy = policy
        self._serial_numbers = serial_numbers

    def respond(self, raw: bytes, *, at: datetime) -> bytes:
        """Return the DER TimeStampResp to the DER TimeStampReq `raw`, stamped with `at`; never raises for a bad request."""
        if len(raw) > MAX_REQUEST_BYTES:
            return _refusal("bad_data_format")
        try:
            request = tsp.TimeStampReq.load(raw, strict=True)
            problem = self._problem(request, at)
            nonce = request["nonce"].native
            imprint = request["message_imprint"].native
            with_certificates = bool(request["cert_req"].native)
        except (ValueError, TypeError):
            return _refusal("bad_data_format")
        if problem:
            return _refusal(problem)
        token = self._token(imprint["hash_algorithm"]["algorithm"], imprint["hashed_message"], nonce, with_certificates, at)
        return bytes(TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump())

    def _problem(self, request: tsp.TimeStampReq, at: datetime) -> str:
        """Return the PKIFailureInfo for a request that is refused (RFC 3161 2.4.2), or an empty string."""
        if request["version"].native != "v1":
            return "bad_request"
        if request["extensions"].native:
            return "unaccepted_extensions"
        if request["req_policy"].native is not None and request["req_policy"].dotted != self._policy:
            return "unaccepted_policy"
        imprint = request["message_imprint"]
        expected = IMPRINT_OCTETS.get(imprint["hash_algorithm"]["algorithm"].native)
        if expected is None:
            return "bad_alg"
        if len(imprint["hashed_message"].native) != expected:
            return "bad_data_format"
        certificate = self._credential.certificate
        return "" if certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc else "time_not_available"

    def _token(self, algorithm: str, imprint: bytes, nonce: int | None, with_certificates: bool, at: datetime) -> cms.ContentInfo:
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": self._policy,
                "message_imprint": {"hash_algorithm": algos.DigestAlgorithm({"algorithm": algorithm}), "hashed_message": imprint},
                "serial_number": self._serial_numbers(),
                "gen_time": core.GeneralizedTime(at.replace(microsecond=0)),
                "accuracy": {"seconds": ACCURACY_SECONDS},
                **({} if nonce is None else {"nonce": nonce}),
            }
        )
        signer = Signer(self._credential.certificate, self._credential.private_key, self._credential.chain)
        token = cms.ContentInfo.load(sign(info.dump(), [signer], content_type=ID_CT_TST_INFO, signing_time=at))
        if with_certificates:
            return token
        signed: Any = token["content"]  # RFC 3161 2.4.1: unless asked for, certificates must be absent; nobody signed them
        fields = ("version", "digest_algorithms", "encap_content_info", "signer_infos")
        return cms.ContentInfo({"content_type": "signed_data", "content": {name: signed[name] for name in fields}})


def _refusal(failure: str) -> bytes:
    status = {"status": "rejection", "status_string": [_REFUSAL_TEXTS[failure]], "fail_info": {failure}}
    return bytes(TimeStampResp({"status": status}).dump())
