"""Who stands behind the certificate of a peer, according to the configuration of the gateway."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from securepacs.errors import AccessDenied
from securepacs.policy.roles import Enrolment, subject_of
from securepacs.policy.subject import Subject, SubjectKind
from securepacs_proxy.config import GatewayConfig


def enrolment_of(config: GatewayConfig) -> tuple[Enrolment, ...]:
    """Return the [[device]] and [[person]] sections as enrolments; once for a configuration, then use `identify_among`."""
    devices = (
        Enrolment(
            SubjectKind.DEVICE,
            roles=frozenset(device.roles),
            certificate_sha256=device.certificate_sha256,
            common_name=device.certificate_common_name,
            ae_titles=frozenset(device.ae_titles),
            user_names=frozenset(device.user_names),
        )
        for device in config.devices
    )
    persons = (
        Enrolment(
            SubjectKind.PERSON,
            roles=frozenset(person.roles),
            certificate_sha256=person.certificate_sha256,
            email=person.email,
            common_name=person.certificate_common_name,
            user_names=frozenset(person.user_names),
        )
        for person in config.persons
    )
    return (*devices, *persons)


def identify(certificate: x509.Certificate, config: GatewayConfig) -> Subject:
    """Return the subject of a certificate that the TLS handshake has accepted.

    Raises AccessDenied for a device that no [[device]] section names, and for a certificate that names nobody. A person without a
    known role is returned: the policy refuses, in the protocol of the peer and with the reason in the audit trail.
    """
    return identify_among(certificate, enrolment_of(config))


def identify_among(certificate: x509.Certificate, enrolment: Sequence[Enrolment]) -> Subject:
    """Do the same for an enrolment prepared by `enrolment_of`."""
    subject = subject_of(certificate, enrolment=enrolment)
    if subject.kind is SubjectKind.DEVICE and not subject.roles:
        raise AccessDenied(
            f"the device {subject.user_id} is not enrolled",
            hint=f'add [[device]] certificate_sha256 = "{subject.certificate_sha256}" with ae_titles and roles',
        )
    return subject
