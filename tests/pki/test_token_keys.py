"""A CA whose keys are in a token: made, used, served, and found wanting without it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.errors import ConfigError, UsageError
from securepacs.pki import CertificateAuthority
from securepacs.pki.token_keys import create_on_token
from tests.support.programs import require
from tests.support.softhsm import SoftHsmToken, softhsm_token

pytestmark = pytest.mark.interop


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["pki", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def token() -> SoftHsmToken:
    return softhsm_token()


@pytest.fixture
def pin(tmp_path: Path, token: SoftHsmToken) -> Path:
    path = tmp_path / "pin"
    path.touch(mode=0o600)
    path.write_text(token.pin + "\n")
    return path


@pytest.mark.parametrize("kind", ["p256", "rsa-3072"])
def test_a_ca_in_a_token_does_all_its_work(tmp_path: Path, token: SoftHsmToken, pin: Path, kind: str) -> None:
    ca, out = tmp_path / "ca", tmp_path / "out"
    run("init", ca, "--name", f"Token {kind}", "--token", token.uri, "--key-kind", kind, "--pin-file", pin)
    assert sorted(path.name for path in ca.iterdir()) == ["issuing.pem", "register.json", "root.pem", "token.uri"]
    run("issue", ca, "modality", "--cn", "ct1", "-o", out, "--key-kind", "p256", "--pin-file", pin)
    run("revoke", ca, out / "ct1.pem", "--reason", "keyCompromise", "--pin-file", pin)
    for name, options in (("issuing.crl", []), ("root.crl", ["--root"])):
        run("crl", ca, "-o", tmp_path / name, *options, "--pin-file", pin)
    check = [require("openssl"), "verify", "-x509_strict", "-CAfile", str(ca / "root.pem"), "-untrusted", str(ca / "issuing.pem")]
    done = subprocess.run([*check, str(out / "ct1.pem")], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    certificate = x509.load_pem_x509_certificate((out / "ct1.pem").read_bytes())
    crl = x509.load_pem_x509_crl((tmp_path / "issuing.crl").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
    told = [path.read_text(errors="replace") for path in ca.iterdir()]
    assert not any(token.pin in text for text in told)


def test_the_responders_work_with_the_token(tmp_path: Path, token: SoftHsmToken, pin: Path) -> None:
    ca = tmp_path / "ca"
    run("init", ca, "--name", "Served", "--token", token.uri, "--pin-file", pin)
    command = [sys.executable, "-c", "from securepacs.cli.main import main; main()", "pki", "serve", str(ca), "--port", "0"]
    with subprocess.Popen([*command, "--pin-file", str(pin)], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            ready = server.stderr.readline()
            assert ready.startswith("ready http://"), ready + server.stderr.read()
            url = ready.split()[1]
            fetched = subprocess.run(
                [require("openssl"), "crl", "-inform", "DER", "-noout", "-issuer", "-in", "/dev/stdin"],
                input=_get(f"{url}/crl/issuing.crl"),
                capture_output=True,
                timeout=30,
                check=True,
            )
            assert b"Served Issuing CA" in fetched.stdout
        finally:
            server.terminate()
    assert server.returncode == 0


def _get(url: str) -> bytes:
    from urllib.request import urlopen

    with urlopen(url, timeout=20) as response:
        return bytes(response.read())


def test_wrong_pins_names_and_tokens_are_refused(tmp_path: Path, token: SoftHsmToken, pin: Path) -> None:
    ca = tmp_path / "ca"
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("000000\n")
    run("init", ca, "--name", "Refused", "--token", token.uri, "--pin-file", wrong, code=4)
    assert not ca.exists()
    run("init", ca, "--name", "Refused", "--token", token.uri, "--pin-file", pin)
    run("issue", ca, "modality", "--cn", "ct1", "-o", tmp_path / "out", "--pin-file", wrong, code=4)
    assert not (tmp_path / "out" / "ct1.pem").exists()
    with pytest.raises(UsageError, match="already"):
        create_on_token("Refused", tmp_path / "second", uri=token.uri, pin=token.pin_source, at=datetime.now(UTC))
    with pytest.raises(ConfigError, match="in a token"):
        CertificateAuthority.load(ca)
    other = softhsm_token()
    (ca / "token.uri").write_text(other.uri + "\n")
    assert "does not hold the key" in run("issue", ca, "modality", "--cn", "ct1", "-o", tmp_path / "out", "--pin-file", pin, code=4)
