"""A small certification authority for pilots, tests and sites without their own: a root and one issuing CA (RFC 5280).

Not a replacement for a hospital's or a nation's PKI: no hardware module, no four-eyes rule, no policy identifiers. Time is an
argument everywhere; serial numbers are 20 random bytes with the top bit clear (RFC 5280 4.1.2.2).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import NameOID

from securepacs.errors import UsageError
from securepacs.pki.extensions import PublicationPoints, authority_extensions, end_entity_extensions
from securepacs.pki.keys import KeyKind, certifiable, generate_key
from securepacs.pki.profiles import PROFILES, CertificateProfile
from securepacs.tokens.credential import Credential, SigningKey

CLOCK_SKEW = timedelta(minutes=5)  # certificates and CRLs begin this much earlier, for relying parties whose clock is slow
ROOT_LIFETIME = timedelta(days=20 * 365)
ISSUING_LIFETIME = timedelta(days=10 * 365)
CRL_LIFETIME = timedelta(days=7)
ROOT_CRL_LIFETIME = timedelta(days=180)

_MAX_COMMON_NAME = 64  # ub-common-name, RFC 5280 Appendix A


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate the issuing CA signed, as its register remembers it."""

    serial_number: int
    profile: str
    subject: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revoked certificate: when and why (RFC 5280 5.3.1)."""

    serial_number: int
    at: datetime
    reason: x509.ReasonFlags


@dataclass(slots=True)
class Register:
    """What a CA has to remember between runs. `issued` and `revoked` are by serial number."""

    issued: dict[int, Issued] = field(default_factory=dict)
    revoked: dict[int, Revocation] = field(default_factory=dict)
    crl_number: int = 0
    root_crl_number: int = 0


class CertificateAuthority:
    """A root and its issuing CA with their keys and the register of what was issued and revoked.

    Made by `create` or `load`; not safe to change from several threads, nor from several processes without `storage.locked`.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        root: Credential | x509.Certificate,
        issuing: Credential,
        register: Register | None = None,
    ) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        self._root = root
        self._issuing = issuing
        self.register = register or Register()

    @classmethod
    def create(
        cls,
        name: str,
        *,
        at: datetime,
        key_kind: KeyKind = "p256",
        base_url: str = "",
        keys: tuple[SigningKey, SigningKey] | None = None,
    ) -> CertificateAuthority:
        """Make a new root and issuing CA named after `name`; `keys` are theirs, new ones of `key_kind` when None.

        `base_url` is where `pki.server` will publish CRLs, OCSP and certificates; when empty no certificate carries addresses.
        """
        _require_aware(at)
        url = base_url.rstrip("/")
        root_key, issuing_key = keys or (generate_key(key_kind), generate_key(key_kind))
        root_name, issuing_name = _name(f"{name} Root CA", name), _name(f"{name} Issuing CA", name)
        root_extensions = authority_extensions(certifiable(root_key.public_key()), path_length=1)
        root = _certificate(root_name, root_name, root_key.public_key(), root_key, at, ROOT_LIFETIME, root_extensions)
        points = PublicationPoints(crl=f"{url}/crl/root.crl", issuer=f"{url}/ca/root.cer") if url else PublicationPoints()
        issuing_extensions = [
            *authority_extensions(certifiable(issuing_key.public_key()), path_length=0),
            (_authority_key_identifier(root), False),
            *points.extensions(),
        ]
        issuing = _certificate(
            issuing_name, root_name, issuing_key.public_key(), root_key, at, ISSUING_LIFETIME, issuing_extensions
        )
        return cls(
            name=name,
            base_url=url,
            root=Credential(root, root_key, label=f"{name} root"),
            issuing=Credential(issuing, issuing_key, (root,), label=f"{name} issuing"),
        )

    @property
    def root(self) -> x509.Certificate:
        """The self-signed root certificate: the trust anchor to hand out."""
        return self._root.certificate if isinstance(self._root, Credential) else self._root

    @property
    def has_root_key(self) -> bool:
        """Whether the root's key is here; that of an external root is not."""
        return isinstance(self._root, Credential)

    @property
    def issuing(self) -> x509.Certificate:
        """The certificate of the issuing CA."""
        return self._issuing.certificate

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What a credential sends along with its certificate: the issuing CA, without the root."""
        return (self.issuing,)

    @property
    def issuing_key(self) -> SigningKey:
        """The private key of the issuing CA, for `storage` and the responders of this room."""
        return self._issuing.private_key

    @property
    def root_key(self) -> SigningKey:
        """The private key of the root, for `storage`; UsageError when the root is an external one."""
        return self._root_credential.private_key

    @property
    def _root_credential(self) -> Credential:
        if not isinstance(self._root, Credential):
            raise UsageError("the root is an external one: its key is not here", hint="get its CRL from whoever runs it")
        return self._root

    def issue(
        self,
        profile: CertificateProfile,
        *,
        common_name: str,
        public_key: PublicKeyTypes,
        at: datetime,
        lifetime: timedelta | None = None,
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
        email: str = "",
        organization: str = "",
        roles: Sequence[str] | None = None,
    ) -> x509.Certificate:
        """Certify `public_key` by `profile` and remember it. `roles` replaces the hcRole of the profile; `lifetime` its validity.

        Checks the form of the names, not that the subject owns them: that is the registration officer's work. Raises UsageError.
        """
        _require_aware(at)
        rules = PROFILES[profile]
        key = certifiable(public_key)
        extensions = [
            *end_entity_extensions(rules, key, dns=dns, ip=ip, email=email, roles=rules.roles if roles is None else roles),
            (_authority_key_identifier(self.issuing), False),
            *self._points().extensions(),
        ]
        subject = _name(common_name, organization or self.name)
        validity = rules.lifetime if lifetime is None else lifetime
        if validity <= timedelta(0):
            raise UsageError("the lifetime of a certificate must be positive")
        if at >= self.issuing.not_valid_after_utc:
            raise UsageError("the issuing CA has expired", hint="make a new CA")
        validity = min(validity, self.issuing.not_valid_after_utc - at)
        certificate = _certificate(subject, self.issuing.subject, key, self.issuing_key, at, validity, extensions)
        self.register.issued[certificate.serial_number] = Issued(
            certificate.serial_number,
            profile.value,
            common_name,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )
        return certificate

    def issue_credential(
        self,
        profile: CertificateProfile,
        *,
        common_name: str,
        at: datetime,
        key_kind: KeyKind = "rsa-3072",
        key: SigningKey | None = None,
        lifetime: timedelta | None = None,
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
        email: str = "",
        organization: str = "",
        roles: Sequence[str] | None = None,
    ) -> Credential:
        """Make a key (or take `key`), certify it like `issue`, and return both with the chain."""
        private_key = key if key is not None else generate_key(key_kind)
        certificate = self.issue(
            profile,
            common_name=common_name,
            public_key=private_key.public_key(),
            at=at,
            lifetime=lifetime,
            dns=dns,
            ip=ip,
            email=email,
            organization=organization,
            roles=roles,
        )
        return Credential(certificate, private_key, self.chain, label=common_name)

    def sign_request(
        self,
        request: x509.CertificateSigningRequest,
        profile: CertificateProfile,
        *,
        at: datetime,
        common_name: str = "",
        lifetime: timedelta | None = None,
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
        email: str = "",
        organization: str = "",
        roles: Sequence[str] | None = None,
    ) -> x509.Certificate:
        """Certify the key of a PKCS#10 request (RFC 2986) after its signature proved possession of the private key.

        From the request come the key and, unless given, the common name. Extensions the requester wrote are not copied: what a
        certificate may do is decided by `profile` and the arguments. Raises UsageError when the signature is wrong.
        """
        if not request.is_signature_valid:
            raise UsageError("the certificate request is not signed by the key it names", standard="RFC 2986 4.2")
        if not common_name:
            attributes = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            common_name = str(attributes[0].value) if len(attributes) == 1 else ""
        return self.issue(
            profile,
            common_name=common_name,
            public_key=request.public_key(),
            at=at,
            lifetime=lifetime,
            dns=dns,
            ip=ip,
            email=email,
            organization=organization,
            roles=roles,
        )

    def revoke(
        self,
        certificate: x509.Certificate | int,
        *,
        at: datetime,
        reason: x509.ReasonFlags = x509.ReasonFlags.unspecified,
    ) -> Revocation:
        """Revoke a certificate of the issuing CA, by itself or its serial number, as of `at`; the next CRL and OCSP answer say so.

        Raises UsageError for one that this CA did not issue or that is revoked already (the first date and reason stand).
        """
        _require_aware(at)
        if isinstance(certificate, x509.Certificate) and certificate.issuer != self.issuing.subject:
            raise UsageError("the certificate was issued by another CA")
        serial = certificate if isinstance(certificate, int) else certificate.serial_number
        if serial not in self.register.issued:
            raise UsageError(f"this CA did not issue a certificate with serial number {serial:x}")
        if serial in self.register.revoked:
            raise UsageError(f"the certificate with serial number {serial:x} is revoked already")
        if reason in (x509.ReasonFlags.remove_from_crl, x509.ReasonFlags.certificate_hold):
            raise UsageError(f"{reason.value} is not offered: revocation is final here", standard="RFC 5280 5.3.1")
        revocation = Revocation(serial, at.replace(microsecond=0), reason)
        self.register.revoked[serial] = revocation
        return revocation

    def crl(self, *, at: datetime, lifetime: timedelta = CRL_LIFETIME) -> x509.CertificateRevocationList:
        """Sign a new complete CRL of the issuing CA (RFC 5280 5), with the next CRL number."""
        self.register.crl_number = _next_number(self.register.crl_number, at)
        return _crl(self._issuing, self.register.revoked, self.register.crl_number, at, lifetime)

    def root_crl(self, *, at: datetime, lifetime: timedelta = ROOT_CRL_LIFETIME) -> x509.CertificateRevocationList:
        """Sign a new complete CRL of the root; empty, because the one issuing CA is never revoked while it is in use."""
        root = self._root_credential
        self.register.root_crl_number = _next_number(self.register.root_crl_number, at)
        return _crl(root, {}, self.register.root_crl_number, at, lifetime)

    def save(self, folder: Path, *, passphrase: bytes | None = None) -> None:
        """Write keys (mode 0600, encrypted with a passphrase), certificates and register to `folder`; each file atomically."""
        from securepacs.pki.storage import save

        save(self, folder, passphrase=passphrase)

    @classmethod
    def load(cls, folder: Path, *, passphrase: bytes | None = None) -> CertificateAuthority:
        """Read what `save` wrote; raises ConfigError when something is missing or does not fit together."""
        from securepacs.pki.storage import load

        return load(folder, passphrase=passphrase)

    def _points(self) -> PublicationPoints:
        url = self.base_url
        return PublicationPoints(f"{url}/crl/issuing.crl", f"{url}/ocsp", f"{url}/ca/issuing.cer") if url else PublicationPoints()


def _name(common_name: str, organization: str) -> x509.Name:
    for part, limit in ((common_name, _MAX_COMMON_NAME), (organization, _MAX_COMMON_NAME)):
        if not part.strip() or len(part) > limit or not part.isprintable():
            raise UsageError(f"not a name for a certificate: {part!r}", hint=f"1 to {limit} printable characters")
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKeyTypes,
    signing_key: SigningKey,
    at: datetime,
    lifetime: timedelta,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    start = at.replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(certifiable(public_key))
        .serial_number(random_serial())
        .not_valid_before(start - CLOCK_SKEW)
        .not_valid_after(start + lifetime)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing_key, hashes.SHA256())


def _crl(
    issuer: Credential, revoked: Mapping[int, Revocation], number: int, at: datetime, lifetime: timedelta
) -> x509.CertificateRevocationList:
    _require_aware(at)
    start = at.replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(start - CLOCK_SKEW)
        .next_update(start + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_key_identifier(issuer.certificate), critical=False)
    )
    for revocation in revoked.values():
        entry = x509.RevokedCertificateBuilder().serial_number(revocation.serial_number).revocation_date(revocation.at)
        if revocation.reason is not x509.ReasonFlags.unspecified:  # RFC 5280 5.3.1: absent rather than unspecified
            entry = entry.add_extension(x509.CRLReason(revocation.reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.private_key, hashes.SHA256())


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _next_number(previous: int, at: datetime) -> int:
    """Return the next CRL number: the Unix time, so that several processes that publish for one CA keep it increasing."""
    return max(previous + 1, int(at.timestamp()))


def random_serial() -> int:
    """Return a positive serial number of 159 random bits (20 octets at most, RFC 5280 4.1.2.2)."""
    return secrets.randbits(158) | 1 << 158


def _require_aware(at: datetime) -> None:
    if at.tzinfo is None:
        raise UsageError("times must carry a time zone")
