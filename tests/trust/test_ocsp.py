"""OCSP answers: who may give them, about what, and how old they may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.trust import Purpose, SubIndication, TrustPolicy, validate
from securepacs.trust.ocsp import build_request, ocsp_status
from securepacs.trust.status import NOT_CONCERNED, Outcome, RevocationStatus
from tests.support.pki import Party, cached_key, make_party, usage

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CA_USAGE = usage(key_cert_sign=True, crl_sign=True)
ISSUER = make_party("Issuer", now=NOW, ca=True, key_usage=CA_USAGE)
LEAF = make_party("Leaf", now=NOW, issuer=ISSUER, key_usage=usage(digital_signature=True))
OCSP_SIGNING = (ExtendedKeyUsageOID.OCSP_SIGNING,)
DELEGATE = make_party("Responder", now=NOW, issuer=ISSUER, extended_key_usage=OCSP_SIGNING)
BY_NAME, BY_HASH = ocsp.OCSPResponderEncoding.NAME, ocsp.OCSPResponderEncoding.HASH


def response(
    *,
    signer: Party = ISSUER,
    about: Party = LEAF,
    issuer: Party = ISSUER,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    this_update: datetime = NOW - timedelta(minutes=5),
    next_update: datetime | None = NOW + timedelta(hours=1),
    revoked: tuple[datetime, x509.ReasonFlags | None] | None = None,
    encoding: ocsp.OCSPResponderEncoding = BY_HASH,
    certificates: tuple[Party, ...] | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
    certificate_id: hashes.HashAlgorithm | None = None,
) -> bytes:
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=about.certificate,
            issuer=issuer.certificate,
            algorithm=certificate_id or hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else status,
            this_update=this_update,
            next_update=next_update,
            revocation_time=revoked[0] if revoked else None,
            revocation_reason=revoked[1] if revoked else None,
        )
        .responder_id(encoding, signer.certificate)
    )
    enclosed = (signer,) if certificates is None else certificates
    if enclosed:
        builder = builder.certificates([party.certificate for party in enclosed])
    return builder.sign(signer.key, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def last_bit_flipped(raw: bytes) -> bytes:
    """Change the signature, which ends a response without certificates."""
    return raw[:-1] + bytes([raw[-1] ^ 1])


def judge(raw: bytes, *, at: datetime = NOW, leaf: Party = LEAF, issuer: Party = ISSUER) -> RevocationStatus:
    return ocsp_status(raw, leaf.certificate, issuer.certificate, at=at)


@pytest.mark.parametrize("encoding", [BY_NAME, BY_HASH])
@pytest.mark.parametrize("signer", [ISSUER, DELEGATE])
@pytest.mark.parametrize("certificate_id", [hashes.SHA1(), hashes.SHA256()])
def test_good_by_issuer_and_by_delegate(signer: Party, encoding: Any, certificate_id: Any) -> None:
    assert judge(response(signer=signer, encoding=encoding, certificate_id=certificate_id)).outcome is Outcome.GOOD


def test_good_by_issuer_that_encloses_no_certificate() -> None:
    assert judge(response(certificates=())).outcome is Outcome.GOOD


def test_rsa_issuer() -> None:
    issuer = make_party("RSA Issuer", now=NOW, ca=True, key=cached_key("rsa-2048", "ocsp issuer"))
    leaf = make_party("Leaf", now=NOW, issuer=issuer)
    assert judge(response(signer=issuer, about=leaf, issuer=issuer), leaf=leaf, issuer=issuer).outcome is Outcome.GOOD


def test_revoked_with_time_and_reason() -> None:
    moment = NOW - timedelta(days=1)
    found = judge(response(revoked=(moment, x509.ReasonFlags.key_compromise)))
    assert (found.outcome, found.revocation_time, found.reason) == (Outcome.REVOKED, moment, "keyCompromise")
    assert judge(response(revoked=(moment, None))).reason == "unspecified"


def test_stale_revoked_answer_stays_revoked() -> None:
    stale = response(
        revoked=(NOW - timedelta(days=9), None), next_update=NOW - timedelta(days=1), this_update=NOW - timedelta(days=2)
    )
    assert judge(stale).outcome is Outcome.REVOKED


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (response(status=ocsp.OCSPCertStatus.UNKNOWN), "does not know"),
        (response(this_update=NOW - timedelta(days=2), next_update=NOW - timedelta(days=1)), "expired"),
        (response(this_update=NOW - timedelta(hours=1), next_update=None), "expired"),
        (last_bit_flipped(response(certificates=())), "signature"),
        (response(signer=make_party("Self-made", now=NOW, extended_key_usage=OCSP_SIGNING)), "not authorised"),
        (response(signer=make_party("No usage", now=NOW, issuer=ISSUER)), "not authorised"),
        (
            response(
                signer=make_party("Wrong usage", now=NOW, issuer=ISSUER, extended_key_usage=(ExtendedKeyUsageOID.CLIENT_AUTH,))
            ),
            "not authorised",
        ),
        (
            response(
                signer=make_party("Old", now=NOW, issuer=ISSUER, extended_key_usage=OCSP_SIGNING, end=NOW - timedelta(minutes=1))
            ),
            "expired",
        ),
        (response(signer=DELEGATE, certificates=()), "neither the issuer"),
        (b"", "cannot be read"),
        (b"\x30\x03\x0a\x01\x00", "cannot be read"),
        (ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER), "try_later"),
    ],
)
def test_answers_that_do_not_count(raw: bytes, words: str) -> None:
    found = judge(raw)
    assert found.outcome is Outcome.UNUSABLE
    assert words in found.detail


def test_weak_responder_keys() -> None:
    weak = make_party("Weak", now=NOW, issuer=ISSUER, extended_key_usage=OCSP_SIGNING, key=rsa.generate_private_key(65537, 1024))
    assert "1024" in judge(response(signer=weak)).detail


def test_answers_about_others_do_not_concern() -> None:
    other = make_party("Other", now=NOW, issuer=ISSUER)
    namesake = make_party("Issuer", now=NOW, ca=True)
    assert judge(response(about=other)) == NOT_CONCERNED
    assert judge(response(issuer=namesake, signer=namesake)) == NOT_CONCERNED


def test_answer_newer_than_the_moment_is_welcome() -> None:
    assert judge(response(), at=NOW - timedelta(days=30)).outcome is Outcome.GOOD


def test_request_names_the_certificate() -> None:
    request = ocsp.load_der_ocsp_request(build_request(LEAF.certificate, ISSUER.certificate))
    assert request.serial_number == LEAF.certificate.serial_number


@pytest.mark.parametrize(
    ("raw", "sub_indication"),
    [
        (response(), ""),
        (response(revoked=(NOW - timedelta(days=1), None)), SubIndication.REVOKED),
        (response(status=ocsp.OCSPCertStatus.UNKNOWN), SubIndication.TRY_LATER),
    ],
)
def test_given_answers_in_a_policy(raw: bytes, sub_indication: str) -> None:
    policy = TrustPolicy(anchors=(ISSUER.certificate,), ocsp_responses=(raw,))
    result = validate(LEAF.certificate, policy=policy, at=NOW, purpose=Purpose.SIGNER)
    assert result.sub_indication == sub_indication
    assert result.warnings == ()
