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


def test_passwords(tmp_path: Path, patient: tuple[Credential, Path, Path]) -> None:
    _, key, certificate = patient
    password, weak, wrong = tmp_path / "password", tmp_path / "weak", tmp_path / "wrong"
    secure, plain = tmp_path / "secure", tmp_path / "plain.dcm"
    run("protect", SOURCE, "-o", secure, "--new-password-file", password, "--to", certificate)
    assert password.stat().st_mode & 0o777 == 0o600
    run("open", secure, "-o", plain, "--password-file", password)
    assert plain.read_bytes() == SOURCE.read_bytes()
    run("open", secure, "-o", plain, "--key", key, "--cert", certificate)
    described = json.loads(run("inspect", secure, "--json"))
    assert (described["profile"], described["extensions"]) == ("PS3.15 D.1", [])
    assert sorted(each["kind"] for each in described["recipients"]) == ["ktri", "pwri"]
    for path, text in ((weak, "hospital2026"), (wrong, "K7QX-2M4N-P0RS-8TVW-3YZA")):
        path.touch(mode=0o600)
        path.write_text(text)
    plain.unlink()
    run("open", secure, "-o", plain, "--password-file", wrong, code=1)
    assert not plain.exists()
    run("protect", SOURCE, "-o", secure, "--new-password-file", password, code=2)  # never over an existing file
    run("protect", SOURCE, "-o", secure, "--new-password-file", tmp_path / "x", "--password-file", password, code=2)
    run("protect", SOURCE, "-o", secure, "--password-file", weak, code=2)
    run("protect", SOURCE, "-o", secure, "--password-file", weak, "--unsafe-weak-password")
    run("open", secure, "-o", plain, "--password-file", weak)


def test_extensions_are_never_called_the_profile(tmp_path: Path, pki: TestPki, patient: tuple[Credential, Path, Path]) -> None:
    _, key, certificate = patient
    curve = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Curve", key_kind="p256")
    curve_key, curve_certificate = pki.write_pem(curve)
    secure, plain = tmp_path / "secure", tmp_path / "plain.dcm"
    mine = ("--key", key, "--cert", certificate)
    kinds = {
        "cipher aes256-gcm": (("--to", certificate, "--cipher", "aes256-gcm"), mine),
        "RSA-OAEP": (("--to", certificate, "--oaep"), mine),
        "key agreement": (("--to", curve_certificate), ("--key", curve_key, "--cert", curve_certificate)),
    }
    for words, (options, opener) in kinds.items():
        made = json.loads(run("protect", SOURCE, "-o", secure, *options, "--json"))
        assert made["profile"] == ""
        assert words in made["extensions"][0]
        assert words in run("protect", SOURCE, "-o", secure, *options)
        run("open", secure, "-o", plain, *opener)
        assert plain.read_bytes() == SOURCE.read_bytes()
        plain.unlink()
    assert json.loads(run("protect", SOURCE, "-o", secure, "--to", certificate, "--cipher", "des-ede3-cbc", "--json"))["profile"]


def test_a_tree(tmp_path: Path, pki: TestPki, patient: tuple[Credential, Path, Path]) -> None:
    _, key, certificate = patient
    tree, secure, plain = tmp_path / "tree", tmp_path / "secure", tmp_path / "plain"
    names = ["a/CT_small.dcm", "a/b/MR_small.dcm", "rtplan.dcm"]
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(sample(Path(name).name).read_bytes())
    run("protect", tree, "-o", secure, "--to", certificate)
    (secure / "damaged").write_bytes((secure / names[2]).read_bytes()[:-40])
    (secure / "README").write_text("not protected")
    mine = ("--key", key, "--cert", certificate)
    told = run("open", secure, "-o", plain, *mine, "--json", code=3)
    assert {json.loads(line)["file"] for line in told.splitlines()} == {str(secure / name) for name in names}
    told = run("open", secure, "-o", plain, *mine, code=3)
    assert all(str(secure / name) in told for name in names)
    assert sorted(str(path.relative_to(plain)) for path in plain.rglob("*") if path.is_file()) == sorted(names)
    assert all((plain / name).read_bytes() == (tree / name).read_bytes() for name in names)
    run("protect", tree, "-o", tree / "inside", "--to", certificate, code=2)


def test_trust_is_asked_for_or_said_to_be_missing(tmp_path: Path, pki: TestPki, patient: tuple[Credential, Path, Path]) -> None:
    _, key, certificate = patient
    signer_key, signer_certificate = pki.write_pem(pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim"))
    secure, plain = tmp_path / "secure", tmp_path / "plain.dcm"
    run("protect", SOURCE, "-o", secure, "--to", certificate, "--sign-key", signer_key, "--sign-cert", signer_certificate)
    mine = ("--key", key, "--cert", certificate)
    assert "origin not proven" in run("open", secure, "-o", plain, *mine)
    assert "origin proven" in run("open", secure, "-o", plain, *mine, "--trust", pki.write_trust())
    plain.unlink()
    stranger = make_pki(tmp_path / "other").write_trust(tmp_path / "other")
    run("open", secure, "-o", plain, *mine, "--trust", stranger, code=1)
    assert not plain.exists()
