"""What the CA issues, refuses and revokes."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from securepacs.errors import UsageError
from securepacs.pki import CertificateAuthority, CertificateProfile
from securepacs.pki.authority import CLOCK_SKEW, random_serial
from securepacs.pki.keys import generate_key, key_kind
from securepacs.pki.profiles import PROFILES, Naming, profile_named
from securepacs.trust import Purpose, roles_of, validate
from tests.support.pki import HOST_PROFILES, TestPki, cached_key, make_pki

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path, now=NOW)


def issue(pki: TestPki, profile: CertificateProfile = CertificateProfile.RADIOLOGIST, **changes: Any) -> x509.Certificate:
    arguments = {"common_name": "Dr. A", "public_key": EC_KEY.public_key(), "at": NOW, **changes}
    return pki.ca.issue(profile, **arguments)


@pytest.mark.parametrize("profile", CertificateProfile)
@pytest.mark.parametrize("kind", ["p256", "rsa-2048"])
def test_every_profile_says_what_its_rules_say(pki: TestPki, profile: CertificateProfile, kind: Any) -> None:
    rules = PROFILES[profile]
    certificate = pki.credential(profile, "subject", key_kind=kind).certificate
    extensions = certificate.extensions
    key_usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert key_usage.critical
    assert key_usage.value.digital_signature
    assert key_usage.value.content_commitment is rules.content_commitment
    assert key_usage.value.key_encipherment is (rules.key_encipherment and kind != "p256")
    assert key_usage.value.key_agreement is (rules.key_encipherment and kind == "p256")
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert tuple(extended.value) == rules.extended_key_usage
    assert extended.critical is rules.extended_key_usage_critical
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert roles_of(certificate) == frozenset(rules.roles)
    assert certificate.not_valid_before_utc == NOW - CLOCK_SKEW
    assert certificate.not_valid_after_utc == NOW + rules.lifetime
    has_no_check = any(isinstance(extension.value, x509.OCSPNoCheck) for extension in extensions)
    assert has_no_check is rules.ocsp_no_check
    assert certificate.serial_number.bit_length() == 159


PURPOSE_OF = {
    CertificateProfile.GATEWAY_SERVER: [Purpose.TLS_SERVER],
    CertificateProfile.GATEWAY_PEER: [Purpose.TLS_SERVER, Purpose.TLS_CLIENT],
    CertificateProfile.PACS: [Purpose.TLS_SERVER, Purpose.TLS_CLIENT],
    CertificateProfile.AUDIT_REPOSITORY: [Purpose.TLS_SERVER, Purpose.TLS_CLIENT],
    CertificateProfile.MODALITY: [Purpose.TLS_CLIENT, Purpose.TLS_SERVER, Purpose.SIGNER],
    CertificateProfile.RADIOLOGIST: [Purpose.TLS_CLIENT, Purpose.SIGNER],
    CertificateProfile.REFERRING_PHYSICIAN: [Purpose.TLS_CLIENT, Purpose.SIGNER],
    CertificateProfile.AUDITOR: [Purpose.TLS_CLIENT, Purpose.SIGNER],
    CertificateProfile.ADMINISTRATOR: [Purpose.TLS_CLIENT, Purpose.SIGNER],
    CertificateProfile.TIMESTAMP_AUTHORITY: [Purpose.TIMESTAMPING],
    CertificateProfile.OCSP_RESPONDER: [Purpose.OCSP],
}


@pytest.mark.parametrize("profile", CertificateProfile)
def test_every_profile_serves_its_purposes(pki: TestPki, profile: CertificateProfile) -> None:
    certificate = pki.credential(profile, "subject", key_kind="p256").certificate
    for purpose in PURPOSE_OF[profile]:
        assert validate(certificate, policy=pki.policy(), at=NOW, purpose=purpose).passed


def test_gateway_server_certificate_is_no_signer(pki: TestPki) -> None:
    server = pki.credential(CertificateProfile.GATEWAY_SERVER, "gw", key_kind="p256").certificate
    result = validate(server, policy=pki.policy(), at=NOW, purpose=Purpose.SIGNER)
    assert result.sub_indication == "CHAIN_CONSTRAINTS_FAILURE"


def test_hosts_need_names() -> None:
    assert {profile for profile, rules in PROFILES.items() if rules.naming is Naming.HOST} == HOST_PROFILES


def test_names(pki: TestPki) -> None:
    certificate = issue(
        pki,
        CertificateProfile.MODALITY,
        common_name="ct1",
        dns=("ct1.hospital.example", "*.ct.hospital.example"),
        ip=("192.0.2.7", "2001:db8::7"),
        email="ct1@hospital.example",
        organization="Radiology",
        roles=("modality", "gateway_peer"),
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ct1.hospital.example", "*.ct.hospital.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::7")]
    assert names.get_values_for_type(x509.RFC822Name) == ["ct1@hospital.example"]
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "Radiology"
    assert roles_of(certificate) == {"modality", "gateway_peer"}
    assert roles_of(issue(pki, roles=())) == frozenset()


@pytest.mark.parametrize(
    "changes",
    [
        {"common_name": ""},
        {"common_name": " "},
        {"common_name": "x" * 65},
        {"common_name": "two\nlines"},
        {"organization": "x" * 65},
        {"dns": ("under_score.example",)},
        {"dns": ("-x.example",)},
        {"dns": ("a..b",)},
        {"dns": ("x" * 64,)},
        {"dns": (".".join(["x" * 60] * 5),)},
        {"ip": ("192.0.2.300",)},
        {"email": "nobody"},
        {"email": "a b@example"},
        {"roles": ("",)},
        {"lifetime": timedelta(0)},
        {"lifetime": timedelta(days=-1)},
        {"at": NOW.replace(tzinfo=None)},
        {"at": NOW + timedelta(days=4000)},
        {"profile": CertificateProfile.GATEWAY_SERVER},
        {"public_key": rsa.generate_private_key(65537, 1024).public_key()},
        {"public_key": ec.generate_private_key(ec.SECP224R1()).public_key()},
        {"public_key": ed25519.Ed25519PrivateKey.generate().public_key()},
        {"public_key": dsa.generate_private_key(1024).public_key()},
    ],
)
def test_refusals_leave_no_trace_in_the_register(pki: TestPki, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        issue(pki, **changes)
    assert pki.ca.register.issued == {}


def test_lifetime_ends_with_the_issuing_ca(pki: TestPki) -> None:
    assert issue(pki, lifetime=timedelta(days=36500)).not_valid_after_utc == pki.ca.issuing.not_valid_after_utc


def test_hierarchy(pki: TestPki) -> None:
    for certificate, path_length in ((pki.ca.root, 1), (pki.ca.issuing, 0)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, path_length)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.key_cert_sign
        assert usage.crl_sign
    pki.ca.issuing.verify_directly_issued_by(pki.ca.root)
    pki.ca.root.verify_directly_issued_by(pki.ca.root)
    assert pki.ca.chain == (pki.ca.issuing,)


@pytest.mark.parametrize("kind", ["p256", "rsa-2048", "rsa-3072"])
def test_key_kinds(kind: Any) -> None:
    ca = CertificateAuthority.create("Kinds", at=NOW, key_kind=kind)
    assert ca.root.signature_hash_algorithm is not None
    assert ca.root.signature_hash_algorithm.name == "sha256"
    key = generate_key(kind)
    assert key.key_size == (256 if kind == "p256" else int(kind.removeprefix("rsa-")))


def test_names_of_kinds_and_profiles() -> None:
    assert key_kind("p256") == "p256"
    assert profile_named("modality") is CertificateProfile.MODALITY
    for wrong in (lambda: key_kind("rsa-1024"), lambda: profile_named("toaster"), lambda: generate_key("dsa")):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            wrong()


def test_addresses_of_publication(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, now=NOW, base_url="http://pki.example/")
    access = issue(pki).extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert {entry.access_method: entry.access_location.value for entry in access} == {
        AuthorityInformationAccessOID.OCSP: "http://pki.example/ocsp",
        AuthorityInformationAccessOID.CA_ISSUERS: "http://pki.example/ca/issuing.cer",
    }
    points = pki.ca.issuing.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for point in points for name in point.full_name or ()] == ["http://pki.example/crl/root.crl"]


def test_credential_signs(pki: TestPki) -> None:
    credential = pki.ca.issue_credential(CertificateProfile.RADIOLOGIST, common_name="Dr. B", at=NOW, key_kind="p256")
    assert credential.private_key.public_key() == credential.certificate.public_key()
    assert credential.chain == (pki.ca.issuing,)
    assert "PrivateKey" not in repr(credential)


def request_for(common_name: str, *extensions: x509.ExtensionType) -> x509.CertificateSigningRequest:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(EC_KEY, hashes.SHA256())


def test_request_is_certified_by_profile_and_not_by_its_wishes(pki: TestPki) -> None:
    wishes = x509.BasicConstraints(ca=True, path_length=None), x509.SubjectAlternativeName([x509.DNSName("evil.example")])
    certificate = pki.ca.sign_request(request_for("ct1", *wishes), CertificateProfile.MODALITY, at=NOW, dns=("ct1.example",))
    assert certificate.public_key() == EC_KEY.public_key()
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "ct1"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ct1.example"]
    named = pki.ca.sign_request(request_for("x"), CertificateProfile.MODALITY, at=NOW, common_name="y")
    assert named.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "y"


def test_request_without_proof_of_possession(pki: TestPki) -> None:
    der = request_for("ct1").public_bytes(Encoding.DER)
    damaged = x509.load_der_x509_csr(der[:-1] + bytes([der[-1] ^ 1]))
    with pytest.raises(UsageError, match="not signed by the key"):
        pki.ca.sign_request(damaged, CertificateProfile.MODALITY, at=NOW)


def test_request_without_a_name(pki: TestPki) -> None:
    with pytest.raises(UsageError, match="not a name"):
        pki.ca.sign_request(request_for(""), CertificateProfile.MODALITY, at=NOW)


def test_revocation_reaches_the_crl(pki: TestPki) -> None:
    first, second, third = issue(pki), issue(pki), issue(pki)
    pki.ca.revoke(first, at=NOW, reason=x509.ReasonFlags.key_compromise)
    pki.ca.revoke(second.serial_number, at=NOW + timedelta(hours=1))
    crl = pki.ca.crl(at=NOW + timedelta(hours=2))
    assert crl.is_signature_valid(pki.ca.issuing.public_key())  # type: ignore[arg-type]
    assert {entry.serial_number: entry.revocation_date_utc for entry in crl} == {
        first.serial_number: NOW,
        second.serial_number: NOW + timedelta(hours=1),
    }
    entry = crl.get_revoked_certificate_by_serial_number(first.serial_number)
    assert entry is not None
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    unspecified = crl.get_revoked_certificate_by_serial_number(second.serial_number)
    assert unspecified is not None
    assert len(unspecified.extensions) == 0
    assert crl.get_revoked_certificate_by_serial_number(third.serial_number) is None
    assert crl.next_update_utc == NOW + timedelta(hours=2, days=7)


def test_crl_numbers_grow_also_when_the_clock_stands_still_or_goes_back(pki: TestPki) -> None:
    crls = [pki.ca.crl(at=NOW), pki.ca.crl(at=NOW), pki.ca.crl(at=NOW - timedelta(days=1)), pki.ca.crl(at=NOW + timedelta(days=1))]
    numbers = [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in crls]
    assert numbers == sorted(set(numbers))


def test_root_crl_is_empty_and_of_the_root(pki: TestPki) -> None:
    crl = pki.ca.root_crl(at=NOW)
    assert crl.issuer == pki.ca.root.subject
    assert list(crl) == []
    assert crl.is_signature_valid(pki.ca.root.public_key())  # type: ignore[arg-type]


def test_revocations_that_are_refused(pki: TestPki, tmp_path: Path) -> None:
    certificate = issue(pki)
    stranger = issue(make_pki(tmp_path, name="Other", now=NOW))
    with pytest.raises(UsageError, match="another CA"):
        pki.ca.revoke(stranger, at=NOW)
    with pytest.raises(UsageError, match="did not issue"):
        pki.ca.revoke(12345, at=NOW)
    for reason in (x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl):
        with pytest.raises(UsageError, match="final"):
            pki.ca.revoke(certificate, at=NOW, reason=reason)
    pki.ca.revoke(certificate, at=NOW)
    with pytest.raises(UsageError, match="already"):
        pki.ca.revoke(certificate, at=NOW + timedelta(days=1))
    assert pki.ca.register.revoked[certificate.serial_number].at == NOW


def test_serial_numbers() -> None:
    serials = {random_serial() for _ in range(1000)}
    assert len(serials) == 1000
    assert all(0 < serial < 1 << 159 for serial in serials)


def test_timestamp_profile_follows_rfc_3161(pki: TestPki) -> None:
    extended = pki.credential(
        CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256"
    ).certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert extended.critical
    assert list(extended.value) == [ExtendedKeyUsageOID.TIME_STAMPING]


def test_keys_of_the_helper_are_distinct() -> None:
    assert cached_key("p256", "a") is cached_key("p256", "a")
    assert cached_key("p256", "a") is not cached_key("p256", "b")
