"""`securepacs token` on SoftHSM, as a user calls it: exit codes, JSON, and no PIN in any output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from securepacs.pki import CertificateAuthority, CertificateProfile
from tests.support.pki import make_pki, pem_of
from tests.support.softhsm import KINDS, SoftHsmToken, enrolled_token, softhsm_token


def run(*arguments: str | Path, token: SoftHsmToken) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from securepacs.cli.main import main; main()", *map(str, arguments)],
        env={**os.environ, **token.environment, "SECUREPACS_TEST_PIN": token.pin, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert token.pin not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


PIN = ("--pin-env", "SECUREPACS_TEST_PIN")


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_list_show_test() -> None:
    token, _ = enrolled_token()
    (mine,) = [
        row for row in rows(run("token", "list", "--module", token.module, "--json", token=token)) if row["label"] == token.label
    ]
    assert mine["pin"] in ("ok", "count-low")  # other tests give wrong PINs to the same token
    assert {row["label"] for row in rows(run("token", "show", mine["uri"], "--json", token=token))} == set(KINDS)
    tried = {row["label"]: row for row in rows(run("token", "test", mine["uri"], *PIN, "--json", token=token))}
    assert {row["sign"] for row in tried.values()} == {"ok"}
    assert {label: row["decrypt"] for label, row in tried.items()} == {"rsa-2048": "ok", "rsa-3072": "ok", "p256": "not offered"}
    assert run("token", "list", "--module", token.module, token=token).stdout.count("test-") >= 1


def test_a_wrong_pin_ends_with_4(tmp_path: Path) -> None:
    token, _ = enrolled_token()
    pin = tmp_path / "pin"
    pin.write_text("not-the-pin-0987\n")
    pin.chmod(0o600)
    done = run("token", "test", token.uri, "--pin-file", pin, token=token)
    assert done.returncode == 4
    assert "not-the-pin-0987" not in done.stdout + done.stderr
    assert "error:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "pkcs11:token=none-such?module-path={module}"), 4),
        (("show", "pkcs11:token=x"), 2),
        (("list", "--module", "/none.so"), 2),
        (("enroll", "{uri}", "--label", "l", "--common-name", "c"), 2),
    ],
)
def test_exit_codes(arguments: tuple[str, ...], code: int) -> None:
    token, _ = enrolled_token()
    filled = [part.format(module=token.module, uri=token.uri) for part in arguments]
    assert run("token", *filled, token=token).returncode == code


def test_an_empty_token_cannot_be_tested() -> None:
    token = softhsm_token()
    done = run("token", "test", token.uri, *PIN, token=token)
    assert done.returncode == 4
    assert "enroll" in done.stderr
    assert rows(run("token", "show", token.uri, "--json", token=token)) == []


def test_enroll_with_the_pilot_ca(tmp_path: Path) -> None:
    token = softhsm_token()
    folder = tmp_path / "ca"
    make_pki(tmp_path).ca.save(folder)
    done = run(
        "token", "enroll", token.uri, "--label", "kim", "--common-name", "Dr. Kim", "--ca", folder, "--kind", "rsa-2048",
        "--profile", "radiologist", *PIN, token=token,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CN=Dr. Kim" in done.stdout
    (tried,) = rows(run("token", "test", token.uri, *PIN, "--json", token=token))
    assert (tried["label"], tried["sign"], tried["decrypt"]) == ("kim", "ok", "ok")
    (issued,) = CertificateAuthority.load(folder).register.issued.values()
    assert (issued.subject, issued.profile) == ("Dr. Kim", "radiologist")


def test_enroll_with_another_ca(tmp_path: Path) -> None:
    token = softhsm_token()
    request, certificate = tmp_path / "request.pem", tmp_path / "cert.pem"
    done = run(
        "token", "enroll", token.uri, "--label", "ct1", "--common-name", "ct1", "--organization", "Hospital",
        "--kind", "p256", "--request", request, *PIN, token=token,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pki = make_pki(tmp_path)
    issued = pki.ca.sign_request(
        x509.load_pem_x509_csr(request.read_bytes()), CertificateProfile.MODALITY, at=pki.now, dns=["ct1.hospital.example"]
    )
    certificate.write_bytes(pem_of(issued))
    done = run("token", "import", token.uri, certificate, "--label", "ct1", *PIN, token=token)
    assert done.returncode == 0, done.stderr
    (tried,) = rows(run("token", "test", token.uri, *PIN, "--json", token=token))
    assert (tried["label"], tried["sign"]) == ("ct1", "ok")


def test_enroll_with_an_unknown_profile_or_kind(tmp_path: Path) -> None:
    token = softhsm_token()
    folder = tmp_path / "ca"
    make_pki(tmp_path).ca.save(folder)
    common = ("token", "enroll", token.uri, "--label", "l", "--common-name", "c", "--ca", folder, *PIN)
    assert run(*common, "--kind", "dsa", token=token).returncode == 2
    assert run(*common, "--profile", "king", "--kind", "p256", token=token).returncode == 2
