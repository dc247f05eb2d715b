"""The X.509 extensions of what the CA issues (RFC 5280 4.2): one function per kind of certificate."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import AuthorityInformationAccessOID

from securepacs.errors import UsageError
from securepacs.pki.keys import CertifiedKey
from securepacs.pki.profiles import Naming, ProfileRules
from securepacs.trust.hcrole import hcrole_extension

_DNS_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE)
_EMAIL = re.compile(r"[!-?A-~]{1,64}@[a-z0-9.-]{1,255}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PublicationPoints:
    """Where relying parties find CRL, OCSP responder and issuer certificate; empty strings leave the extension out."""

    crl: str = ""
    ocsp: str = ""
    issuer: str = ""

    def extensions(self) -> list[tuple[x509.ExtensionType, bool]]:
        """Return cRLDistributionPoints and authorityInfoAccess (RFC 5280 4.2.1.13, 4.2.2.1) with their criticality."""
        found: list[tuple[x509.ExtensionType, bool]] = []
        if self.crl:
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(self.crl)], None, None, None)
            found.append((x509.CRLDistributionPoints([point]), False))
        access = [
            x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
            for method, url in (
                (AuthorityInformationAccessOID.OCSP, self.ocsp),
                (AuthorityInformationAccessOID.CA_ISSUERS, self.issuer),
            )
            if url
        ]
        if access:
            found.append((x509.AuthorityInformationAccess(access), False))
        return found


def authority_extensions(public_key: CertifiedKey, *, path_length: int) -> list[tuple[x509.ExtensionType, bool]]:
    """Return the extensions of a CA certificate that do not depend on its issuer."""
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_key_usage(key_cert_sign=True, crl_sign=True, digital_signature=False), True),
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
    ]


def end_entity_extensions(
    rules: ProfileRules,
    public_key: CertifiedKey,
    *,
    dns: Sequence[str],
    ip: Sequence[str],
    email: str,
    roles: Sequence[str],
) -> list[tuple[x509.ExtensionType, bool]]:
    """Return the extensions of an end entity by its profile; raises UsageError when a name is missing or malformed."""
    rsa = isinstance(public_key, RSAPublicKey)
    names = subject_alternative_names(dns=dns, ip=ip, email=email)
    if rules.naming is Naming.HOST and not (dns or ip):
        raise UsageError("this kind of certificate needs a DNS name or an IP address", standard="RFC 9525 6.1")
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (
            _key_usage(
                digital_signature=True,
                content_commitment=rules.content_commitment,
                key_encipherment=rules.key_encipherment and rsa,
                key_agreement=rules.key_encipherment and not rsa,
            ),
            True,
        ),
        (x509.ExtendedKeyUsage(rules.extended_key_usage), rules.extended_key_usage_critical),
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
    ]
    if names:
        extensions.append((x509.SubjectAlternativeName(names), False))
    if roles:
        extensions.append((hcrole_extension(roles), False))
    if rules.ocsp_no_check:
        extensions.append((x509.OCSPNoCheck(), False))
    return extensions


def subject_alternative_names(*, dns: Iterable[str], ip: Iterable[str], email: str) -> list[x509.GeneralName]:
    """Return the general names; raises UsageError for anything that is not a host name, an IP address or a mail address."""
    names: list[x509.GeneralName] = []
    for host in dns:
        labels = host.removeprefix("*.").split(".")
        if len(host) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels):
            raise UsageError(
                f"not a DNS name: {host!r}", hint="international names in their xn-- form", standard="RFC 5280 4.2.1.6"
            )
        names.append(x509.DNSName(host))
    for address in ip:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError as error:
            raise UsageError(f"not an IP address: {address!r}") from error
    if email:
        if not _EMAIL.fullmatch(email):
            raise UsageError(f"not a mail address: {email!r}", standard="RFC 5280 4.2.1.6")
        names.append(x509.RFC822Name(email))
    return names


def _key_usage(
    *,
    digital_signature: bool,
    content_commitment: bool = False,
    key_encipherment: bool = False,
    key_agreement: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=key_agreement,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
