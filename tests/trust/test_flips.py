"""Every flipped byte: no verdict raises, and none says anything that was not signed.

Not every byte is signed: the count of unused bits before a signature whose last bits are zero may change, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import ConfigError, MalformedError, VerificationError
from securepacs.trust import Indication, Purpose, SubIndication, TrustPolicy, validate
from securepacs.trust.files import parse_certificates, parse_crls
from securepacs.trust.timestamp import verify_timestamp
from tests.support.eras import era, moment
from tests.support.pki import make_crl, make_ocsp, make_party, usage

pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CA_USAGE = usage(key_cert_sign=True, crl_sign=True)
ROOT = make_party("Root", now=NOW, ca=True, key_usage=CA_USAGE)
ISSUING = make_party("Issuing", now=NOW, issuer=ROOT, ca=True, key_usage=CA_USAGE, path_length=0)
LEAF = make_party(
    "Leaf",
    now=NOW,
    issuer=ISSUING,
    key_usage=usage(digital_signature=True),
    extensions=(
        (x509.SubjectAlternativeName([x509.RFC822Name("dr@hospital.example"), x509.DNSName("hospital.example")]), False),
        (x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(ISSUING.key.public_key()), False),
    ),
)
POLICY = TrustPolicy(anchors=(ROOT.certificate,), intermediates=(ISSUING.certificate,), require_revocation=True)
ROOT_CRL = make_crl(ROOT, now=NOW)
REVOKED = {LEAF.certificate.serial_number: (NOW - timedelta(hours=3), x509.ReasonFlags.key_compromise)}

UNDECIDED = (Indication.INDETERMINATE, SubIndication.TRY_LATER)

STEPS = [pytest.param((1, (1, 2, 4, 8, 16, 32, 64, 128)), marks=pytest.mark.full, id="all"), pytest.param((3, (1,)), id="some")]


def said(revoked: bool) -> tuple[Indication, str]:
    """The verdict by the data that nobody flipped."""
    return (Indication.TOTAL_FAILED, SubIndication.REVOKED) if revoked else (Indication.TOTAL_PASSED, "")


def flips(raw: bytes, steps: tuple[int, tuple[int, ...]]) -> Iterator[bytes]:
    step, bits = steps
    for position in range(0, len(raw), step):
        for bit in bits:
            yield raw[:position] + bytes([raw[position] ^ bit]) + raw[position + 1 :]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("which", ["leaf", "issuing"])
def test_flipped_certificates_never_pass(which: str, steps: tuple[int, tuple[int, ...]]) -> None:
    good = LEAF if which == "leaf" else ISSUING
    crls = (make_crl(ISSUING, now=NOW), ROOT_CRL)
    read = 0
    for raw in flips(good.certificate.public_bytes(Encoding.DER), steps):
        try:
            (changed,) = parse_certificates(raw, "flipped")
        except ConfigError:
            continue
        read += 1
        leaf, issuing = (changed, ISSUING.certificate) if which == "leaf" else (LEAF.certificate, changed)
        policy = TrustPolicy(anchors=POLICY.anchors, intermediates=(issuing,), crls=crls)
        same = (changed.tbs_certificate_bytes, changed.signature) == (
            good.certificate.tbs_certificate_bytes,
            good.certificate.signature,
        )
        assert same or not validate(leaf, policy=policy, at=NOW, purpose=Purpose.SIGNER).passed
    assert read > 30


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("revoked", [False, True])
def test_flipped_crls_never_say_anything_else(revoked: bool, steps: tuple[int, tuple[int, ...]]) -> None:
    read = decided = 0
    for raw in flips(make_crl(ISSUING, now=NOW, revoked=REVOKED if revoked else None).public_bytes(Encoding.DER), steps):
        try:
            crls = parse_crls(raw, "flipped")
        except ConfigError:
            continue
        read += 1
        policy = TrustPolicy(
            anchors=POLICY.anchors, intermediates=POLICY.intermediates, crls=(*crls, ROOT_CRL), require_revocation=True
        )
        result = validate(LEAF.certificate, policy=policy, at=NOW, purpose=Purpose.SIGNER)
        assert (result.indication, result.sub_indication) in (UNDECIDED, said(revoked))
        decided += result.sub_indication != SubIndication.TRY_LATER
    assert read > 15
    assert decided < 8


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("revoked_at", [None, NOW - timedelta(hours=3)])
def test_flipped_ocsp_responses_never_say_anything_else(revoked_at: datetime | None, steps: tuple[int, tuple[int, ...]]) -> None:
    good = make_ocsp(LEAF.certificate, ISSUING, now=NOW, revoked_at=revoked_at)
    decided = 0
    for raw in flips(good, steps):
        policy = TrustPolicy(
            anchors=POLICY.anchors,
            intermediates=POLICY.intermediates,
            crls=(ROOT_CRL,),
            ocsp_responses=(raw,),
            require_revocation=True,
        )
        result = validate(LEAF.certificate, policy=policy, at=NOW, purpose=Purpose.SIGNER)
        assert (result.indication, result.sub_indication) in (UNDECIDED, said(revoked_at is not None))
        decided += result.sub_indication != SubIndication.TRY_LATER
    assert decided < 8


@pytest.mark.parametrize("steps", STEPS)
def test_flipped_time_stamps_fail_as_documented_or_say_the_same(steps: tuple[int, tuple[int, ...]]) -> None:
    """What nobody signs, such as certificates that came along, may change; what the token says may not."""
    at = moment(2026)
    good = era(2026).stamp(at, b"data", "sha256")
    policy = era(2026).pki.policy()
    failed = tried = 0
    for raw in flips(good, steps):
        tried += 1
        try:
            result = verify_timestamp(raw, b"data", policy=policy, at=at)
        except (MalformedError, VerificationError):
            failed += 1
        else:
            assert (result.gen_time, result.digest_algorithm, result.tsa) == (at, "sha256", era(2026).tsa.certificate)
    assert failed > tried // 2
