"""One consistent reading of the configuration and of everything it names; a broken one never replaces a good one.

The supervisor reads first; workers read the same files themselves and compare `Snapshot.version`, a digest over all their bytes, so
that no two processes ever work by different rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from securepacs.audit.message import AuditSourceIdentification
from securepacs.errors import ConfigError, SecurePacsError
from securepacs.policy.cedar import CedarPolicy
from securepacs.policy.roles import Enrolment
from securepacs.policy.subject import Subject
from securepacs.tls import TlsProfile, profile
from securepacs.tokens.credential import Credential
from securepacs_proxy.assertions import identity_rules
from securepacs_proxy.config import GatewayConfig, load, policy_of, read_certificates, read_crl, read_private_key
from securepacs_proxy.config.model import ListenerSection
from securepacs_proxy.config.rules import calls_of
from securepacs_proxy.dicom.user_identity import Certified, IdentityRules
from securepacs_proxy.history import settings_of
from securepacs_proxy.history.store import Contents
from securepacs_proxy.identity import Scopes, enrolment_of, identify_among, scopes_of
from securepacs_proxy.ways import ClientTls, Egress, client_tls, egress_of

_ATTEMPTS = 3
_IDENTIFIED = 4096  # certificates whose subject is remembered: reading names and roles costs a quarter of a handshake
_SOURCE_TYPE = "6"  # RFC 3881 5.4.3: security server, such as a domain controller


@dataclass(frozen=True, slots=True)
class Listener:
    """What one listening port needs for TLS."""

    host: str
    port: int
    profile: TlsProfile
    credential: Credential
    trust: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...]
    revocation_elsewhere: bool = False  # missing or old lists are judged by the keeper, not by OpenSSL


@dataclass(frozen=True, slots=True)
class Called:
    """Who vouches for the destinations that are called with TLS, and their lists."""

    trust: tuple[x509.Certificate, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker works by, read at one moment. `version` changes when any byte of any file does."""

    path: Path
    version: str
    config: GatewayConfig
    policy: CedarPolicy
    listeners: tuple[Listener, ...]
    enrolment: tuple[Enrolment, ...]
    scopes: Scopes
    contents: Contents = field(repr=False)
    called: Called = field(default_factory=Called, repr=False)
    egress: tuple[Egress, ...] = ()
    client_tls: Mapping[str, ClientTls] = field(default_factory=dict, repr=False)
    identity_rules: IdentityRules = field(default_factory=Certified, repr=False)
    identified: dict[tuple[x509.Certificate, ...], Subject] = field(default_factory=dict, repr=False, compare=False)

    def source(self, process: str = "") -> AuditSourceIdentification:
        """Return the audit source of one process; each worker is an ordered source of its own."""
        name = self.config.gateway.name
        return AuditSourceIdentification(
            AuditSourceID=f"{name}/{process}" if process else name,
            AuditEnterpriseSiteID=self.config.audit.enterprise_site,
            AuditSourceTypeCode=(_SOURCE_TYPE,),
        )

    def identify(self, certificate: x509.Certificate, chain: Sequence[x509.Certificate] = ()) -> Subject:
        """Return who stands behind a certificate whose path is `chain`, the anchor last; AccessDenied for who is not enrolled."""
        known = (certificate, *chain[-1:])  # what a certificate may say depends on the anchor, and two paths may lead to two
        subject = self.identified.get(known)
        if subject is None:
            subject = identify_among(certificate, self.enrolment, scopes=self.scopes, chain=chain)
            if len(self.identified) >= _IDENTIFIED:
                self.identified.clear()
            self.identified[known] = subject
        return subject

    def verdict(self, certificate: x509.Certificate, subject: Subject, chain: Sequence[x509.Certificate] = ()) -> str:
        """Return why a live connection must end under these settings, "" when it may go on."""
        if any(_revokes(crl, certificate) for listener in self.listeners for crl in listener.crls):
            return "its certificate was revoked"
        try:
            now = self.identify(certificate, chain)
        except SecurePacsError as error:
            return error.message
        return "" if now == subject else "its enrolment was changed"

    def destination_verdict(self, certificate: x509.Certificate) -> str:
        """Return why a live connection to a destination must end under these settings, "" when it may go on."""
        revoked = any(_revokes(crl, certificate) for crl in self.called.crls)
        return "the certificate of the destination was revoked" if revoked else ""


def read_snapshot(path: Path) -> Snapshot:
    """Read configuration, policies, certificates, keys and CRLs. Raises ConfigError; nothing is half replaced."""
    for _ in range(_ATTEMPTS):
        config = load(path)
        before, files = _read_files(path, config)
        listeners = tuple(_listener(section, index, config) for index, section in enumerate(config.listeners))
        egress, tls, identities = egress_of(config), client_tls(config), identity_rules(config)
        enrolment, scopes, policy = enrolment_of(config), scopes_of(config), policy_of(config.policy)
        if _read_files(path, config)[0] == before:
            contents, called = _contents(before, path, config, policy, files), _called(config)
            return Snapshot(path, before, config, policy, listeners, enrolment, scopes, contents, called, egress, tls, identities)
    raise ConfigError("the files of the configuration change while they are read", hint="reload again when they are complete")


def needs_restart(old: Snapshot, new: Snapshot) -> str:
    """Return the key of a setting that was changed and that a running gateway cannot change, "" when there is none."""
    if [(one.host, one.port) for one in old.listeners] != [(one.host, one.port) for one in new.listeners]:
        return "listener"
    if [(one.host, one.port) for one in old.egress] != [(one.host, one.port) for one in new.egress]:
        return "egress"
    one, other = old.config, new.config
    fixed = {
        "gateway.name": (one.gateway.name, other.gateway.name),
        "gateway.workers": (one.gateway.workers, other.gateway.workers),
        "audit": (one.audit, other.audit),
        "metrics": (one.metrics, other.metrics),
        "shared": (one.shared, other.shared),
        "revocation": (one.revocation is None, other.revocation is None),
        "limits.max_connections": (one.limits.max_connections, other.limits.max_connections),
    }
    return next((key for key, (before, after) in fixed.items() if before != after), "")


def _listener(section: ListenerSection, index: int, config: GatewayConfig) -> Listener:
    key = f"listener[{index}]"
    certificates = read_certificates(section.certificate, key=f"{key}.certificate")
    private_key = read_private_key(section.key, key=f"{key}.key")
    if not isinstance(private_key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise ConfigError(
            "the key is neither RSA nor of an elliptic curve", key=f"{key}.key", hint="DICOM peers know RSA and ECDSA"
        )
    trust = (certificate for path in section.trust for certificate in read_certificates(path, key=f"{key}.trust"))
    return Listener(
        host=section.host,
        port=section.port,
        profile=profile(section.tls_profile),
        credential=Credential(certificates[0], private_key, tuple(certificates[1:])),
        trust=tuple(trust),
        crls=tuple(read_crl(path, key=f"{key}.crls") for path in section.crls),
        revocation_elsewhere=config.revocation is not None,
    )


def _called(config: GatewayConfig) -> Called:
    calls = list(calls_of(config))
    trust = (one for key, call in calls for path in call.trust for one in read_certificates(path, key=f"{key}.trust"))
    return Called(tuple(trust), tuple(read_crl(path, key=f"{key}.crls") for key, call in calls for path in call.crls))


def _read_files(path: Path, config: GatewayConfig) -> tuple[str, dict[Path, bytes]]:
    """Return the version, a digest over all files, and their bytes."""
    digest, found = hashlib.sha256(), {}
    for file in (path, *_named_files(config)):
        try:
            content = found[file] = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
        digest.update(f"{file}\0{len(content)}\0".encode() + content)
    return digest.hexdigest(), found


def _contents(version: str, path: Path, config: GatewayConfig, policy: CedarPolicy, files: Mapping[Path, bytes]) -> Contents:
    """Return what the history keeps: texts that `explain` asks later, and of other files the digest, of private keys nothing."""
    asked = {file for listener in config.listeners for file in listener.trust} | {anchor.certificate for anchor in config.anchors}
    keys = {listener.key for listener in config.listeners} | {call.key for _, call in calls_of(config)}
    policies = set(_policy_files(config))
    others = {file: content for file, content in files.items() if file not in asked | keys | policies and file != path}
    return Contents(
        version=version,
        path=str(path.absolute()),
        configuration=files[path],
        schema=policy.schema,
        policies=policy.texts,
        certificates={str(file): files[file] for file in sorted(asked)},
        digests={str(file): hashlib.sha256(content).hexdigest() for file, content in others.items()},
        settings=settings_of(config),
    )


def _named_files(config: GatewayConfig) -> Iterable[Path]:
    for listener in config.listeners:
        yield from (listener.certificate, listener.key, *listener.trust, *listener.crls)
    for issuer in config.user_identity.issuers:
        yield from issuer.keys
    for _, call in calls_of(config):
        yield from (*filter(None, (call.certificate, call.key)), *call.trust, *call.crls)
    yield from (anchor.certificate for anchor in config.anchors)
    yield from _policy_files(config)


def _policy_files(config: GatewayConfig) -> Iterable[Path]:
    return sorted(config.policy.folder.glob("*.cedar*")) if config.policy.folder is not None else ()


def _revokes(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    if crl.issuer != certificate.issuer:
        return False
    return crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
