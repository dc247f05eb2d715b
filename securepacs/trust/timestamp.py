"""Time stamps (RFC 3161, RFC 5816): asking an authority for one, and verifying a TimeStampToken."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from asn1crypto import cms, core, tsp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.cms.signed import SignedContent, SignerResult, verify
from securepacs.errors import IntegrityFailure, MalformedError, Unavailable, UsageError, VerificationError
from securepacs.trust.path import validate
from securepacs.trust.policy import PathResult, Purpose, SubIndication, TrustPolicy

ID_CT_TST_INFO = "1.2.840.113549.1.9.16.1.4"
CLOCK_TOLERANCE = timedelta(minutes=5)  # how far the authority's clock may be ahead of ours
MAX_TOKEN_BYTES = 1024 * 1024

IMPRINT_OCTETS: Mapping[str, int] = MappingProxyType({"sha256": 32, "sha384": 48, "sha512": 64})
_HARMLESS = frozenset({"affiliationChanged", "superseded", "cessationOfOperation"})  # "unspecified" is the default, so says nothing
_SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12"
_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"


class TimeStampResp(core.Sequence):  # type: ignore[misc]
    """RFC 3161 2.4.2; asn1crypto's own does not know that a refusal comes without a token."""

    _fields = [  # noqa: RUF012 - asn1crypto's declaration style
        ("status", tsp.PKIStatusInfo),
        ("time_stamp_token", cms.ContentInfo, {"optional": True}),
    ]


@dataclass(frozen=True, slots=True)
class TimestampResult:
    """A time stamp that holds: when, under which policy, by whom, and why the authority is trusted."""

    gen_time: datetime
    policy: str
    tsa: x509.Certificate
    path: PathResult
    digest_algorithm: str = ""
    serial_number: int = 0
    accuracy: timedelta = timedelta(0)


def build_request(data: bytes, *, digest: str = "sha256", nonce: int | None = None, certificates: bool = True) -> bytes:
    """Return the DER TimeStampReq over `data` (RFC 3161 2.4.1); UsageError for any other hash than SHA-256, 384 and 512."""
    if digest not in IMPRINT_OCTETS:
        raise UsageError(f"time stamps are not requested over {digest}", hint=", ".join(IMPRINT_OCTETS))
    imprint = {"hash_algorithm": {"algorithm": digest}, "hashed_message": hashlib.new(digest, data).digest()}
    request = {"version": "v1", "message_imprint": imprint, "cert_req": certificates}
    return bytes(tsp.TimeStampReq(request if nonce is None else request | {"nonce": nonce}).dump())


def read_response(raw: bytes, request: bytes) -> bytes:
    """Return the DER TimeStampToken out of a TimeStampResp, once it answers `request` (RFC 3161 2.4.2): same imprint, same nonce.

    Raises Unavailable when the authority refused, MalformedError when the answer cannot be read, VerificationError when it answers
    something else. The signature is left to `verify_timestamp`.
    """
    try:
        response = TimeStampResp.load(raw, strict=True)
        status = response["status"]["status"].native
        failure = sorted(response["status"]["fail_info"].native or ())
    except (ValueError, TypeError) as error:
        raise MalformedError("not a time stamp response", standard="RFC 3161 2.4.2") from error
    if status not in ("granted", "granted_with_mods"):
        reason = ", ".join(failure) or str(status)
        raise Unavailable(f"the time stamp authority refused: {reason}", retryable="time_not_available" in failure)
    token = bytes(response["time_stamp_token"].dump())
    info = _unverified_info(response)
    asked = tsp.TimeStampReq.load(request)
    same = info["message_imprint"].native == asked["message_imprint"].native and info["nonce"].native == asked["nonce"].native
    if not same:
        raise VerificationError("the time stamp answers another request", standard="RFC 3161 2.4.2")
    return token


def request_timestamp(data: bytes, *, url: str, digest: str = "sha256", seconds: float = 15.0) -> bytes:
    """Have `data` stamped by the authority at `url` and return the DER TimeStampToken (RFC 3161 3.4, HTTP).

    The host of `url` may be private: the caller named it. Raises Unavailable, MalformedError, VerificationError as `read_response`.
    """
    from securepacs.trust.fetch import Fetcher

    request = build_request(data, digest=digest, nonce=secrets.randbits(63) | 1 << 63)
    fetcher = Fetcher(allowed_hosts=[urlsplit(url).hostname or ""], max_bytes=MAX_TOKEN_BYTES, seconds=seconds, remember=False)
    return read_response(fetcher.post(url, request, content_type="application/timestamp-query"), request)


def verify_timestamp(
    token: bytes,
    data: bytes,
    *,
    policy: TrustPolicy,
    at: datetime,
    certificates: Iterable[x509.Certificate] = (),
    allow_weak_hash: bool = False,
) -> TimestampResult:
    """Verify that a trusted authority stamped `data` (RFC 3161 2.4.2, RFC 5816); `token` is the TimeStampToken alone.

    Steps: 1 content type and single signer; 2 signature; 3 signed signing-certificate attribute; 4 imprint over `data`;
    5 genTime within the authority's certificate, not after `at`; 6 path of the authority as of `at`, for time stamping.
    `certificates` helps with tokens that came without any. Raises MalformedError, and VerificationError whose report is the
    TimestampResult when only step 6 failed, else None. MD5 and SHA-1 imprints need `allow_weak_hash`.
    """
    helpers = (*certificates, *policy.intermediates)
    try:
        signed = verify(token, certificates=helpers)
    except UsageError as error:  # it holds no content: for a message in general that may be meant, for a token never
        raise MalformedError("the token does not hold a TSTInfo", standard="RFC 3161 2.4.2") from error
    if signed.content_type != ID_CT_TST_INFO:
        raise MalformedError("the token does not hold a TSTInfo", standard="RFC 3161 2.4.2")
    if len(signed.signers) != 1:
        raise VerificationError(f"the token has {len(signed.signers)} signers instead of one", standard="RFC 3161 2.4.2")
    signer = signed.signers[0]
    _check_signing_certificate(signer)
    info = _tst_info(signed.content)
    algorithm = _check_imprint(info, data, allow_weak_hash=allow_weak_hash)
    result = _result(info, algorithm, signed, signer, policy, at, helpers)
    if not result.path.passed:
        raise VerificationError(
            f"the time stamp authority is not trusted: {result.path.sub_indication}: {result.path.detail}", report=result
        )
    return result


def _result(
    info: tsp.TSTInfo,
    algorithm: str,
    signed: SignedContent,
    signer: SignerResult,
    policy: TrustPolicy,
    at: datetime,
    helpers: Iterable[x509.Certificate],
) -> TimestampResult:
    gen_time = _gen_time(info)
    tsa = signer.certificate
    if not tsa.not_valid_before_utc <= gen_time <= tsa.not_valid_after_utc:
        raise VerificationError(
            "the time stamp was made outside the validity of the authority's certificate", standard="RFC 3161 2.3"
        )
    if gen_time > at + CLOCK_TOLERANCE:
        raise VerificationError(
            f"the time stamp is of {gen_time:%Y-%m-%d %H:%M:%S}Z, which is in the future", standard="RFC 3161 2.4.2"
        )
    path = _path(tsa, gen_time, policy.for_timestamps(), at, (*signed.certificates, *helpers))
    return TimestampResult(
        gen_time, info["policy"].dotted, tsa, path, algorithm, int(info["serial_number"].native), _accuracy(info)
    )


def _path(
    tsa: x509.Certificate, gen_time: datetime, policy: TrustPolicy, at: datetime, helpers: tuple[x509.Certificate, ...]
) -> PathResult:
    """Step 6. A revocation for a reason that leaves the key in good hands spares older tokens (RFC 3161 4, item 1)."""
    path = validate(tsa, policy=policy, at=at, purpose=Purpose.TIMESTAMPING, extra=helpers)
    revoked = path.revocation_time
    if path.sub_indication != SubIndication.REVOKED or revoked is None or path.revocation_reason not in _HARMLESS:
        return path
    if gen_time >= revoked or at > tsa.not_valid_after_utc:
        return path
    spared = validate(tsa, policy=policy, at=revoked - timedelta(seconds=1), purpose=Purpose.TIMESTAMPING, extra=helpers)
    return spared if spared.passed else path


def _tst_info(content: bytes) -> tsp.TSTInfo:
    try:
        info = tsp.TSTInfo.load(content, strict=True)
        info.native  # noqa: B018 - parse everything now
        if info["version"].native != "v1":
            raise MalformedError("the TSTInfo has an unknown version", standard="RFC 3161 2.4.2")
        for extension in info["extensions"] if not isinstance(info["extensions"], core.Void) else ():
            if extension["critical"].native:
                raise VerificationError("the time stamp has an unknown critical extension", standard="RFC 3161 2.4.2")
    except (ValueError, TypeError) as error:
        raise MalformedError("the TSTInfo cannot be read", standard="RFC 3161 2.4.2") from error
    return info


def _check_imprint(info: tsp.TSTInfo, data: bytes, *, allow_weak_hash: bool) -> str:
    imprint = info["message_imprint"]
    algorithm = str(imprint["hash_algorithm"]["algorithm"].native)
    if algorithm not in IMPRINT_OCTETS and not (allow_weak_hash and algorithm in ("sha1", "md5")):
        raise VerificationError(
            f"the time stamp is over a {algorithm} hash, which is too weak or unknown", standard="RFC 3161 2.4.1"
        )
    if hashlib.new(algorithm, data).digest() != imprint["hashed_message"].native:
        raise IntegrityFailure("the time stamp is about other data", standard="RFC 3161 2.4.2")
    return algorithm


def _check_signing_certificate(signer: SignerResult) -> None:
    """Step 3: the signed attributes must name the certificate, in version 2 (checked by `cms`) or in version 1 by SHA-1."""
    if _SIGNING_CERTIFICATE_V2 in signer.signed_attributes:
        return
    values = signer.signed_attributes.get(_SIGNING_CERTIFICATE, [])
    if len(values) != 1:
        raise VerificationError("the token does not name its signing certificate", standard="RFC 3161 2.4.2")
    try:
        expected = tsp.SigningCertificate.load(values[0], strict=True)["certs"][0]["cert_hash"].native
    except (ValueError, TypeError, IndexError) as error:
        raise MalformedError("the signing certificate attribute cannot be read", standard="RFC 2634 5.4") from error
    if hashlib.sha1(signer.certificate.public_bytes(Encoding.DER), usedforsecurity=False).digest() != expected:
        raise IntegrityFailure("the authority's certificate is another than the signed one", standard="RFC 2634 5.4")


def _gen_time(info: tsp.TSTInfo) -> datetime:
    moment = info["gen_time"].native
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise MalformedError("genTime is not a UTC time", standard="RFC 3161 2.4.2")
    return moment.astimezone(UTC)


def _accuracy(info: tsp.TSTInfo) -> timedelta:
    accuracy: Any = info["accuracy"].native or {}
    return timedelta(
        seconds=accuracy.get("seconds") or 0, milliseconds=accuracy.get("millis") or 0, microseconds=accuracy.get("micros") or 0
    )


def _unverified_info(response: TimeStampResp) -> tsp.TSTInfo:
    try:
        content = response["time_stamp_token"]["content"]["encap_content_info"]["content"].parsed
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedError("the token cannot be read", standard="RFC 3161 2.4.2") from error
    return _tst_info(bytes(content.dump()))
