"""Kits for many devices: what is in them opens, what is wrong in the list is told before anything is issued."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from securepacs.errors import MalformedError
from securepacs.pki import CertificateAuthority
from securepacs.pki.kit import read_devices
from tests.pki.test_cli import run
from tests.support.programs import require

HEADER = "name,gateway,ae_titles,profile,dns,ip,called_ae_title,email,organization\n"
CT = "ct1,gw.example:2762,CT1;CT1B,modality,,192.0.2.1,ARCHIVE,,\n"
PACS = "pacs1,gw.example:2762,PACS1,pacs,pacs1.example,,ARCHIVE,,Radiology\n"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    run("init", tmp_path / "ca", "--name", "St. Example")
    return tmp_path / "ca"


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "devices.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


def test_kits(ca: Path, tmp_path: Path) -> None:
    done = run("issue", ca, "--kit", listed(tmp_path, HEADER + CT + PACS), "-o", tmp_path / "kits", "--key-kind", "p256")
    assert done.stdout.splitlines() == [str(tmp_path / "kits" / name) for name in ("ct1", "pacs1")]
    kit = tmp_path / "kits" / "ct1"
    assert kit.stat().st_mode & 0o777 == 0o700
    password = (kit / "ct1.password").read_text().strip()
    bundle = load_pkcs12((kit / "ct1.p12").read_bytes(), password.encode())
    certificate = x509.load_pem_x509_certificate((kit / "ct1.pem").read_bytes())
    assert bundle.cert is not None
    assert bundle.cert.certificate == certificate
    assert len(bundle.additional_certs) == 1
    for secret in ("ct1.p12", "ct1.password", "ct1.key"):
        assert (kit / secret).stat().st_mode & 0o777 == 0o600
    page = (kit / "ct1.html").read_text()
    for text in (
        "gw.example port 2762",
        "CT1, CT1B",
        "ARCHIVE",
        f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        "echoscu +tls ct1.key",
    ):
        assert text in page
    assert password not in page
    assert set(CertificateAuthority.load(ca).register.issued) >= {certificate.serial_number}


@pytest.mark.interop
def test_openssl_accepts_a_kit(ca: Path, tmp_path: Path) -> None:
    run("issue", ca, "modality", "--kit", listed(tmp_path, "name,gateway,ae_titles\nct1,gw:2762,CT1\n"), "-o", tmp_path)
    kit = tmp_path / "ct1"
    strict = ["verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem", "ct1.pem"]
    opened = ["pkcs12", "-in", "ct1.p12", "-passin", "file:ct1.password", "-nodes", "-info"]
    for arguments in (strict, opened):
        done = subprocess.run([require("openssl"), *arguments], cwd=kit, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_two_certificates_of_a_device_overlap(ca: Path, tmp_path: Path) -> None:
    devices = listed(tmp_path, HEADER + CT)
    run("issue", ca, "--kit", devices, "-o", tmp_path / "old", "--days", "5", "--key-kind", "p256")
    assert "ct1" in run("expiring", ca, status=1).stdout
    run("issue", ca, "--kit", devices, "-o", tmp_path / "new", "--key-kind", "p256")
    assert run("expiring", ca).stdout == ""  # it has a successor
    new = CertificateAuthority.load(ca)
    assert len(new.register.issued) == 2
    run("revoke", ca, tmp_path / "new" / "ct1" / "ct1.pem")
    assert "ct1" in run("expiring", ca, status=1).stdout


def test_nothing_is_overwritten_and_nothing_is_issued_then(ca: Path, tmp_path: Path) -> None:
    (tmp_path / "pacs1").mkdir()
    done = run("issue", ca, "--kit", listed(tmp_path, HEADER + CT + PACS), "-o", tmp_path, status=2)
    assert "exists already" in done.stderr
    assert not (tmp_path / "ct1").exists()
    assert CertificateAuthority.load(ca).register.issued == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the column"),
        ("name,gateway\nct1,gw:1\n", "lacks the column ae_titles"),
        (HEADER.replace("email", "mail") + CT, "unknown column 'mail'"),
        (HEADER, "names no device"),
        (HEADER + CT + CT, "names a device twice"),
        (HEADER + "../x,gw:2762,CT1,modality,,,,,\n", "line 2: the name"),
        (HEADER + CT + "ct2,gw,CT2,modality,,,,,\n", "line 3: the gateway"),
        (HEADER + "ct1,gw:70000,CT1,modality,,,,,\n", "the gateway"),
        (HEADER + "ct1,gw:2762,,modality,,,,,\n", "AE title"),
        (HEADER + "ct1,gw:2762,CT1;AN AE TITLE TOO LONG,modality,,,,,\n", "AE title"),
        (HEADER + "ct1,gw:2762,CT1,king,,,,,\n", "profile"),
        (HEADER + "ct1,gw:2762,CT1,pacs,,,,,\n", "needs a DNS name"),
        (HEADER + "ct1,gw:2762,CT1,modality,,,,,,more\n", "more cells"),
        (HEADER + '"ct1,gw:2762\n', "line"),
    ],
)
def test_a_wrong_list_is_told_by_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        read_devices(listed(tmp_path, text))


def test_kit_and_options_for_one_exclude_each_other(ca: Path, tmp_path: Path) -> None:
    run("issue", ca, "modality", "--kit", listed(tmp_path, HEADER + CT), "--cn", "ct1", status=2)
    run("issue", ca, "--kit", tmp_path / "none.csv", status=2)
    run("issue", ca, status=2)
