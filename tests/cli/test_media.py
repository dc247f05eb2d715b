"""`securepacs media` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.cms import enveloped
from securepacs.codes import ID_DATA
from securepacs.pki import CertificateProfile
from securepacs.tokens.credential import Credential
from tests.support.pki import TestPki, make_pki
from tests.support.samples import sample
from tests.support.softhsm import enrolled_token

SOURCE = sample("CT_small.dcm")


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path)


@pytest.fixture
def patient(pki: TestPki) -> tuple[Credential, Path, Path]:
    credential = pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee")
    return credential, *pki.write_pem(credential)


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["media", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout


def test_protect_open_inspect(tmp_path: Path, pki: TestPki, patient: tuple[Credential, Path, Path]) -> None:
    _, key, certificate = patient
    signer_key, signer_certificate = pki.write_pem(pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim"))
    secure, plain = tmp_path / "secure", tmp_path / "plain.dcm"
    run("protect", SOURCE, "-o", secure, "--to", certificate, "--sign-key", signer_key, "--sign-cert", signer_certificate)
    described = json.loads(run("inspect", secure, "--json"))
    assert (described["kind"], described["cipher"]) == ("secure", "aes256-cbc")
    assert len(described["recipients"]) == 1
    assert "aes256-cbc" in run("inspect", secure)
    said = run("open", secure, "-o", plain, "--key", key, "--cert", certificate, "--trust", pki.write_trust(), "--json")
    opened = json.loads(said)
    assert (opened["integrity"], opened["signers"][0]["indication"]) == ("signed", "TOTAL-PASSED")
    assert plain.read_bytes() == SOURCE.read_bytes()
    assert "not asked" in run("open", secure, "-o", plain, "--key", key, "--cert", certificate)


def test_without_signer(tmp_path: Path, pki: TestPki, patient: tuple[Credential, Path, Path]) -> None:
    _, key, certificate = patient
    secure, plain = tmp_path / "secure", tmp_path / "plain.dcm"
    run("protect", SOURCE, "-o", secure, "--to", certificate, "--cipher", "aes128-cbc")
    assert "digested" in run("open", secure, "-o", plain, "--key", key, "--cert", certificate)
    plain.unlink()
    run("open", secure, "-o", plain, "--key", key, "--cert", certificate, "--trust", pki.write_trust(), code=1)
    assert not plain.exists()


@pytest.mark.interop
def test_a_card_signs_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, pki = enrolled_token()
    pin = tmp_path / "pin"
    pin.write_text(token.pin)
    pin.chmod(0o600)
    card = ("--token", token.uri.replace("?", ";object=rsa-2048?"), "--pin-file", pin)
    credential = pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee")
    key, certificate = pki.write_pem(credential, tmp_path)
    secure, plain = tmp_path / "secure", tmp_path / "plain.dcm"
    run("protect", SOURCE, "-o", secure, "--to", certificate, *card)
    assert json.loads(run("open", secure, "-o", plain, "--key", key, "--cert", certificate, "--json"))["integrity"] == "signed"
    run("open", secure, "-o", plain, *card, code=1)  # not a recipient


@pytest.mark.parametrize("missing", ["--sign-key", "--sign-cert"])
def test_half_a_signer(tmp_path: Path, patient: tuple[Credential, Path, Path], missing: str) -> None:
    _, key, certificate = patient
    run("protect", SOURCE, "-o", tmp_path / "x", "--to", certificate, missing, key, code=2)


def test_exit_codes(tmp_path: Path, pki: TestPki, patient: tuple[Credential, Path, Path]) -> None:
    credential, key, certificate = patient
    other_key, other_certificate = pki.write_pem(pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim"))
    secure, out = tmp_path / "secure", tmp_path / "out"
    run("protect", SOURCE, "-o", secure, "--to", certificate)
    mine = ("--key", key, "--cert", certificate)
    run("open", secure, "-o", out, "--key", other_key, "--cert", other_certificate, code=1)
    run("open", SOURCE, "-o", out, *mine, code=3)
    run("open", tmp_path / "none", "-o", out, *mine, code=2)
    run("open", secure, "-o", out, code=2)
    run("open", secure, "-o", secure, *mine, code=2)
    run("protect", SOURCE, "-o", out, "--to", certificate, "--cipher", "rot13", code=2)
    run("protect", SOURCE, "-o", out, "--to", certificate, "--pin-file", key, code=2)
    run("inspect", certificate, code=3)
    bare = tmp_path / "bare"
    bare.write_bytes(enveloped.encrypt(SOURCE.read_bytes(), [credential.certificate], content_type=ID_DATA))
    run("open", bare, "-o", out, *mine, code=1)
    assert not out.exists()
    run("open", bare, "-o", out, *mine, "--unsafe-no-integrity")
    assert out.read_bytes() == SOURCE.read_bytes()
