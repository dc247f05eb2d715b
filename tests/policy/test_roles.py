"""From certificates to subjects: persons, devices, enrolment, and names that are refused."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securepacs.errors import AccessDenied
from securepacs.pki import CertificateProfile
from securepacs.policy.roles import Enrolment, subject_of
from securepacs.policy.scope import AnchorScope
from securepacs.policy.subject import SubjectKind
from securepacs.trust.hcrole import SUBJECT_DIRECTORY_ATTRIBUTES, hcrole_extension
from tests.support.pki import make_pki

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@functools.cache
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    *common_names: str,
    names: tuple[x509.GeneralName, ...] = (),
    roles: tuple[str, ...] = (),
    organization: str = "",
    usages: tuple[x509.ObjectIdentifier, ...] = (),
    extension: x509.ExtensionType | None = None,
) -> x509.Certificate:
    """A self-signed certificate with just these names: trust is not what is tested here."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in common_names]
    attributes += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    builder = x509.CertificateBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")]), x509.Name(attributes))
    builder = builder.public_key(key().public_key()).serial_number(0xC0FFEE)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    extensions: list[x509.ExtensionType] = [x509.SubjectAlternativeName(names)] if names else []
    extensions += [hcrole_extension(roles)] if roles else []
    extensions += [x509.ExtendedKeyUsage(usages)] if usages else []
    extensions += [extension] if extension else []
    for each in extensions:
        builder = builder.add_extension(each, critical=False)
    return builder.sign(key(), hashes.SHA256())


def device(**names: str) -> Enrolment:
    return Enrolment(SubjectKind.DEVICE, frozenset({"modality"}), ae_titles=frozenset({"CT1"}), **names)


def person(role: str, **names: str) -> Enrolment:
    return Enrolment(SubjectKind.PERSON, frozenset({role}), **names)


def test_a_person_brings_roles_and_is_named_by_the_email_address() -> None:
    shown = certificate("Dr Lee", names=(x509.RFC822Name("lee@h.example"),), roles=("radiologist", "auditor"), organization="H")
    subject = subject_of(shown, enrolment=())
    assert subject.kind is SubjectKind.PERSON
    assert (subject.user_id, subject.name, subject.organization) == ("lee@h.example", "Dr Lee", "H")
    assert subject.roles == {"radiologist", "auditor"}
    assert subject.ae_titles == frozenset()
    assert subject.certificate_sha256 == shown.fingerprint(hashes.SHA256()).hex()
    assert (subject.certificate_serial, subject.issuer) == ("c0ffee", "CN=CA")


def test_without_an_email_address_a_person_is_named_by_the_common_name() -> None:
    assert subject_of(certificate("Dr Lee", roles=("radiologist",)), enrolment=()).user_id == "Dr Lee"


def test_a_person_without_hcrole_has_no_roles() -> None:
    assert subject_of(certificate("Dr Lee"), enrolment=()).roles == frozenset()


def test_the_roles_of_an_enrolment_replace_those_of_the_certificate() -> None:
    shown = certificate("Dr Lee", names=(x509.RFC822Name("Lee@H.example"),), roles=("radiologist",))
    assert subject_of(shown, enrolment=[person("auditor", email="lee@h.example")]).roles == {"auditor"}
    assert subject_of(shown, enrolment=[person("auditor", email="kim@h.example")]).roles == {"radiologist"}


def test_an_enrolled_device_gets_its_roles_and_ae_titles() -> None:
    subject = subject_of(certificate("ct1", roles=("gateway_peer",)), enrolment=[device(common_name="ct1")])
    assert subject.kind is SubjectKind.DEVICE
    assert (subject.user_id, subject.roles, subject.ae_titles) == ("ct1", {"modality"}, {"CT1"})


@pytest.mark.parametrize(
    "shown",
    [
        certificate("ct1", roles=("modality",)),
        certificate("gw", roles=("gateway_peer",)),
        certificate("gw", roles=("radiologist", "gateway_peer")),
        certificate("ct1", names=(x509.DNSName("ct1.example"),), roles=("radiologist",)),
        certificate("ct1", usages=(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH), roles=("radiologist",)),
        certificate("ct1", names=(x509.UniformResourceIdentifier("urn:ct1"),), roles=("radiologist",)),
    ],
    ids=["modality role", "peer role", "both kinds of role", "DNS name", "serverAuth", "URI"],
)
def test_a_device_without_enrolment_has_no_roles(shown: x509.Certificate) -> None:
    subject = subject_of(shown, enrolment=[device(common_name="other")])
    assert subject.kind is SubjectKind.DEVICE
    assert subject.roles == frozenset()
    assert subject.ae_titles == frozenset()


def test_the_fingerprint_wins_over_the_email_address_and_that_over_the_common_name() -> None:
    shown = certificate("Dr Lee", names=(x509.RFC822Name("lee@h.example"),))
    by_name, by_email = person("auditor", common_name="Dr Lee"), person("radiologist", email="lee@h.example")
    by_print = person("administrator", certificate_sha256=shown.fingerprint(hashes.SHA256()).hex())
    assert subject_of(shown, enrolment=[by_name, by_email, by_print]).roles == {"administrator"}
    assert subject_of(shown, enrolment=[by_name, by_email]).roles == {"radiologist"}
    assert subject_of(shown, enrolment=[by_name]).roles == {"auditor"}


@pytest.mark.parametrize("row", [device(common_name="CT1"), device(common_name="ct"), device(), device(email="ct1")])
def test_an_enrolment_matches_exactly(row: Enrolment) -> None:
    assert subject_of(certificate("ct1", roles=("modality",)), enrolment=[row]).roles == frozenset()


def test_a_certificate_with_two_common_names_matches_none_of_them() -> None:
    shown = certificate("ct1", "ct2", names=(x509.DNSName("ct1.example"),))
    subject = subject_of(shown, enrolment=[device(common_name="ct1"), device(common_name="ct2")])
    assert subject.roles == frozenset()
    assert subject.user_id == shown.fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (certificate(), "names nobody"),
        (certificate("Dr Lee", "Dr Kim"), "names nobody"),
        (certificate("Dr Lee\nrole=administrator"), "control characters"),
        (certificate("Dr Lee", organization="H\tI"), "control characters"),
        (certificate("Dr Lee", extension=x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, b"\x30\x05")), "cannot be read"),
        (
            certificate("Dr Lee", extension=x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05")),
            "cannot be read",
        ),
    ],
    ids=["no name", "two names", "line feed", "tab", "broken hcRole", "broken names"],
)
def test_certificates_that_name_nobody_clearly_are_refused(shown: x509.Certificate, message: str) -> None:
    with pytest.raises(AccessDenied, match=message):
        subject_of(shown, enrolment=())


@pytest.mark.parametrize(
    ("profile", "kind", "roles"),
    [
        (CertificateProfile.RADIOLOGIST, SubjectKind.PERSON, {"radiologist"}),
        (CertificateProfile.REFERRING_PHYSICIAN, SubjectKind.PERSON, {"referring_physician"}),
        (CertificateProfile.AUDITOR, SubjectKind.PERSON, {"auditor"}),
        (CertificateProfile.ADMINISTRATOR, SubjectKind.PERSON, {"administrator"}),
        (CertificateProfile.MODALITY, SubjectKind.DEVICE, set()),
        (CertificateProfile.GATEWAY_PEER, SubjectKind.DEVICE, set()),
        (CertificateProfile.PACS, SubjectKind.DEVICE, set()),
    ],
)
def test_the_certificates_of_the_pilot_ca(tmp_path: Path, profile: CertificateProfile, kind: SubjectKind, roles: set[str]) -> None:
    subject = subject_of(make_pki(tmp_path).credential(profile, "someone", key_kind="p256").certificate, enrolment=())
    assert (subject.kind, subject.roles) == (kind, roles)


PARTNER = AnchorScope(
    roles=("referring_*",), organizations=("Partner Clinic",), ae_titles=("PARTNER*",), hardware_policies=frozenset({"1.2.3.4"})
)


def partner_person(*roles: str, **names: object) -> x509.Certificate:
    settings = {"organization": "Partner Clinic", **names}
    return certificate("Dr Park", names=(x509.RFC822Name("park@partner.example"),), roles=roles, **settings)  # type: ignore[arg-type]


def test_roles_out_of_the_scope_of_the_anchor_are_ignored_and_told() -> None:
    shown = partner_person("referring_physician", "radiologist")
    subject = subject_of(shown, enrolment=(), scope=PARTNER, anchor_sha256="ab")
    assert subject.roles == {"referring_physician"}
    assert subject.ignored_roles == {"radiologist"}
    assert subject.anchor_sha256 == "ab"


def test_an_enrolment_by_name_does_not_lift_the_scope_and_one_by_fingerprint_does() -> None:
    shown = partner_person("referring_physician")
    by_name = subject_of(shown, enrolment=(person("radiologist", common_name="Dr Park"),), scope=PARTNER, anchor_sha256="ab")
    assert by_name.roles == set()
    assert by_name.ignored_roles == {"radiologist"}
    row = person("radiologist", certificate_sha256=shown.fingerprint(hashes.SHA256()).hex())
    by_fingerprint = subject_of(shown, enrolment=(row,), scope=PARTNER, anchor_sha256="ab")
    assert by_fingerprint.roles == {"radiologist"}
    assert by_fingerprint.anchor_sha256 == ""


def test_a_device_of_a_partner_cannot_take_over_the_ae_title_of_another() -> None:
    shown = certificate("ct1", organization="Partner Clinic", usages=(ExtendedKeyUsageOID.SERVER_AUTH,))
    subject = subject_of(shown, enrolment=(device(common_name="ct1"),), scope=PARTNER)
    assert subject.ae_titles == set()
    assert subject.roles == set()


@pytest.mark.parametrize("organization", ["", "Our Hospital"])
def test_an_anchor_speaks_for_its_organisations_only(organization: str) -> None:
    with pytest.raises(AccessDenied, match="for which its CA may not speak"):
        subject_of(partner_person("referring_physician", organization=organization), enrolment=(), scope=PARTNER)


def test_people_of_a_public_ca_have_no_right_until_enrolled() -> None:
    scope, shown = AnchorScope(public=True), partner_person("radiologist")
    assert subject_of(shown, enrolment=(), scope=scope).roles == set()
    assert subject_of(shown, enrolment=(), scope=scope).ignored_roles == {"radiologist"}
    row = person("referring_physician", email="park@partner.example")
    assert subject_of(shown, enrolment=(row,), scope=scope).roles == {"referring_physician"}


def test_assurance_is_that_of_the_enrolment_then_of_the_certificate_policy() -> None:
    promise = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)])
    plain, promising = partner_person("referring_physician"), partner_person("referring_physician", extension=promise)
    assert subject_of(plain, enrolment=(), scope=PARTNER).assurance == "software"
    assert subject_of(promising, enrolment=(), scope=PARTNER).assurance == "hardware"
    assert subject_of(promising, enrolment=()).assurance == "software"  # the promise counts where the operator says so
    row = Enrolment(SubjectKind.PERSON, frozenset(), common_name="Dr Park", assurance="network")
    assert subject_of(promising, enrolment=(row,), scope=PARTNER).assurance == "network"
    pinned = Enrolment(SubjectKind.PERSON, frozenset(), certificate_sha256=promising.fingerprint(hashes.SHA256()).hex())
    assert subject_of(promising, enrolment=(pinned,), scope=PARTNER).assurance == "hardware"


def test_a_scope_limits_ae_titles_and_routes() -> None:
    scope = AnchorScope(ae_titles=("PARTNER*",), routes=("ARCHIVE",))
    assert scope.refusal("PARTNER1", "ARCHIVE") == ""
    assert "calling AE title CT1" in scope.refusal("CT1", "ARCHIVE")
    assert "SECRET" in scope.refusal("PARTNER1", "SECRET")
    assert AnchorScope(routes=()).refusal("A", "B")
