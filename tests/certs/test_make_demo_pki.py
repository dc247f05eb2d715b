"""The demo PKI: every certificate judged as its story says."""

from __future__ import annotations

import runpy
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from securepacs.trust import PathResult, Purpose, SubIndication, TrustPolicy, validate
from securepacs.trust.files import load_certificates
from tests.support.programs import require

SCRIPT = Path(__file__).parents[2] / "certs" / "make_demo_pki.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("demo") / "pki"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(target), "--key-kind", "p256"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(target)
    return target


def judge(folder: Path, name: str, purpose: Purpose) -> PathResult:
    policy = TrustPolicy.from_files([folder / "root.pem"], crls=[folder / "issuing.crl", folder / "root.crl"])
    leaf, *chain = load_certificates([folder / name], key="x")
    return validate(leaf, policy=policy, at=datetime.now(UTC), purpose=purpose, extra=chain)


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("gateway.hospital.example", Purpose.TLS_SERVER),
        ("gateway.clinic.example", Purpose.TLS_CLIENT),
        ("pacs.hospital.example", Purpose.TLS_SERVER),
        ("arr.hospital.example", Purpose.TLS_SERVER),
        ("ct1.hospital.example", Purpose.SIGNER),
        ("Dr._Rhea_Radiologist", Purpose.SIGNER),
        ("Dr._Rafael_Referrer", Purpose.TLS_CLIENT),
        ("Ada_Auditor", Purpose.TLS_CLIENT),
        ("Alan_Administrator", Purpose.TLS_CLIENT),
    ],
)
def test_sound_ones(folder: Path, name: str, purpose: Purpose) -> None:
    result = judge(folder, f"{name}.pem", purpose)
    assert result.passed
    assert result.warnings == ()
    assert (folder / f"{name}.key").stat().st_mode & 0o777 == 0o600


def test_expired_and_revoked(folder: Path) -> None:
    assert judge(folder, "Dr._Ena_Expired.pem", Purpose.SIGNER).sub_indication == SubIndication.OUT_OF_BOUNDS_NO_POE
    revoked = judge(folder, "Dr._Rob_Revoked.pem", Purpose.SIGNER)
    assert revoked.sub_indication == SubIndication.REVOKED
    assert "keyCompromise" in revoked.detail


def test_every_certificate_of_the_table_is_there(folder: Path) -> None:
    table = runpy.run_path(str(SCRIPT))["TABLE"]
    assert len(list(folder.glob("*.key"))) == len(table)
    for path in folder.glob("*.key"):
        certificate = x509.load_pem_x509_certificate(path.with_suffix(".pem").read_bytes())
        assert certificate.issuer == x509.load_pem_x509_certificate((folder / "chain.pem").read_bytes()).subject


def test_second_run_overwrites_nothing(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before


@pytest.mark.interop
def test_openssl_agrees(folder: Path) -> None:
    base = [require("openssl"), "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem"]
    base += ["-crl_check_all", "-CRLfile", "issuing.crl", "-CRLfile", "root.crl"]
    for path in sorted(folder.glob("*.key")):
        done = subprocess.run([*base, f"{path.stem}.pem"], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
        said = done.stdout + done.stderr
        if "Expired" in path.stem:
            assert "certificate has expired" in said
        elif "Revoked" in path.stem:
            assert "certificate revoked" in said
        else:
            assert done.returncode == 0, said
