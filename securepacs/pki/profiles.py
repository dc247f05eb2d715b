"""Certificate profiles as data: what each kind of certificate may be used for, how long it lives, what its subject must name.

Usages follow RFC 5280 4.2.1.3 and 4.2.1.12, RFC 3161 2.3 (time stamps) and RFC 6960 4.2.2.2 (OCSP). Lifetimes stay within the two
years that IHE ITI-19 recommends, except for authorities whose signatures have to outlive them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from securepacs.codes import (
    ROLE_ADMINISTRATOR,
    ROLE_AUDITOR,
    ROLE_GATEWAY_PEER,
    ROLE_MODALITY,
    ROLE_RADIOLOGIST,
    ROLE_REFERRING_PHYSICIAN,
)
from securepacs.errors import UsageError


class CertificateProfile(StrEnum):
    """The kinds of certificate the pilot CA issues."""

    GATEWAY_SERVER = "gateway-server"
    MODALITY = "modality"
    RADIOLOGIST = "radiologist"
    REFERRING_PHYSICIAN = "referring-physician"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"
    GATEWAY_PEER = "gateway-peer"
    PACS = "pacs"
    AUDIT_REPOSITORY = "audit-repository"
    TIMESTAMP_AUTHORITY = "timestamp-authority"
    OCSP_RESPONDER = "ocsp-responder"


class Naming(StrEnum):
    """What the subject alternative name must carry."""

    HOST = "host"  # at least one DNS name or IP address: TLS clients compare it (RFC 9525)
    ANY = "any"  # whatever the caller gives


@dataclass(frozen=True, slots=True)
class ProfileRules:
    """The rules of one profile.

    `key_encipherment` asks for keyEncipherment with RSA keys and keyAgreement with elliptic curve keys (RFC 5480 3): needed by
    those who receive encrypted media. `roles` go into hcRole unless the caller names others. `ocsp_no_check` is RFC 6960 4.2.2.2.1.
    """

    extended_key_usage: tuple[ObjectIdentifier, ...]
    lifetime: timedelta
    content_commitment: bool = False
    key_encipherment: bool = False
    extended_key_usage_critical: bool = False
    naming: Naming = Naming.ANY
    roles: tuple[str, ...] = ()
    ocsp_no_check: bool = False


_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH
_YEAR = timedelta(days=365)


def _person(role: str) -> ProfileRules:
    return ProfileRules(
        extended_key_usage=(_CLIENT, ExtendedKeyUsageOID.EMAIL_PROTECTION),
        lifetime=2 * _YEAR,
        content_commitment=True,
        key_encipherment=True,
        roles=(role,),
    )


PROFILES: Mapping[CertificateProfile, ProfileRules] = MappingProxyType(
    {
        CertificateProfile.GATEWAY_SERVER: ProfileRules((_SERVER,), _YEAR, key_encipherment=True, naming=Naming.HOST),
        CertificateProfile.MODALITY: ProfileRules(
            (_CLIENT, _SERVER), 2 * _YEAR, content_commitment=True, key_encipherment=True, roles=(ROLE_MODALITY,)
        ),
        CertificateProfile.RADIOLOGIST: _person(ROLE_RADIOLOGIST),
        CertificateProfile.REFERRING_PHYSICIAN: _person(ROLE_REFERRING_PHYSICIAN),
        CertificateProfile.AUDITOR: _person(ROLE_AUDITOR),
        CertificateProfile.ADMINISTRATOR: _person(ROLE_ADMINISTRATOR),
        CertificateProfile.GATEWAY_PEER: ProfileRules((_CLIENT, _SERVER), _YEAR, naming=Naming.HOST, roles=(ROLE_GATEWAY_PEER,)),
        CertificateProfile.PACS: ProfileRules((_SERVER, _CLIENT), _YEAR, key_encipherment=True, naming=Naming.HOST),
        CertificateProfile.AUDIT_REPOSITORY: ProfileRules((_SERVER, _CLIENT), _YEAR, key_encipherment=True, naming=Naming.HOST),
        CertificateProfile.TIMESTAMP_AUTHORITY: ProfileRules(
            (ExtendedKeyUsageOID.TIME_STAMPING,), 8 * _YEAR, content_commitment=True, extended_key_usage_critical=True
        ),
        CertificateProfile.OCSP_RESPONDER: ProfileRules(
            (ExtendedKeyUsageOID.OCSP_SIGNING,), timedelta(days=30), ocsp_no_check=True
        ),
    }
)


def profile_named(name: str) -> CertificateProfile:
    """Return the profile called `name`; UsageError for any other."""
    try:
        return CertificateProfile(name)
    except ValueError:
        raise UsageError(f"unknown certificate profile {name!r}", hint=", ".join(CertificateProfile)) from None
