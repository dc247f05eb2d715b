"""Who stands behind the certificate of a peer, according to the configuration of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from securepacs.errors import AccessDenied
from securepacs.policy.roles import Enrolment, subject_of
from securepacs.policy.scope import UNLIMITED, AnchorScope
from securepacs.policy.subject import Subject, SubjectKind
from securepacs_proxy.config import GatewayConfig, read_certificates

Scopes: TypeAlias = Mapping[str, AnchorScope]  # by SHA-256 fingerprint of the anchor; "" holds where no anchor has a scope
NO_SCOPES: Scopes = {"": UNLIMITED}
NOTHING = AnchorScope(roles=(), organizations=(), ae_titles=(), routes=())


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
            assurance=device.assurance,
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
            assurance=person.assurance,
        )
        for person in config.persons
    )
    return (*devices, *persons)


def scopes_of(config: GatewayConfig, read: Callable[..., Sequence[x509.Certificate]] = read_certificates) -> Scopes:
    """Return the scopes of [[anchor]] sections; empty when there are none, and then no anchor is limited. Raises ConfigError.

    `read` is asked for the certificates of a file, as `config.read_certificates` is.
    """
    everywhere = frozenset(config.policy.hardware_policies)
    scopes = {"": AnchorScope(hardware_policies=everywhere)}
    for index, section in enumerate(config.anchors):
        scope = AnchorScope(
            roles=section.roles,
            organizations=section.organizations,
            ae_titles=section.ae_titles,
            routes=section.routes,
            public=section.public,
            hardware_policies=everywhere | frozenset(section.hardware_policies),
        )
        for certificate in read(section.certificate, key=f"anchor[{index}].certificate"):
            scopes[certificate.fingerprint(hashes.SHA256()).hex()] = scope
    return scopes


def path_of(
    certificate: x509.Certificate, others: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """Return the certificates above `certificate` up to the first anchor, by signatures alone; empty when there is no path.

    For questions about a certificate that is not connected. Validity, constraints and revocation are not looked at.
    """
    path: list[x509.Certificate] = []
    for _ in range(len(others) + 1):
        below = path[-1] if path else certificate
        issuer = next((candidate for candidate in (*anchors, *others) if _issued(below, candidate)), None)
        if issuer is None or issuer == below:
            return ()
        path.append(issuer)
        if issuer in anchors:
            return tuple(path)
    return ()


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def identify(certificate: x509.Certificate, config: GatewayConfig, chain: Sequence[x509.Certificate] = ()) -> Subject:
    """Return the subject of a certificate that the TLS handshake has accepted.

    Raises AccessDenied for a device that no [[device]] section names, and for a certificate that names nobody. A person without a
    known role is returned: the policy refuses, in the protocol of the peer and with the reason in the audit trail.
    """
    return identify_among(certificate, enrolment_of(config), scopes=scopes_of(config), chain=chain)


def identify_among(
    certificate: x509.Certificate,
    enrolment: Sequence[Enrolment],
    *,
    scopes: Scopes = NO_SCOPES,
    chain: Sequence[x509.Certificate] = (),
) -> Subject:
    """Do the same for an enrolment prepared by `enrolment_of` and scopes by `scopes_of`; `chain` ends with the anchor.

    Without a chain the certificate is its own anchor (ITI-19). An anchor without a scope, where others have one, may say nothing.
    """
    anchor, scope = "", scopes.get("", UNLIMITED)
    if len(scopes) > 1:
        anchor = (chain[-1] if chain else certificate).fingerprint(hashes.SHA256()).hex()
        scope = scopes.get(anchor, NOTHING)
    subject = subject_of(certificate, enrolment=enrolment, scope=scope, anchor_sha256=anchor)
    if subject.kind is SubjectKind.DEVICE and not subject.roles:
        raise AccessDenied(
            f"the device {subject.user_id} is not enrolled",
            hint=f'add [[device]] certificate_sha256 = "{subject.certificate_sha256}" with ae_titles and roles',
        )
    return subject
