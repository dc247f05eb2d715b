"""Make the whole PKI of the demo in a folder: python certs/make_demo_pki.py FOLDER

A thin script over `securepacs.pki`; what it makes is listed in certs/README.md. Nothing of it belongs into a repository.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.errors import SecurePacsError
from securepacs.pki import CertificateAuthority, CertificateProfile
from securepacs.pki.files import write_credential
from securepacs.pki.keys import KeyKind, generate_key
from securepacs.pki.storage import write_atomically


@dataclass(frozen=True)
class DemoCertificate:
    """One line of the table below. `age` is how long before now it was issued."""

    profile: CertificateProfile
    common_name: str
    dns: tuple[str, ...] = ()
    email: str = ""
    ip: tuple[str, ...] = ()
    age: timedelta = timedelta(0)
    lifetime: timedelta | None = None
    revoked: x509.ReasonFlags | None = None
    roles: tuple[str, ...] | None = field(default=None)


LOCAL = ("127.0.0.1", "::1")
TABLE = (
    DemoCertificate(
        CertificateProfile.GATEWAY_SERVER, "gateway.hospital.example", dns=("gateway.hospital.example", "localhost"), ip=LOCAL
    ),
    DemoCertificate(
        CertificateProfile.GATEWAY_PEER, "gateway.clinic.example", dns=("gateway.clinic.example", "localhost"), ip=LOCAL
    ),
    DemoCertificate(CertificateProfile.PACS, "pacs.hospital.example", dns=("pacs.hospital.example", "localhost"), ip=LOCAL),
    DemoCertificate(
        CertificateProfile.AUDIT_REPOSITORY, "arr.hospital.example", dns=("arr.hospital.example", "localhost"), ip=LOCAL
    ),
    DemoCertificate(CertificateProfile.MODALITY, "ct1.hospital.example", dns=("ct1.hospital.example",)),
    DemoCertificate(CertificateProfile.RADIOLOGIST, "Dr. Rhea Radiologist", email="rhea@hospital.example"),
    DemoCertificate(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Rafael Referrer", email="rafael@practice.example"),
    DemoCertificate(CertificateProfile.AUDITOR, "Ada Auditor", email="ada@hospital.example"),
    DemoCertificate(CertificateProfile.ADMINISTRATOR, "Alan Administrator", email="alan@hospital.example"),
    DemoCertificate(
        CertificateProfile.RADIOLOGIST,
        "Dr. Ena Expired",
        email="ena@hospital.example",
        age=timedelta(days=60),
        lifetime=timedelta(days=30),
    ),
    DemoCertificate(
        CertificateProfile.RADIOLOGIST, "Dr. Rob Revoked", email="rob@hospital.example", revoked=x509.ReasonFlags.key_compromise
    ),
)


def make(folder: Path, *, at: datetime, key_kind: KeyKind = "rsa-3072", base_url: str = "") -> CertificateAuthority:
    """Make the CA in FOLDER/ca, a key and certificate per line of the table in FOLDER, root.pem, chain.pem and both CRLs."""
    authority = CertificateAuthority.create("Demo Hospital", at=at - timedelta(days=90), base_url=base_url)
    for line in TABLE:
        key = generate_key(key_kind)
        certificate = authority.issue(
            line.profile,
            common_name=line.common_name,
            public_key=key.public_key(),
            at=at - line.age,
            lifetime=line.lifetime,
            dns=line.dns,
            ip=line.ip,
            email=line.email,
            roles=line.roles,
        )
        if line.revoked is not None:
            authority.revoke(certificate, at=at, reason=line.revoked)
        write_credential(folder, certificate, authority.chain, key)
    write_atomically(folder / "root.pem", authority.root.public_bytes(Encoding.PEM))
    write_atomically(folder / "chain.pem", authority.issuing.public_bytes(Encoding.PEM))
    write_atomically(folder / "issuing.crl", authority.crl(at=at).public_bytes(Encoding.PEM))
    write_atomically(folder / "root.crl", authority.root_crl(at=at).public_bytes(Encoding.PEM))
    authority.save(folder / "ca")
    return authority


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description="Make the demo PKI: every kind of certificate, one expired, one revoked.")
    parser.add_argument("folder", type=Path, help="folder to fill; existing keys are never overwritten")
    parser.add_argument("--base-url", default="", help="where `securepacs pki serve FOLDER/ca` will be reached")
    parser.add_argument("--key-kind", choices=("rsa-3072", "rsa-2048", "p256"), default="rsa-3072")
    arguments = parser.parse_args()
    try:
        make(arguments.folder, at=datetime.now(UTC), key_kind=arguments.key_kind, base_url=arguments.base_url)
    except SecurePacsError as error:
        parser.exit(2, f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
    print(arguments.folder)


if __name__ == "__main__":
    main()
