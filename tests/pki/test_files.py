"""Requests, issued certificates and keys as files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from securepacs.errors import ConfigError, MalformedError, UsageError
from securepacs.pki import CertificateProfile
from securepacs.pki.files import certificate_or_serial, load_request, reason_named, write_credential
from tests.support.pki import cached_key, make_pki, pem_of

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_request_in_pem_and_der(tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ct1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(cached_key("p256", "csr"), hashes.SHA256())
    for encoding in (Encoding.PEM, Encoding.DER):
        (tmp_path / "request").write_bytes(request.public_bytes(encoding))
        assert load_request(tmp_path / "request") == request


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_request_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "request").write_bytes(content)
    with pytest.raises(MalformedError):
        load_request(tmp_path / "request")


def test_missing_request(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_request(tmp_path / "none")


def test_written_credential(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, now=NOW)
    credential = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Ähm / ../etc", key_kind="p256")
    path = write_credential(tmp_path / "out", credential.certificate, credential.chain, credential.private_key)
    assert path.parent == tmp_path / "out"
    assert path.name == "Dr._Ähm_.._etc.pem"
    assert path.read_bytes() == pem_of(credential.certificate, pki.ca.issuing)
    key = path.with_suffix(".key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert load_pem_private_key(key.read_bytes(), None).public_key() == credential.certificate.public_key()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, now=NOW)
    credential = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256")
    (tmp_path / "Dr._A.key").write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        write_credential(tmp_path, credential.certificate, (), credential.private_key)
    assert (tmp_path / "Dr._A.key").read_bytes() == b"precious"
    assert not (tmp_path / "Dr._A.pem").exists()


def test_certificate_or_serial(tmp_path: Path) -> None:
    certificate = make_pki(tmp_path, now=NOW).ca.root
    (tmp_path / "root.pem").write_bytes(pem_of(certificate))
    assert certificate_or_serial(str(tmp_path / "root.pem")) == certificate
    assert certificate_or_serial("0A:ff") == certificate_or_serial("0x0aff") == 0x0AFF
    for text in ("", "xyz", "1" * 41):
        with pytest.raises(ConfigError):
            certificate_or_serial(text)


def test_reasons() -> None:
    assert reason_named("keyCompromise") is x509.ReasonFlags.key_compromise
    with pytest.raises(UsageError, match="bored"):
        reason_named("bored")
