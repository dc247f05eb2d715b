"""OpenSSL judges what the PKI makes: certificates, CRLs, OCSP answers, time stamps."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securepacs.pki import CertificateProfile, serve
from tests.support.net import free_port
from tests.support.pki import TestPki, make_pki, pem_of
from tests.support.programs import require

pytestmark = pytest.mark.interop


@pytest.fixture(params=["p256", "rsa-2048"])
def pki(request: pytest.FixtureRequest, tmp_path: Path) -> TestPki:
    pki = make_pki(tmp_path, base_url=f"http://127.0.0.1:{free_port()}", key_kind=request.param)
    pki.write_trust()
    pki.write_crls()
    (tmp_path / "chain.pem").write_bytes(pem_of(pki.ca.issuing))
    return pki


def openssl(pki: TestPki, *arguments: str, status: int = 0) -> str:
    done = subprocess.run([require("openssl"), *arguments], cwd=pki.folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


PURPOSES = {
    CertificateProfile.GATEWAY_SERVER: ["sslserver"],
    CertificateProfile.MODALITY: ["sslserver", "sslclient"],
    CertificateProfile.RADIOLOGIST: ["sslclient", "smimesign"],
    CertificateProfile.TIMESTAMP_AUTHORITY: ["timestampsign"],
    CertificateProfile.OCSP_RESPONDER: ["ocsphelper"],
}


@pytest.mark.parametrize("profile", CertificateProfile)
def test_strict_verification(pki: TestPki, profile: CertificateProfile) -> None:
    certificate = pki.credential(profile, "subject", key_kind="p256").certificate
    (pki.folder / "leaf.pem").write_bytes(pem_of(certificate))
    base = ["verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem"]
    base += ["-crl_check_all", "-CRLfile", "issuing.crl", "-CRLfile", "root.crl"]
    for purpose in PURPOSES.get(profile, ["any"]):
        openssl(pki, *base, "-purpose", purpose, "leaf.pem")


def test_revoked_by_crl(pki: TestPki) -> None:
    doctor = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256").certificate
    pki.ca.revoke(doctor, at=pki.now, reason=x509.ReasonFlags.key_compromise)
    pki.write_crls()
    (pki.folder / "leaf.pem").write_bytes(pem_of(doctor))
    said = openssl(
        pki,
        "verify",
        "-CAfile",
        "root.pem",
        "-untrusted",
        "chain.pem",
        "-crl_check",
        "-CRLfile",
        "issuing.crl",
        "leaf.pem",
        status=2,
    )
    assert "certificate revoked" in said
    text = openssl(pki, "crl", "-in", "issuing.crl", "-noout", "-text")
    assert "Key Compromise" in text


@pytest.mark.parametrize("digest", ["-sha1", "-sha256"])
def test_ocsp(pki: TestPki, digest: str) -> None:
    doctor = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. A", key_kind="p256").certificate
    (pki.folder / "leaf.pem").write_bytes(pem_of(doctor))
    with serve(pki.ca, port=int(pki.ca.base_url.rpartition(":")[2])) as server:
        command = ["ocsp", "-issuer", "chain.pem", digest, "-cert", "leaf.pem", "-url", f"{server.url}/ocsp"]
        command += ["-CAfile", "root.pem", "-verify_other", "chain.pem", "-nonce"]
        said = openssl(pki, *command)
        assert "Response verify OK" in said
        assert "leaf.pem: good" in said
        assert "no nonce" not in said
        pki.ca.revoke(doctor, at=pki.now, reason=x509.ReasonFlags.key_compromise)
        said = openssl(pki, *command)
        assert "leaf.pem: revoked" in said
        assert "keyCompromise" in said


@pytest.mark.parametrize("extra", [["-cert"], []])
@pytest.mark.parametrize("digest", ["-sha256", "-sha512"])
def test_time_stamps(pki: TestPki, extra: list[str], digest: str) -> None:
    (pki.folder / "data").write_bytes(b"to be stamped")
    tsa = pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")
    (pki.folder / "tsa.pem").write_bytes(pem_of(tsa.certificate))
    openssl(pki, "ts", "-query", "-data", "data", digest, *extra, "-out", "request.tsq")
    from securepacs.pki.tsa import TimestampAuthority

    reply = TimestampAuthority(tsa).respond((pki.folder / "request.tsq").read_bytes(), at=pki.now)
    (pki.folder / "reply.tsr").write_bytes(reply)
    command = ["ts", "-verify", "-in", "reply.tsr", "-CAfile", "root.pem", "-untrusted"]
    (pki.folder / "others.pem").write_bytes(pem_of(*([pki.ca.issuing] if extra else [tsa.certificate, pki.ca.issuing])))
    for question in (["-queryfile", "request.tsq"], ["-data", "data"]):
        assert "Verification: OK" in openssl(pki, *command, "others.pem", *question)


def test_refused_time_stamp_can_be_read(pki: TestPki) -> None:
    from securepacs.pki.tsa import TimestampAuthority

    tsa = TimestampAuthority(pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256"))
    (pki.folder / "data").write_bytes(b"to be stamped")
    openssl(pki, "ts", "-query", "-data", "data", "-sha1", "-out", "request.tsq")
    (pki.folder / "reply.tsr").write_bytes(tsa.respond((pki.folder / "request.tsq").read_bytes(), at=pki.now))
    text = openssl(pki, "ts", "-reply", "-in", "reply.tsr", "-text")
    assert "Rejected" in text
    assert "unrecognized or unsupported algorithm identifier" in text


def test_request_of_openssl_is_certified(pki: TestPki) -> None:
    openssl(pki, "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "ct1.key", "-subj", "/CN=ct1", "-out", "ct1.csr")
    request = x509.load_pem_x509_csr((pki.folder / "ct1.csr").read_bytes())
    certificate: Any = pki.ca.sign_request(request, CertificateProfile.MODALITY, at=pki.now)
    (pki.folder / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    openssl(pki, "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem", "leaf.pem")
