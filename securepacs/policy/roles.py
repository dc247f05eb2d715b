"""From a certificate, already authenticated, to a Subject: who is it, person or device, and with which roles.

1. A certificate that an enrolment names is what the enrolment says: its kind, its roles, its AE titles.
2. Any other certificate is a device when it is made for a machine (extended key usage serverAuth, a DNS name, IP address or URI
   among its names, or a device role in hcRole), and a device without enrolment has no roles.
3. What remains is a person with the roles of the hcRole attribute (ISO 17090-2).
4. The scope of the trust anchor cuts off what the anchor may not say. Names can be put into any certificate, so it also cuts what
   an enrolment by name gives; an enrolment by fingerprint is about one certificate and is not cut.
5. Assurance is what the enrolment says, else `hardware` when a certificate policy promises it, else `software`.

Not checked here: path, validity, revocation. TLS does that before anybody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securepacs.codes import ROLE_GATEWAY_PEER, ROLE_MODALITY
from securepacs.errors import AccessDenied, MalformedError
from securepacs.policy.scope import UNLIMITED, AnchorScope
from securepacs.policy.subject import Subject, SubjectKind
from securepacs.trust.hcrole import roles_of

DEVICE_ROLES = frozenset({ROLE_MODALITY, ROLE_GATEWAY_PEER})

_MACHINE_NAMES = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the operator says about one certificate, named by one of fingerprint (SHA-256, hexadecimal), e-mail, common name.

    `roles` replace those in the certificate; `ae_titles` bind a device; `user_names` are its names in other systems.
    """

    kind: SubjectKind
    roles: frozenset[str]
    certificate_sha256: str = ""
    email: str = ""
    common_name: str = ""
    ae_titles: frozenset[str] = frozenset()
    user_names: frozenset[str] = frozenset()
    assurance: str = ""


def subject_of(
    certificate: x509.Certificate, *, enrolment: Sequence[Enrolment], scope: AnchorScope = UNLIMITED, anchor_sha256: str = ""
) -> Subject:
    """Return the subject of an authenticated certificate.

    `user_id` is stable over renewals: of a person the e-mail address among the alternative names (RFC 5280 4.2.1.6), else the
    common name; of a device the common name, else the fingerprint. An enrolment by fingerprint wins over one by e-mail address,
    and that over one by common name. Raises AccessDenied for a certificate that names nobody, that cannot be read, or that names an
    organisation for which its anchor may not speak.
    """
    try:
        names, claimed = _alternative_names(certificate), roles_of(certificate)
        common_name, organization = _single(certificate, NameOID.COMMON_NAME), _single(certificate, NameOID.ORGANIZATION_NAME)
        serves, policies = _serves(certificate), _policies(certificate)
    except (ValueError, MalformedError) as error:
        raise AccessDenied("the certificate cannot be read", hint="have it issued anew") from error
    emails = [name.value for name in names if isinstance(name, x509.RFC822Name)]
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    row = _row(enrolment, fingerprint, emails, common_name)
    looks_like_device = serves or not DEVICE_ROLES.isdisjoint(claimed) or any(isinstance(name, _MACHINE_NAMES) for name in names)
    kind = row.kind if row else SubjectKind.DEVICE if looks_like_device else SubjectKind.PERSON
    if row is not None and row.certificate_sha256:
        scope, anchor_sha256 = replace(UNLIMITED, hardware_policies=scope.hardware_policies), ""
    if not scope.speaks_for(organization):
        raise AccessDenied(
            f"the certificate names the organisation {organization!r}, for which its CA may not speak",
            hint="add it to `organizations` of the [[anchor]], or enrol the certificate by its fingerprint",
        )
    if kind is SubjectKind.DEVICE:
        user_id, asserted = common_name or fingerprint, row.roles if row else frozenset()
    else:
        user_id, asserted = emails[0] if emails else common_name, row.roles if row else claimed
    roles = frozenset() if scope.public and row is None else scope.allowed_roles(asserted)
    if not user_id:
        raise AccessDenied("the certificate names nobody", hint="it needs one common name, or an e-mail address among its names")
    issuer = certificate.issuer.rfc4514_string()
    if not all(text.isprintable() for text in (user_id, common_name, organization, issuer)):
        raise AccessDenied(
            "a name in the certificate holds control characters, which could forge a line", hint="have it issued anew"
        )
    return Subject(
        kind=kind,
        user_id=user_id,
        name=common_name or user_id,
        roles=roles,
        organization=organization,
        ae_titles=scope.allowed_ae_titles(row.ae_titles) if row else frozenset(),
        assurance=(row.assurance if row else "") or ("hardware" if policies & scope.hardware_policies else "software"),
        certificate_sha256=fingerprint,
        certificate_serial=format(certificate.serial_number, "x"),
        issuer=issuer,
        user_names=row.user_names if row else frozenset(),
        anchor_sha256=anchor_sha256,
        ignored_roles=frozenset(asserted) - roles,
    )


def _row(enrolment: Sequence[Enrolment], fingerprint: str, emails: Iterable[str], common_name: str) -> Enrolment | None:
    """Return the most specific enrolment of the certificate; an empty name matches nothing."""
    addresses = {email.casefold() for email in emails}
    by_fingerprint = (row for row in enrolment if row.certificate_sha256 == fingerprint)
    by_email = (row for row in enrolment if row.email and row.email.casefold() in addresses)
    by_common_name = (row for row in enrolment if row.common_name and row.common_name == common_name)
    return next(by_fingerprint, None) or next(by_email, None) or next(by_common_name, None)


def _alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _policies(certificate: x509.Certificate) -> frozenset[str]:
    try:
        stated = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(policy.policy_identifier.dotted_string for policy in stated)


def _serves(certificate: x509.Certificate) -> bool:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in usages


def _single(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    """Return the value of a name attribute; with several of them programs disagree which one counts, so none does."""
    values = certificate.subject.get_attributes_for_oid(oid)
    return str(values[0].value) if len(values) == 1 else ""
