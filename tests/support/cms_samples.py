"""Signers and recipients for CMS tests: self-made certificates, keys cached per process, and openssl cms as the other hand."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.programs import require

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


_CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "secp256k1": ec.SECP256K1()}


@dataclass(frozen=True)
class Holder:
    certificate: x509.Certificate
    private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write key.pem and cert.pem; return their paths."""
        key, certificate = folder / "key.pem", folder / "cert.pem"
        key.write_bytes(self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        certificate.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return key, certificate


def holder(name: str, kind: str = "rsa-2048") -> Holder:
    """Return a self-signed certificate with its key; the same for the same arguments within a process."""
    return _holder(name, kind)


@functools.cache
def _holder(name: str, kind: str) -> Holder:
    rsa_bits = int(kind[4:]) if kind.startswith("rsa-") else 0
    key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(_CURVES[kind])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Holder(certificate, key)


def openssl_cms(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    """Run `openssl cms` and return its output; a failure raises with what openssl said."""
    command = [require("openssl"), "cms", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    return done.stdout
