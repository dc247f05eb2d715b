"""`securepacs pki` from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner, Result

from securepacs.cli.main import app
from securepacs.trust import roles_of
from securepacs.trust.fetch import Fetcher
from securepacs.trust.ocsp import build_request
from securepacs.trust.timestamp import request_timestamp
from tests.support.pki import cached_key

RUN = "from securepacs.cli.main import main; main()"


def run(*arguments: object, status: int = 0, env: dict[str, str] | None = None) -> Result:
    """Run a command inside this process; the exit code and both streams are the real ones."""
    done = CliRunner().invoke(app, ["pki", *map(str, arguments)], env=env)
    assert done.exit_code == status, done.output
    return done


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    run("init", tmp_path / "ca", "--name", "St. Example")
    return tmp_path / "ca"


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_init_issue_revoke_crl(ca: Path, tmp_path: Path) -> None:
    done = run(
        "issue", ca, "modality", "--cn", "ct1", "--dns", "ct1.example", "--ip", "192.0.2.1", "--key-kind", "p256", "-o", tmp_path
    )
    assert done.stdout.strip() == str(tmp_path / "ct1.pem")
    certificate = load(tmp_path / "ct1.pem")
    assert roles_of(certificate) == {"modality"}
    assert (tmp_path / "ct1.key").stat().st_mode & 0o777 == 0o600
    run("revoke", ca, tmp_path / "ct1.pem", "--reason", "keyCompromise")
    run("crl", ca, "-o", tmp_path / "issuing.crl")
    run("crl", ca, "-o", tmp_path / "root.crl", "--root", "--der", "--days", "3")
    crl = x509.load_pem_x509_crl((tmp_path / "issuing.crl").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
    root = x509.load_der_x509_crl((tmp_path / "root.crl").read_bytes())
    assert root.is_signature_valid(load(ca / "root.pem").public_key())  # type: ignore[arg-type]
    done = run("revoke", ca, f"{certificate.serial_number:x}", status=2)
    assert "already" in done.stderr


def test_request_and_roles(ca: Path, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ct2")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(cached_key("p256", "cli"), hashes.SHA256())
    (tmp_path / "ct2.csr").write_bytes(request.public_bytes(Encoding.PEM))
    run("issue", ca, "modality", "--csr", tmp_path / "ct2.csr", "--role", "modality", "--role", "gateway_peer", "-o", tmp_path)
    assert roles_of(load(tmp_path / "ct2.pem")) == {"modality", "gateway_peer"}
    assert not (tmp_path / "ct2.key").exists()


def test_errors_and_their_exit_codes(ca: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.csr").write_bytes(b"junk")
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (2, "not empty", ("init", ca, "--name", "Again")),
        (2, "there is no CA", ("issue", tmp_path / "none", "auditor", "--cn", "A")),
        (2, "unknown certificate profile", ("issue", ca, "toaster", "--cn", "A")),
        (2, "unknown kind of key", ("issue", ca, "auditor", "--cn", "A", "--key-kind", "rsa-512")),
        (2, "DNS name or an IP address", ("issue", ca, "pacs", "--cn", "A", "--key-kind", "p256")),
        (2, "not a name", ("issue", ca, "auditor", "--key-kind", "p256")),
        (3, "not a certificate request", ("issue", ca, "auditor", "--csr", tmp_path / "junk.csr")),
        (2, "neither a file nor a serial number", ("revoke", ca, "who?")),
        (2, "unknown reason", ("revoke", ca, "1234", "--reason", "bored")),
    ]
    for status, words, arguments in cases:
        done = run(*arguments, status=status)
        assert words in done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


def test_encrypted_ca(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("correct horse\n")
    run("init", tmp_path / "ca", "--name", "St. Example", "--pin-file", secret)
    run("crl", tmp_path / "ca", "-o", tmp_path / "a.crl", "--pin-env", "CA_PIN", env={"CA_PIN": "correct horse"})
    assert "passphrase is needed" in run("crl", tmp_path / "ca", "-o", tmp_path / "b.crl", status=2).stderr
    wrong = run("crl", tmp_path / "ca", "-o", tmp_path / "b.crl", "--pin-env", "CA_PIN", status=2, env={"CA_PIN": "battery staple"})
    assert "battery" not in wrong.stderr


def test_expiring(ca: Path, tmp_path: Path) -> None:
    assert run("expiring", ca).stdout == ""
    run("issue", ca, "auditor", "--cn", "Ada", "--days", "5", "--key-kind", "p256", "-o", tmp_path)
    assert "Ada" in run("expiring", ca, status=1).stdout
    line = json.loads(run("expiring", ca, tmp_path / "Ada.pem", "--json", status=1).stdout.splitlines()[0])
    assert (line["subject"], line["days_left"]) == ("Ada", 4)
    run("expiring", ca, "--within", "3")


@pytest.mark.parametrize("command", ["serve", "ocsp", "tsa"])
def test_responders_run_until_sigterm(ca: Path, tmp_path: Path, command: str) -> None:
    run("issue", ca, "auditor", "--cn", "Ada", "--key-kind", "p256", "-o", tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "pki", command, str(ca), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        word, url = process.stderr.readline().split()
        assert word == "ready"
        fetcher = Fetcher(allowed_hosts=["127.0.0.1"], remember=False)
        if command != "tsa":
            ada, issuing = load(tmp_path / "Ada.pem"), load(ca / "issuing.pem")

            def status() -> ocsp.OCSPCertStatus:
                raw = fetcher.post(f"{url}/ocsp", build_request(ada, issuing), content_type="application/ocsp-request")
                return ocsp.load_der_ocsp_response(raw).certificate_status

            assert status() is ocsp.OCSPCertStatus.GOOD
            run("revoke", ca, tmp_path / "Ada.pem")
            assert status() is ocsp.OCSPCertStatus.REVOKED
        if command != "ocsp":
            assert request_timestamp(b"data", url=f"{url}/tsa")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        process.stderr.close()
