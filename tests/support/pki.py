"""A throw-away PKI for tests: one CA per call, RSA keys cached per process because making them is slow."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from securepacs.pki import CertificateAuthority, CertificateProfile
from securepacs.pki.keys import KeyKind, generate_key
from securepacs.tokens.credential import Credential, SigningKey
from securepacs.trust import TrustPolicy

HOST_PROFILES = {
    CertificateProfile.GATEWAY_SERVER,
    CertificateProfile.GATEWAY_PEER,
    CertificateProfile.PACS,
    CertificateProfile.AUDIT_REPOSITORY,
}


@functools.cache
def cached_key(kind: KeyKind, owner: str) -> SigningKey:
    """Return the key of `owner`: made once per process, different for every owner."""
    return generate_key(kind)


@dataclass
class TestPki:
    """A CA, the moment it was made, and the folder for files of the test."""

    __test__ = False  # not a test class, whatever its name says

    ca: CertificateAuthority
    now: datetime
    folder: Path

    def credential(
        self,
        profile: CertificateProfile,
        common_name: str,
        *,
        key_kind: KeyKind = "rsa-2048",
        at: datetime | None = None,
        lifetime: timedelta | None = None,
        **names: Any,
    ) -> Credential:
        """Issue a credential; server profiles get localhost and 127.0.0.1 as their names unless others are given."""
        if profile in HOST_PROFILES and not (names.get("dns") or names.get("ip")):
            names |= {"dns": ("localhost",), "ip": ("127.0.0.1",)}
        key = cached_key(key_kind, f"{profile}/{common_name}")
        return self.ca.issue_credential(profile, common_name=common_name, at=at or self.now, key=key, lifetime=lifetime, **names)

    def policy(self, **changes: Any) -> TrustPolicy:
        """Return a trust policy with this CA's root as anchor and its issuing CA as intermediate."""
        return TrustPolicy(**{"anchors": (self.ca.root,), "intermediates": (self.ca.issuing,), **changes})

    def write_pem(self, credential: Credential, folder: Path | None = None) -> tuple[Path, Path]:
        """Write the key and the certificate with its chain; return (key, certificate). Named after the credential's label."""
        target = folder or self.folder
        target.mkdir(parents=True, exist_ok=True)
        stem = credential.label.replace("/", "_").replace(" ", "_") or "credential"
        key, certificate = target / f"{stem}.key", target / f"{stem}.pem"
        key.touch(mode=0o600)
        key.write_bytes(
            credential.private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate.write_bytes(pem_of(credential.certificate, *credential.chain))
        return key, certificate

    def write_trust(self, folder: Path | None = None) -> Path:
        """Write the root as PEM and return its path."""
        path = (folder or self.folder) / "root.pem"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pem_of(self.ca.root))
        return path

    def write_crls(self, folder: Path | None = None, *, at: datetime | None = None) -> tuple[Path, Path]:
        """Write fresh CRLs of the issuing CA and the root as PEM; return their paths."""
        target = folder or self.folder
        target.mkdir(parents=True, exist_ok=True)
        issuing, root = target / "issuing.crl", target / "root.crl"
        issuing.write_bytes(self.ca.crl(at=at or self.now).public_bytes(serialization.Encoding.PEM))
        root.write_bytes(self.ca.root_crl(at=at or self.now).public_bytes(serialization.Encoding.PEM))
        return issuing, root


def make_pki(
    folder: Path, *, name: str = "Test Hospital", now: datetime | None = None, base_url: str = "", key_kind: KeyKind = "p256"
) -> TestPki:
    """Make a CA as of `now` (the real time unless given, to the second)."""
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    return TestPki(CertificateAuthority.create(name, at=moment, key_kind=key_kind, base_url=base_url), moment, folder)


def pem_of(*certificates: x509.Certificate) -> bytes:
    """Return the certificates as PEM, in the order given."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


@dataclass
class Party:
    """A certificate with its key, for hierarchies that the CA of the product would never make."""

    certificate: x509.Certificate
    key: Any

    @property
    def name(self) -> x509.Name:
        return self.certificate.subject


def make_party(
    common_name: str,
    *,
    now: datetime,
    issuer: Party | None = None,
    key: Any = None,
    ca: bool = False,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = None,
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = (),
    extended_critical: bool = False,
    start: datetime | None = None,
    end: datetime | None = None,
    algorithm: Any = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    basic_constraints: bool = True,
) -> Party:
    """Make any certificate at all: self-signed without `issuer`, valid from a day before `now` for a year unless told otherwise."""
    own = key if key is not None else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.name if issuer else name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start or now - timedelta(days=1))
        .not_valid_after(end or now + timedelta(days=365))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    )
    if basic_constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if extended_key_usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended_key_usage), critical=extended_critical)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Party(builder.sign(issuer.key if issuer else own, algorithm or hashes.SHA256()), own)


def usage(**bits: bool) -> x509.KeyUsage:
    """Return a keyUsage with the named bits set."""
    known = set(inspect.signature(x509.KeyUsage.__init__).parameters) - {"self"}
    return x509.KeyUsage(**{name: bits.get(name, False) for name in known})


def make_crl(
    issuer: Party,
    *,
    now: datetime,
    revoked: dict[int, tuple[datetime, x509.ReasonFlags | None]] | None = None,
    next_update: datetime | None = None,
    algorithm: Any = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    key: Any = None,
) -> x509.CertificateRevocationList:
    """Sign a CRL of `issuer` (with `key` instead of its own, to forge one)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.name)
        .last_update(now - timedelta(hours=1))
        .next_update(next_update or now + timedelta(days=7))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    for serial, (moment, reason) in (revoked or {}).items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key or issuer.key, algorithm or hashes.SHA256())


def make_ocsp(
    certificate: x509.Certificate,
    issuer: Party,
    *,
    now: datetime,
    revoked_at: datetime | None = None,
    next_update: datetime | None = None,
) -> bytes:
    """Sign the DER OCSP response of `issuer` itself about `certificate`."""
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=certificate,
        issuer=issuer.certificate,
        algorithm=hashes.SHA256(),
        cert_status=ocsp.OCSPCertStatus.REVOKED if revoked_at else ocsp.OCSPCertStatus.GOOD,
        this_update=now - timedelta(hours=1),
        next_update=next_update or now + timedelta(days=1),
        revocation_time=revoked_at,
        revocation_reason=x509.ReasonFlags.key_compromise if revoked_at else None,
    )
    response = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.certificate).sign(issuer.key, hashes.SHA256())
    return response.public_bytes(serialization.Encoding.DER)


def of_version(certificate: x509.Certificate, version: int) -> bytes:
    """Return the DER of a version 3 certificate that says it is of another version (0 stands for 1)."""
    raw = certificate.public_bytes(serialization.Encoding.DER)
    assert raw.count(b"\xa0\x03\x02\x01\x02", 0, 24) == 1
    return raw.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version]), 1)


def weakly_signed(party: Party, issuer: Party, algorithm: hashes.HashAlgorithm) -> Party:
    """Sign the certificate of `party` again with a hash that pyca refuses to put into new certificates (elliptic curve issuers)."""
    from asn1crypto import x509 as asn1_x509

    certificate = asn1_x509.Certificate.load(party.certificate.public_bytes(serialization.Encoding.DER))
    body, name = certificate["tbs_certificate"], f"{algorithm.name}_ecdsa"
    body["signature"] = certificate["signature_algorithm"] = {"algorithm": name}
    certificate["signature_value"] = issuer.key.sign(body.dump(force=True), ec.ECDSA(algorithm))
    return Party(x509.load_der_x509_certificate(certificate.dump(force=True)), party.key)
