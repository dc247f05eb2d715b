"""The default verdict policy where it is about trust and time: one row each, with one cause each (ETSI EN 319 102-1 words)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.pki import CertificateProfile, serve
from securepacs.pki.tsa import TimestampAuthority
from securepacs.signatures import evaluate
from securepacs.tokens.credential import Credential
from securepacs.trust import TrustPolicy
from securepacs.trust.timestamp import build_request, read_response
from tests.support.encoded import element, part10
from tests.support.net import free_port
from tests.support.pki import Party, cached_key, make_crl, make_ocsp, make_party, make_pki, usage
from tests.support.signing import forge, signed_bytes

NOW = datetime.now(UTC).replace(microsecond=0)
SMALL = part10(element(0x00080018, b"UI", b"1.2.3\0") + element(0x00100010, b"PN", b"Test^P"))
CA = make_party("CA", now=NOW, ca=True, key_usage=usage(key_cert_sign=True, crl_sign=True), start=NOW - timedelta(days=900))
STAMPING = {
    "key_usage": usage(digital_signature=True),
    "extended_key_usage": (ExtendedKeyUsageOID.TIME_STAMPING,),
    "extended_critical": True,
}


def party(name: str = "Dr. Row", **changes: Any) -> Party:
    made = {"key": cached_key("rsa-2048", name), "key_usage": usage(digital_signature=True), "start": NOW - timedelta(days=800)}
    return make_party(name, now=NOW, issuer=CA, **{**made, **changes})


def credential(made: Party) -> Credential:
    return Credential(made.certificate, made.key)


def stamper(at: datetime, tsa: Party) -> Any:
    def stamp(value: bytes) -> bytes:
        request = build_request(value)
        return read_response(TimestampAuthority(credential(tsa)).respond(request, at=at), request)

    return stamp


@dataclass
class Row:
    """A signer, when it signed, when that was stamped, and what is known about revocation."""

    signer: Party
    signed: datetime = NOW - timedelta(days=10)
    stamped: datetime | None = None
    tsa: Party | None = None
    revoked: datetime | None = None

    def judge(self, *, by: str = "crl", at: datetime = NOW, **options: Any) -> tuple[str, str, tuple[str, ...]]:
        tsa = self.tsa or make_party("TSA", now=NOW, issuer=CA, start=NOW - timedelta(days=800), **STAMPING)
        stamp = stamper(self.stamped, tsa) if self.stamped else None
        raw = signed_bytes(SMALL, credential(self.signer), profile="base", at=self.signed, timestamp=stamp)
        known: dict[str, Any] = {}
        if by == "crl":
            entries = {self.signer.certificate.serial_number: (self.revoked, None)} if self.revoked else {}
            known["crls"] = (make_crl(CA, now=NOW, revoked=entries),)
        elif by == "ocsp":
            known["ocsp_responses"] = (make_ocsp(self.signer.certificate, CA, now=NOW, revoked_at=self.revoked),)
        (result,) = evaluate(raw, TrustPolicy(anchors=(CA.certificate,), **known), at=at, **options).signatures
        return result.indication, result.sub_indication, result.warnings


DAYS = timedelta(days=1)
EXPIRED = {"end": NOW - 5 * DAYS}

ROWS: dict[str, tuple[Row, dict[str, Any], str, str]] = {
    "good by CRL": (Row(party()), {}, "TOTAL-PASSED", ""),
    "good by OCSP": (Row(party()), {"by": "ocsp"}, "TOTAL-PASSED", ""),
    "revoked by CRL, no CDP": (Row(party(), revoked=NOW - 2 * DAYS), {}, "TOTAL-FAILED", "REVOKED"),
    "revoked by OCSP bytes, no AIA": (Row(party(), revoked=NOW - 2 * DAYS), {"by": "ocsp"}, "TOTAL-FAILED", "REVOKED"),
    "revoked after the time stamp": (Row(party(), stamped=NOW - 9 * DAYS, revoked=NOW - 2 * DAYS), {}, "TOTAL-PASSED", ""),
    "revoked before the time stamp": (Row(party(), stamped=NOW - 1 * DAYS, revoked=NOW - 2 * DAYS), {}, "TOTAL-FAILED", "REVOKED"),
    "revoked at the time stamp": (Row(party(), stamped=NOW - 2 * DAYS, revoked=NOW - 2 * DAYS), {}, "TOTAL-FAILED", "REVOKED"),
    "certified time wins over an older claim": (
        Row(party(), signed=NOW - 9 * DAYS, stamped=NOW - 1 * DAYS, revoked=NOW - 2 * DAYS),
        {"trust_signing_time": True},
        "TOTAL-FAILED",
        "REVOKED",
    ),
    "revoked, judged as of a moment before": (Row(party(), revoked=NOW - 2 * DAYS), {"at": NOW - 3 * DAYS}, "TOTAL-PASSED", ""),
    "revoked, judged as of that moment": (
        Row(party(), revoked=NOW - 2 * DAYS),
        {"at": NOW - 2 * DAYS},
        "TOTAL-FAILED",
        "REVOKED",
    ),
    "expired, nothing proves the time": (Row(party(**EXPIRED)), {}, "INDETERMINATE", "OUT_OF_BOUNDS_NO_POE"),
    "expired, claim believed": (Row(party(**EXPIRED)), {"trust_signing_time": True}, "TOTAL-PASSED", ""),
    "expired, claim believed, but revoked since": (
        Row(party(**EXPIRED), revoked=NOW - 7 * DAYS),
        {"trust_signing_time": True},
        "TOTAL-FAILED",
        "REVOKED",
    ),
    "expired, judged as of a moment before": (Row(party(**EXPIRED)), {"at": NOW - 6 * DAYS}, "TOTAL-PASSED", ""),
    "expired, stamped before": (Row(party(**EXPIRED), stamped=NOW - 6 * DAYS), {}, "TOTAL-PASSED", ""),
    "expired, stamped too late": (Row(party(**EXPIRED), stamped=NOW - 4 * DAYS), {}, "INDETERMINATE", "OUT_OF_BOUNDS_NO_POE"),
    "expired, and the authority as well": (
        Row(
            party(**EXPIRED),
            stamped=NOW - 6 * DAYS,
            tsa=make_party("Old TSA", now=NOW, issuer=CA, start=NOW - 90 * DAYS, end=NOW - DAYS, **STAMPING),
        ),
        {},
        "INDETERMINATE",
        "OUT_OF_BOUNDS_NO_POE",
    ),
    "not yet valid": (Row(party(start=NOW + DAYS), signed=NOW + 2 * DAYS), {}, "INDETERMINATE", "OUT_OF_BOUNDS_NO_POE"),
    "key encipherment only": (
        Row(party(key_usage=usage(key_encipherment=True))),
        {},
        "INDETERMINATE",
        "CHAIN_CONSTRAINTS_FAILURE",
    ),
    "for TLS servers only": (
        Row(party(extended_key_usage=(ExtendedKeyUsageOID.SERVER_AUTH,))),
        {},
        "INDETERMINATE",
        "CHAIN_CONSTRAINTS_FAILURE",
    ),
    "for time stamping only": (
        Row(party(**{**STAMPING})),
        {},
        "INDETERMINATE",
        "CHAIN_CONSTRAINTS_FAILURE",
    ),
    "non-repudiation only": (Row(party(key_usage=usage(content_commitment=True))), {}, "TOTAL-PASSED", ""),
}


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    case, options, indication, sub_indication = ROWS[row]
    assert case.judge(**options)[:2] == (indication, sub_indication)


def test_warnings_of_rows_that_pass() -> None:
    assert "revocation-unchecked" not in Row(party()).judge()[2]
    assert "revocation-unchecked" in Row(party()).judge(by="")[2]
    assert "signing-time-trusted" in Row(party(**EXPIRED)).judge(trust_signing_time=True)[2]


def weak() -> Party:
    return party("Dr. Weak", key=rsa.generate_private_key(65537, 1024))


def test_signer_with_rsa_1024_below_a_sound_ca() -> None:
    raw = forge(SMALL, credential=credential(weak()), date_time=f"{NOW:%Y%m%d%H%M%S}.000000+0000")
    (result,) = evaluate(raw, TrustPolicy(anchors=(CA.certificate,)), at=NOW).signatures
    assert (result.indication, result.sub_indication) == ("INDETERMINATE", "CRYPTO_CONSTRAINTS_FAILURE")


@pytest.mark.parametrize(("algorithm", "allow"), [("MD5", False), ("SHA1", False), ("MD5", True), ("SHA1", True)])
def test_signer_by_a_weak_hash(algorithm: str, allow: bool) -> None:
    raw = forge(SMALL, credential=credential(party()), algorithm=algorithm, date_time=f"{NOW:%Y%m%d%H%M%S}.000000+0000")
    (result,) = evaluate(raw, TrustPolicy(anchors=(CA.certificate,)), at=NOW, allow_weak_hash=allow).signatures
    expected = ("TOTAL-PASSED", "") if allow else ("INDETERMINATE", "CRYPTO_CONSTRAINTS_FAILURE")
    assert (result.indication, result.sub_indication) == expected


def test_nobody_who_is_trusted_vouches() -> None:
    other = make_party("CA", now=NOW, ca=True, key_usage=usage(key_cert_sign=True))
    raw = signed_bytes(SMALL, credential(party()), profile="base")
    (result,) = evaluate(raw, TrustPolicy(anchors=(other.certificate,))).signatures
    assert (result.indication, result.sub_indication) == ("INDETERMINATE", "NO_CERTIFICATE_CHAIN_FOUND")


@pytest.fixture
def declaring(tmp_path: Path) -> tuple[Any, bytes]:
    """A PKI whose certificates name a responder, and a file signed under it."""
    own = make_pki(tmp_path, base_url=f"http://127.0.0.1:{free_port()}")
    return own, signed_bytes(SMALL, own.credential(CertificateProfile.RADIOLOGIST, "Dr. Online"), profile="base")


def test_declared_and_unreachable_is_to_be_tried_later(declaring: tuple[Any, bytes]) -> None:
    own, raw = declaring
    online = own.policy(online=True, allowed_hosts=frozenset({"127.0.0.1"}))
    (result,) = evaluate(raw, online).signatures
    assert (result.indication, result.sub_indication) == ("INDETERMINATE", "TRY_LATER")
    with serve(own.ca, port=int(own.ca.base_url.rpartition(":")[2])):
        answered = own.policy(online=True, allowed_hosts=frozenset({"127.0.0.1"}))
        (result,) = evaluate(raw, answered).signatures
        assert (result.indication, result.warnings.count("revocation-unchecked")) == ("TOTAL-PASSED", 0)


def test_declared_but_not_asked_offline(declaring: tuple[Any, bytes]) -> None:
    own, raw = declaring
    (result,) = evaluate(raw, own.policy()).signatures
    assert result.indication == "TOTAL-PASSED"
    assert "revocation-unchecked" in result.warnings


def test_revoked_online_for_a_compromised_key(declaring: tuple[Any, bytes]) -> None:
    own, _ = declaring
    with serve(own.ca, port=int(own.ca.base_url.rpartition(":")[2])):
        signer = own.credential(CertificateProfile.RADIOLOGIST, "Dr. Gone")
        raw = signed_bytes(SMALL, signer, profile="base")
        own.ca.revoke(signer.certificate, at=NOW, reason=x509.ReasonFlags.key_compromise)
        (result,) = evaluate(raw, own.policy(online=True, allowed_hosts=frozenset({"127.0.0.1"}))).signatures
    assert (result.indication, result.sub_indication) == ("TOTAL-FAILED", "REVOKED")
