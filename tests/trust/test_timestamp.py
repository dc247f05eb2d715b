"""Time stamps: what a token must prove, and every way in which it may not."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms, core, tsp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.cms.signed import Signer, sign
from securepacs.errors import IntegrityFailure, MalformedError, Unavailable, UsageError, VerificationError
from securepacs.pki import CertificateProfile, serve
from securepacs.pki.tsa import TimestampAuthority
from securepacs.trust import SubIndication
from securepacs.trust.timestamp import (
    ID_CT_TST_INFO,
    TimestampResult,
    build_request,
    read_response,
    request_timestamp,
    verify_timestamp,
)
from tests.support.http import ScriptedServer, body
from tests.support.pki import Party, TestPki, make_crl, make_party, make_pki, of_version, pem_of, usage
from tests.support.programs import require

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DATA = b"the value of a signature"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    return make_pki(tmp_path_factory.mktemp("pki"), now=NOW)


@pytest.fixture(scope="module")
def authority(pki: TestPki) -> TimestampAuthority:
    return TimestampAuthority(pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256"))


def stamp(authority: TimestampAuthority, data: bytes = DATA, *, at: datetime = NOW, **request: Any) -> bytes:
    asked = build_request(data, nonce=7, **request)
    return read_response(authority.respond(asked, at=at), asked)


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_stamp_and_verify(pki: TestPki, authority: TimestampAuthority, digest: str) -> None:
    token = stamp(authority, digest=digest)
    result = verify_timestamp(token, DATA, policy=pki.policy(), at=NOW + timedelta(days=400))
    assert result.gen_time == NOW
    assert result.digest_algorithm == digest
    assert result.tsa.subject.rfc4514_string() == "CN=TSA,O=Test Hospital"
    assert result.accuracy == timedelta(seconds=1)
    assert result.path.passed
    assert result.policy.startswith("2.25.")


def test_token_without_certificates_needs_help(pki: TestPki) -> None:
    tsa = pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")
    token = stamp(TimestampAuthority(tsa), certificates=False)
    assert verify_timestamp(token, DATA, policy=pki.policy(), at=NOW, certificates=[tsa.certificate]).gen_time == NOW
    with pytest.raises(VerificationError, match="not at hand"):
        verify_timestamp(token, DATA, policy=pki.policy(), at=NOW)


def test_other_data(pki: TestPki, authority: TimestampAuthority) -> None:
    with pytest.raises(IntegrityFailure, match="other data"):
        verify_timestamp(stamp(authority), DATA + b"\0", policy=pki.policy(), at=NOW)


def test_flipped_bits_are_noticed(pki: TestPki, authority: TimestampAuthority) -> None:
    token = stamp(authority)
    signature = bytes(cms.ContentInfo.load(token)["content"]["signer_infos"][0]["signature"])
    for offset in (token.index(signature) + 20, token.index(b"20260601") + 3):
        damaged = bytearray(token)
        damaged[offset] ^= 1
        with pytest.raises((IntegrityFailure, MalformedError)):
            verify_timestamp(bytes(damaged), DATA, policy=pki.policy(), at=NOW)


def test_token_without_content(pki: TestPki, authority: TimestampAuthority) -> None:
    token = cms.ContentInfo.load(stamp(authority))
    token["content"]["encap_content_info"] = {"content_type": ID_CT_TST_INFO}
    with pytest.raises(MalformedError, match="TSTInfo"):
        verify_timestamp(token.dump(force=True), DATA, policy=pki.policy(), at=NOW)


def test_token_with_a_certificate_of_unknown_version(pki: TestPki) -> None:
    """The parser's error for it is no ValueError."""
    tsa = pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")
    token = stamp(TimestampAuthority(tsa))
    raw = tsa.certificate.public_bytes(Encoding.DER)
    assert raw in token
    with pytest.raises(MalformedError):
        verify_timestamp(token.replace(raw, of_version(tsa.certificate, 1)), DATA, policy=pki.policy(), at=NOW)


def test_untrusted_authority_is_reported_with_the_result(pki: TestPki, authority: TimestampAuthority) -> None:
    stranger = make_party("Stranger", now=NOW, ca=True)
    with pytest.raises(VerificationError, match="not trusted") as caught:
        verify_timestamp(stamp(authority), DATA, policy=pki.policy(timestamp_anchors=(stranger.certificate,)), at=NOW)
    assert isinstance(caught.value.report, TimestampResult)
    assert caught.value.report.gen_time == NOW
    assert caught.value.report.path.sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND


def test_anchors_for_time_stamps_alone(pki: TestPki, authority: TimestampAuthority) -> None:
    stranger = make_party("Stranger", now=NOW, ca=True)
    policy = pki.policy(anchors=(stranger.certificate,), timestamp_anchors=(pki.ca.root,))
    assert verify_timestamp(stamp(authority), DATA, policy=policy, at=NOW).path.passed


def test_stamp_from_the_future(pki: TestPki, authority: TimestampAuthority) -> None:
    token = stamp(authority, at=NOW + timedelta(hours=1))
    with pytest.raises(VerificationError, match="future"):
        verify_timestamp(token, DATA, policy=pki.policy(), at=NOW)
    assert verify_timestamp(token, DATA, policy=pki.policy(), at=NOW + timedelta(minutes=56)).gen_time == NOW + timedelta(hours=1)


def test_revoked_authority(pki: TestPki) -> None:
    tsa = pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "Stolen TSA", key_kind="p256")
    token = stamp(TimestampAuthority(tsa))
    pki.ca.revoke(tsa.certificate, at=NOW, reason=x509.ReasonFlags.key_compromise)
    with pytest.raises(VerificationError, match="REVOKED"):
        verify_timestamp(token, DATA, policy=pki.policy(crls=(pki.ca.crl(at=NOW),)), at=NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    ("reason", "made", "spared"),
    [
        (x509.ReasonFlags.cessation_of_operation, -1, True),
        (x509.ReasonFlags.superseded, -1, True),
        (x509.ReasonFlags.affiliation_changed, -1, True),
        (x509.ReasonFlags.cessation_of_operation, 1, False),
        (x509.ReasonFlags.key_compromise, -1, False),
        (x509.ReasonFlags.unspecified, -1, False),
    ],
)
def test_authority_revoked_for_a_harmless_reason_keeps_its_older_stamps(
    pki: TestPki, reason: x509.ReasonFlags, made: int, spared: bool
) -> None:
    """RFC 3161 4: tokens made before the revocation stay valid unless the key may be in wrong hands."""
    revoked = NOW + timedelta(hours=2)
    tsa = pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, f"TSA {reason.value} {made}", key_kind="p256")
    token = stamp(TimestampAuthority(tsa), at=revoked + timedelta(minutes=made))
    pki.ca.revoke(tsa.certificate, at=revoked, reason=reason)
    later = revoked + timedelta(hours=1)
    policy = pki.policy(crls=(pki.ca.crl(at=later), pki.ca.root_crl(at=later)))
    if spared:
        result = verify_timestamp(token, DATA, policy=policy, at=later)
        assert result.path.revocation_time == revoked
        expired = tsa.certificate.not_valid_after_utc + timedelta(seconds=1)
        with pytest.raises(VerificationError, match="not trusted"):
            verify_timestamp(token, DATA, policy=policy, at=expired)
    else:
        with pytest.raises(VerificationError, match="REVOKED"):
            verify_timestamp(token, DATA, policy=policy, at=later)


def test_authority_whose_ca_is_revoked_keeps_nothing(pki: TestPki, tmp_path: Path) -> None:
    own = make_pki(tmp_path, now=NOW)
    tsa = own.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")
    later = NOW + timedelta(hours=2)
    own_root = Party(own.ca.root, own.ca.root_key)
    revoked = {own.ca.issuing.serial_number: (NOW + timedelta(hours=1), x509.ReasonFlags.superseded)}
    policy = own.policy(crls=(make_crl(own_root, now=later, revoked=revoked),))
    with pytest.raises(VerificationError, match="REVOKED"):
        verify_timestamp(stamp(TimestampAuthority(tsa)), DATA, policy=policy, at=later)


def made_by_hand(pki: TestPki, info: dict[str, Any] | None = None, *, signer: Signer | None = None, **how: Any) -> bytes:
    """Sign a TSTInfo with changes, as no honest authority would."""
    tsa = pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "By hand", key_kind="p256")
    good = tsp.TSTInfo.load(bytes(cms.ContentInfo.load(stamp(TimestampAuthority(tsa)))["content"]["encap_content_info"]["content"]))
    content = tsp.TSTInfo(
        {**{field: good[field] for field in ("version", "policy", "message_imprint", "serial_number", "gen_time")}, **(info or {})}
    )
    own = signer or Signer(tsa.certificate, tsa.private_key, tsa.chain)
    return sign(content.dump(), [own], **{"content_type": ID_CT_TST_INFO, "signing_time": NOW, **how})


def verify(pki: TestPki, token: bytes, **changes: Any) -> TimestampResult:
    return verify_timestamp(token, DATA, policy=pki.policy(), at=NOW, **changes)


def test_sound_token_made_by_hand(pki: TestPki) -> None:
    assert verify(pki, made_by_hand(pki)).gen_time == NOW


def test_signer_that_is_no_time_stamp_authority(pki: TestPki) -> None:
    person = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256")
    token = made_by_hand(pki, signer=Signer(person.certificate, person.private_key, person.chain))
    with pytest.raises(VerificationError, match="CHAIN_CONSTRAINTS_FAILURE"):
        verify(pki, token)


def test_genuine_time_outside_the_certificate(pki: TestPki) -> None:
    token = made_by_hand(pki, {"gen_time": core.GeneralizedTime(NOW - timedelta(days=1))})
    with pytest.raises(VerificationError, match="outside the validity"):
        verify(pki, token)


def imprint(algorithm: str, value: bytes) -> dict[str, Any]:
    return {"message_imprint": {"hash_algorithm": {"algorithm": algorithm}, "hashed_message": value}}


def test_weak_imprint_needs_leave(pki: TestPki) -> None:
    import hashlib

    token = made_by_hand(pki, imprint("sha1", hashlib.sha1(DATA).digest()))
    with pytest.raises(VerificationError, match="too weak"):
        verify(pki, token)
    assert verify(pki, token, allow_weak_hash=True).digest_algorithm == "sha1"


def test_unknown_version(pki: TestPki) -> None:
    with pytest.raises(MalformedError, match="TSTInfo"):
        verify(pki, made_by_hand(pki, {"version": "v2"}))


def test_critical_extension(pki: TestPki) -> None:
    extension = {"extn_id": "1.2.3.4", "critical": True, "extn_value": core.OctetString(b"\x05\x00")}
    with pytest.raises(VerificationError, match="critical extension"):
        verify(pki, made_by_hand(pki, {"extensions": [extension]}))


def test_other_content_type(pki: TestPki) -> None:
    with pytest.raises(MalformedError, match="TSTInfo"):
        verify(pki, made_by_hand(pki, content_type="1.2.840.113549.1.7.1"))


def test_two_signers(pki: TestPki) -> None:
    tsa = pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "By hand", key_kind="p256")
    signer = Signer(tsa.certificate, tsa.private_key, tsa.chain)
    content = bytes(cms.ContentInfo.load(stamp(TimestampAuthority(tsa)))["content"]["encap_content_info"]["content"])
    with pytest.raises(VerificationError, match="2 signers"):
        verify(pki, sign(content, [signer, signer], content_type=ID_CT_TST_INFO, signing_time=NOW))


@pytest.mark.parametrize("token", [b"", b"\x30\x00", b"junk", b"\x30\x80\x00\x00"])
def test_garbage(pki: TestPki, token: bytes) -> None:
    with pytest.raises(MalformedError):
        verify(pki, token)


def test_request_only_over_strong_hashes() -> None:
    with pytest.raises(UsageError, match="sha1"):
        build_request(DATA, digest="sha1")


def test_answer_to_another_request(authority: TimestampAuthority) -> None:
    asked = build_request(DATA, nonce=7)
    for other in (build_request(DATA, nonce=8), build_request(b"other", nonce=7), build_request(DATA)):
        with pytest.raises(VerificationError, match="another request"):
            read_response(authority.respond(other, at=NOW), asked)


@pytest.mark.parametrize("raw", [b"", b"junk", b"\x30\x05\x30\x03\x02\x01\x00"])
def test_answer_that_is_none(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        read_response(raw, build_request(DATA))


def test_request_over_http(pki: TestPki) -> None:
    real = make_pki(pki.folder)
    with serve(real.ca) as server:
        token = request_timestamp(DATA, url=f"{server.url}/tsa")
    result = verify_timestamp(token, DATA, policy=real.policy(), at=datetime.now(UTC))
    assert abs(result.gen_time - real.now) < timedelta(minutes=1)


def test_refusal_and_silence_over_http(pki: TestPki) -> None:
    refusal = TimestampAuthority(pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")).respond(
        build_request(DATA), at=NOW + timedelta(days=36500)
    )
    with ScriptedServer({"/tsa": body(refusal), "/500": body(b"", status=500), "/junk": body(b"junk")}) as http:
        with pytest.raises(Unavailable, match="time_not_available") as caught:
            request_timestamp(DATA, url=f"{http.url}/tsa")
        assert caught.value.retryable
        with pytest.raises(Unavailable, match="500"):
            request_timestamp(DATA, url=f"{http.url}/500")
        with pytest.raises(MalformedError):
            request_timestamp(DATA, url=f"{http.url}/junk")
    with pytest.raises(Unavailable):
        request_timestamp(DATA, url=f"{http.url}/tsa", seconds=2)


@pytest.mark.interop
def test_token_of_openssl_is_verified(tmp_path: Path) -> None:
    """openssl ts -reply stamps with its own TSA; the older form with ESSCertID version 1 as well."""
    openssl = require("openssl")
    now = datetime.now(UTC)
    root = make_party("Root", now=now, ca=True, key_usage=usage(key_cert_sign=True))
    tsa = make_party(
        "TSA",
        now=now,
        issuer=root,
        key_usage=usage(digital_signature=True),
        extended_key_usage=(ExtendedKeyUsageOID.TIME_STAMPING,),
        extended_critical=True,
    )
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    (tmp_path / "tsa.pem").write_bytes(pem_of(tsa.certificate))
    (tmp_path / "tsa.key").write_bytes(tsa.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    request = build_request(DATA, nonce=99)
    (tmp_path / "request.tsq").write_bytes(request)
    from securepacs.trust import TrustPolicy

    for ess in ("sha1", "sha256"):
        (tmp_path / "tsa.cnf").write_text(
            "[tsa]\ndefault_tsa = t\n[t]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\n"
            f"digests = sha256\nordering = yes\ness_cert_id_alg = {ess}\naccuracy = secs:1, millisecs:500\n"
        )
        command = [openssl, "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "request.tsq"]
        command += ["-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "reply.tsr"]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=30)
        token = read_response((tmp_path / "reply.tsr").read_bytes(), request)
        result = verify_timestamp(token, DATA, policy=TrustPolicy(anchors=(root.certificate,)), at=datetime.now(UTC))
        assert result.policy == "1.2.3.4"
        assert result.accuracy == timedelta(seconds=1.5)
