"""Who a certificate is for the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from securepacs.errors import AccessDenied
from securepacs.pki import CertificateProfile
from securepacs.policy.subject import SubjectKind
from securepacs_proxy.config import load
from securepacs_proxy.identity import enrolment_of, identify, identify_among
from tests.support.gateway_files import GatewayFiles, gateway_files


@pytest.fixture
def files(tmp_path: Path) -> GatewayFiles:
    return gateway_files(tmp_path)


def shown(files: GatewayFiles, profile: CertificateProfile, common_name: str, **names: object) -> x509.Certificate:
    return files.pki.credential(profile, common_name, key_kind="p256", **names).certificate


def test_an_enrolled_device_is_bound_to_its_ae_titles(files: GatewayFiles) -> None:
    subject = identify(shown(files, CertificateProfile.MODALITY, "ct1.hospital.example"), load(files.path))
    assert (subject.kind, subject.user_id) == (SubjectKind.DEVICE, "ct1.hospital.example")
    assert (subject.ae_titles, subject.roles) == ({"CT1"}, {"modality"})


def test_a_device_may_be_enrolled_by_fingerprint_in_the_spelling_of_openssl(files: GatewayFiles) -> None:
    certificate = shown(files, CertificateProfile.MODALITY, "mr1")
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    files.write('certificate_common_name = "ct1.hospital.example"', f'certificate_sha256 = "{fingerprint}"')
    assert identify(certificate, load(files.path)).ae_titles == {"CT1"}


def test_a_device_that_is_not_enrolled_is_refused_and_the_cure_is_named(files: GatewayFiles) -> None:
    certificate = shown(files, CertificateProfile.MODALITY, "ct2.hospital.example")
    with pytest.raises(AccessDenied, match=r"the device ct2\.hospital\.example is not enrolled") as caught:
        identify(certificate, load(files.path))
    assert certificate.fingerprint(hashes.SHA256()).hex() in caught.value.hint


def test_a_person_brings_the_role(files: GatewayFiles) -> None:
    subject = identify(shown(files, CertificateProfile.RADIOLOGIST, "Dr Lee", email="lee@h.example"), load(files.path))
    assert (subject.kind, subject.user_id, subject.roles) == (SubjectKind.PERSON, "lee@h.example", {"radiologist"})


@pytest.mark.parametrize("by", ['email = "kim@h.example"', 'certificate_common_name = "Dr Kim"'])
def test_a_person_section_replaces_the_role(files: GatewayFiles, by: str) -> None:
    files.write("[audit]", f'[[person]]\n{by}\nroles = ["auditor"]\n[audit]')
    subject = identify(shown(files, CertificateProfile.RADIOLOGIST, "Dr Kim", email="kim@h.example"), load(files.path))
    assert subject.roles == {"auditor"}


def test_a_person_without_a_role_is_left_to_the_policy(files: GatewayFiles) -> None:
    subject = identify(shown(files, CertificateProfile.RADIOLOGIST, "Dr No", roles=("wizard",)), load(files.path))
    assert subject.roles == {"wizard"}


def test_the_enrolment_can_be_prepared_once(files: GatewayFiles) -> None:
    certificate, config = shown(files, CertificateProfile.MODALITY, "ct1.hospital.example"), load(files.path)
    assert identify_among(certificate, enrolment_of(config)) == identify(certificate, config)
