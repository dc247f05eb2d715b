"""Reading certificates and CRLs, and saying what was found instead."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securepacs.errors import ConfigError
from securepacs.trust import TrustPolicy
from securepacs.trust import files as trust_files
from securepacs.trust.files import load_certificate, load_certificates, load_crls
from tests.support.pki import make_crl, make_party, of_version, pem_of, usage

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ROOT = make_party("Root", now=NOW, ca=True, key_usage=usage(key_cert_sign=True, crl_sign=True))
OTHER = make_party("Other", now=NOW, ca=True)
CRL = make_crl(ROOT, now=NOW)
KEY_PEM = ROOT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_pem_bundle_der_and_duplicates(tmp_path: Path) -> None:
    bundle, der = tmp_path / "bundle.pem", tmp_path / "root.cer"
    bundle.write_bytes(b"a comment\n" + pem_of(ROOT.certificate, OTHER.certificate))
    der.write_bytes(ROOT.certificate.public_bytes(Encoding.DER))
    assert load_certificates([bundle, der], key="trust") == (ROOT.certificate, OTHER.certificate)
    assert load_certificate(der, key="trust") == ROOT.certificate


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(pem_of(ROOT.certificate).replace(b"\n", b"\r\n"))
    assert load_certificate(path, key="trust") == ROOT.certificate


def test_folder_with_keys_certificates_and_crls_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(pem_of(ROOT.certificate))
    (tmp_path / "b.crt").write_bytes(OTHER.certificate.public_bytes(Encoding.DER))
    (tmp_path / "key.pem").write_bytes(KEY_PEM)
    (tmp_path / "list.pem").write_bytes(CRL.public_bytes(Encoding.PEM))
    (tmp_path / "list.crl").write_bytes(CRL.public_bytes(Encoding.DER))
    (tmp_path / "README").write_text("nothing")
    assert load_certificates([tmp_path], key="trust") == (ROOT.certificate, OTHER.certificate)
    assert load_crls([tmp_path], key="crls") == (CRL,)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (KEY_PEM, "private key"),
        (CRL.public_bytes(Encoding.PEM), "x509 crl"),
        (b"", "an empty file"),
        (b"hello", "5 bytes of something else"),
        (CRL.public_bytes(Encoding.DER), "other DER data"),
        (pem_of(ROOT.certificate)[:200], "damaged PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "PEM of: certificate"),
    ],
)
def test_error_says_what_was_found(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "trust.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_certificates([path], key="listener.0.trust")
    assert caught.value.key == "listener.0.trust"
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [pem_of(ROOT.certificate), b"junk", ROOT.certificate.public_bytes(Encoding.DER)])
def test_what_is_no_crl(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.crl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"list\.crl"):
        load_crls([path], key="crls")


def test_missing_file_empty_folder_and_nothing_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_certificates([tmp_path / "none.pem"], key="trust")
    with pytest.raises(ConfigError, match="nothing of use"):
        load_certificates([tmp_path], key="trust")
    with pytest.raises(ConfigError, match="no file is named"):
        load_certificates([], key="trust")
    assert load_crls([], key="crls", required=False) == ()


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_files, "MAX_FILE_BYTES", 10)
    path = tmp_path / "root.pem"
    path.write_bytes(pem_of(ROOT.certificate))
    with pytest.raises(ConfigError, match="larger"):
        load_certificate(path, key="trust")


def test_policy_from_files(tmp_path: Path) -> None:
    for name, content in (("root.pem", pem_of(ROOT.certificate)), ("other.pem", pem_of(OTHER.certificate))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "root.crl").write_bytes(CRL.public_bytes(Encoding.PEM))
    policy = TrustPolicy.from_files(
        [tmp_path / "root.pem"],
        intermediates=[tmp_path / "other.pem"],
        crls=[tmp_path / "root.crl"],
        timestamp_trust=[tmp_path / "other.pem"],
        allowed_hosts=["PKI.Hospital.Example"],
    )
    assert policy.anchors == (ROOT.certificate,)
    assert policy.intermediates == policy.timestamp_anchors == (OTHER.certificate,)
    assert policy.crls == (CRL,)
    assert policy.allowed_hosts == {"pki.hospital.example"}
    with pytest.raises(ConfigError) as caught:
        TrustPolicy.from_files([])
    assert caught.value.key == "trust"


def test_certificate_of_unknown_version(tmp_path: Path) -> None:
    """The parser's error for it is no ValueError."""
    path = tmp_path / "odd.der"
    path.write_bytes(of_version(ROOT.certificate, 1))
    with pytest.raises(ConfigError, match="not a certificate"):
        load_certificate(path, key="trust")
