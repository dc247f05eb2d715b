"""The OCSP responder and the time stamp authority as pure functions over bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core, tsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from securepacs.pki import CertificateProfile
from securepacs.pki.ocsp import OcspResponder
from securepacs.pki.tsa import DEFAULT_POLICY, TimestampAuthority
from securepacs.tokens.credential import Credential
from securepacs.trust.ocsp import ocsp_status
from securepacs.trust.status import Outcome
from securepacs.trust.timestamp import TimeStampResp, build_request
from tests.support.pki import TestPki, make_pki

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    return make_pki(tmp_path_factory.mktemp("pki"), now=NOW)


@pytest.fixture(scope="module")
def responder(pki: TestPki) -> OcspResponder:
    credential = pki.credential(CertificateProfile.OCSP_RESPONDER, "OCSP", key_kind="p256")
    return OcspResponder(pki.ca.issuing, credential, lambda: pki.ca.register)


@pytest.fixture(scope="module")
def tsa(pki: TestPki) -> TimestampAuthority:
    return TimestampAuthority(pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256"))


@pytest.fixture
def doctor(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256")


def ask(certificate: x509.Certificate, issuer: x509.Certificate, *, nonce: bytes | None = None, algorithm: Any = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, algorithm or hashes.SHA256())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def answer(responder: OcspResponder, request: bytes, at: datetime = NOW) -> ocsp.OCSPResponse:
    return ocsp.load_der_ocsp_response(responder.respond(request, at=at))


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA512()])
def test_good_with_nonce(pki: TestPki, responder: OcspResponder, doctor: Credential, algorithm: Any) -> None:
    found = answer(responder, ask(doctor.certificate, pki.ca.issuing, nonce=b"n" * 32, algorithm=algorithm))
    assert found.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert found.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert found.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    raw = responder.respond(ask(doctor.certificate, pki.ca.issuing, algorithm=algorithm), at=NOW)
    assert ocsp_status(raw, doctor.certificate, pki.ca.issuing, at=NOW).outcome is Outcome.GOOD
    assert len(ocsp.load_der_ocsp_response(raw).extensions) == 0


@pytest.mark.parametrize("reason", [x509.ReasonFlags.key_compromise, x509.ReasonFlags.unspecified])
def test_revoked(pki: TestPki, responder: OcspResponder, doctor: Credential, reason: x509.ReasonFlags) -> None:
    moment = NOW - timedelta(hours=1)
    pki.ca.revoke(doctor.certificate, at=moment, reason=reason)
    raw = responder.respond(ask(doctor.certificate, pki.ca.issuing), at=NOW)
    found = ocsp_status(raw, doctor.certificate, pki.ca.issuing, at=NOW)
    assert (found.outcome, found.revocation_time, found.reason) == (Outcome.REVOKED, moment, reason.value)


def test_serial_number_never_issued_is_unknown(pki: TestPki, responder: OcspResponder, doctor: Credential) -> None:
    known = ocsp.load_der_ocsp_request(ask(doctor.certificate, pki.ca.issuing))
    request = (
        ocsp.OCSPRequestBuilder()
        .add_certificate_by_hash(known.issuer_name_hash, known.issuer_key_hash, 4711, hashes.SHA256())
        .build()
        .public_bytes(Encoding.DER)
    )
    assert answer(responder, request).certificate_status is ocsp.OCSPCertStatus.UNKNOWN


def test_certificates_of_others(pki: TestPki, responder: OcspResponder, tmp_path: Path) -> None:
    other = make_pki(tmp_path, now=NOW)
    stranger = other.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256").certificate
    assert answer(responder, ask(stranger, other.ca.issuing)).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED


@pytest.mark.parametrize("raw", [b"", b"junk", b"\x30\x00", bytes(5000)])
def test_malformed_requests(responder: OcspResponder, raw: bytes) -> None:
    assert answer(responder, raw).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


@pytest.mark.parametrize("length", [0, 129])
def test_nonce_of_illegal_length(pki: TestPki, responder: OcspResponder, doctor: Credential, length: int) -> None:
    request = ask(doctor.certificate, pki.ca.issuing, nonce=b"n" * length)
    assert answer(responder, request).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_unknown_critical_extension(pki: TestPki, responder: OcspResponder, doctor: Credential) -> None:
    request = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(doctor.certificate, pki.ca.issuing, hashes.SHA256())
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True)
        .build()
        .public_bytes(Encoding.DER)
    )
    assert answer(responder, request).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_question_about_two_certificates(pki: TestPki, responder: OcspResponder, doctor: Credential) -> None:
    from asn1crypto import ocsp as asn1_ocsp

    parsed = asn1_ocsp.OCSPRequest.load(ask(doctor.certificate, pki.ca.issuing))
    requests = parsed["tbs_request"]["request_list"]
    requests.append(requests[0].copy())
    assert answer(responder, parsed.dump(force=True)).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_ocsp_garbage_is_always_answered(responder: OcspResponder, raw: bytes) -> None:
    assert answer(responder, raw).response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ocsp_flipped_requests_are_always_answered(pki: TestPki, responder: OcspResponder, data: st.DataObject) -> None:
    raw = bytearray(ask(pki.ca.issuing, pki.ca.issuing, nonce=b"nonce"))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    answer(responder, bytes(raw))


def stamped(tsa: TimestampAuthority, request: bytes, at: datetime = NOW) -> TimeStampResp:
    return TimeStampResp.load(tsa.respond(request, at=at), strict=True)


def refusal(response: TimeStampResp) -> set[str]:
    assert response["status"]["status"].native == "rejection"
    assert isinstance(response["time_stamp_token"], core.Void)
    return set(response["status"]["fail_info"].native)


def changed(**fields: Any) -> bytes:
    request = tsp.TimeStampReq.load(build_request(b"data", nonce=1))
    for field, value in fields.items():
        request[field] = value
    return bytes(request.dump(force=True))


def test_granted(tsa: TimestampAuthority) -> None:
    response = stamped(tsa, build_request(b"data", nonce=2**64 + 1))
    assert response["status"]["status"].native == "granted"
    info = response["time_stamp_token"]["content"]["encap_content_info"]["content"].parsed
    assert info["nonce"].native == 2**64 + 1
    assert info["gen_time"].native == NOW
    assert info["policy"].dotted == DEFAULT_POLICY


def test_certificates_only_when_asked_for(tsa: TimestampAuthority) -> None:
    for wanted in (True, False):
        content = stamped(tsa, build_request(b"data", certificates=wanted))["time_stamp_token"]["content"]
        assert isinstance(content["certificates"], core.Void) is not wanted


def test_serial_numbers_differ(tsa: TimestampAuthority) -> None:
    tokens = [
        stamped(tsa, build_request(b"data"))["time_stamp_token"]["content"]["encap_content_info"]["content"] for _ in range(20)
    ]
    assert len({token.parsed["serial_number"].native for token in tokens}) == 20


@pytest.mark.parametrize(
    ("raw", "failure"),
    [
        (b"", "bad_data_format"),
        (b"junk", "bad_data_format"),
        (build_request(b"data") + b"\0", "bad_data_format"),
        (bytes(9000), "bad_data_format"),
        (changed(version="v2"), "bad_request"),
        (changed(message_imprint={"hash_algorithm": {"algorithm": "md5"}, "hashed_message": bytes(16)}), "bad_alg"),
        (changed(message_imprint={"hash_algorithm": {"algorithm": "sha1"}, "hashed_message": bytes(20)}), "bad_alg"),
        (changed(message_imprint={"hash_algorithm": {"algorithm": "1.2.3"}, "hashed_message": bytes(20)}), "bad_alg"),
        (changed(message_imprint={"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": bytes(31)}), "bad_data_format"),
        (changed(req_policy="1.2.3.4"), "unaccepted_policy"),
        (changed(extensions=[{"extn_id": "1.2.3", "extn_value": core.OctetString(b"")}]), "unaccepted_extensions"),
    ],
)
def test_refusals(tsa: TimestampAuthority, raw: bytes, failure: str) -> None:
    assert refusal(stamped(tsa, raw)) == {failure}


def test_own_policy_is_accepted(tsa: TimestampAuthority) -> None:
    assert stamped(tsa, changed(req_policy=DEFAULT_POLICY))["status"]["status"].native == "granted"


@pytest.mark.parametrize("at", [NOW - timedelta(days=1), NOW + timedelta(days=9 * 365)])
def test_authority_outside_its_certificate_refuses(tsa: TimestampAuthority, at: datetime) -> None:
    assert refusal(stamped(tsa, build_request(b"data"), at)) == {"time_not_available"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_tsa_garbage_is_always_answered(tsa: TimestampAuthority, data: st.DataObject) -> None:
    raw = bytearray(build_request(b"data", nonce=5))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert stamped(tsa, bytes(raw))["status"]["status"].native in ("granted", "rejection")
    assert refusal(stamped(tsa, data.draw(st.binary(max_size=100)))) == {"bad_data_format"}
