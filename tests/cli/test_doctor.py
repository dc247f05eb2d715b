"""`securepacs doctor` on this computer, on SoftHSM, and on stores."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from securepacs.cli import doctor
from securepacs.cli.main import app
from securepacs.pki import CertificateProfile
from tests.support.piv_card import PIN, piv_card, run_with_card
from tests.support.pki import make_pki
from tests.support.softhsm import enrolled_token, softhsm_token


def rows(*arguments: object, code: int | None = None) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["doctor", "--json", *map(str, arguments)])
    assert code is None or done.exit_code == code, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_this_computer() -> None:
    token, _ = enrolled_token()
    found = {(row["area"], row["what"]): row for row in rows("--module", token.module)}
    assert found["time", "synchronized"]["state"] in ("ok", "warning")
    assert "OpenSSL" in found["crypto", "signatures, gateway"]["detail"]
    assert found["crypto", "TLS with a token"]["state"] == "ok"
    assert found["cards", "p11-kit"]["state"] == "ok"
    assert token.label in {what for area, what in found if area == "token"}
    assert CliRunner().invoke(app, ["doctor", "--module", str(token.module)]).stdout.startswith("doctor")


def test_certificates_and_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    token, _ = enrolled_token()
    monkeypatch.setenv("DOCTOR_PIN", token.pin)
    found = rows("--module", token.module, "--token", token.uri, "--pin-env", "DOCTOR_PIN")
    assert {row["what"] for row in found if row["area"] == "signature" and row["state"] == "ok"} == {"rsa-2048", "rsa-3072", "p256"}
    assert any(row["area"] == "certificate" and "device p256" in row["detail"] for row in found)
    monkeypatch.setenv("DOCTOR_PIN", "wrong-pin")
    refused = rows("--module", token.module, "--token", token.uri, "--pin-env", "DOCTOR_PIN", code=1)
    assert [row["detail"] for row in refused if row["area"] == "signature"] == ["the PIN is incorrect"]


def test_a_module_that_is_none(tmp_path: Path) -> None:
    bad = tmp_path / "bad.so"
    bad.write_bytes(b"no module")
    found = rows("--module", bad, code=1)
    assert [row["state"] for row in found if row["area"] == "token"] == ["failed"]
    assert softhsm_token().label  # the module of this process is not disturbed


@pytest.mark.interop
def test_a_card_with_its_tries(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    keys = {"9a": pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim", key_kind="p256")}
    script = "from securepacs.cli.main import main; main()"
    with piv_card(tmp_path / "card", keys) as card:
        command = [sys.executable, "-c", script, "doctor", "--json", "--module", str(card.module)]
        done = run_with_card(card, [*command, "--token", card.uri(), "--pin-env", "P"], P="000000")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert any(row["area"] == "signature" and "2 tries left" in row["detail"] for row in found), done.stderr
        assert any(row["what"].startswith("Virtual PCD 00 00") and row["detail"] == "card in" for row in found)
        done = run_with_card(card, [*command, "--token", card.uri(), "--pin-env", "P"], P=PIN)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert any(row["area"] == "token" and "2 tries left" in row["detail"] for row in found)
        assert [row["state"] for row in found if row["area"] == "signature"] == ["ok"]


def test_stores(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    states = {row["what"]: row for row in rows("--store", tmp_path / "open", code=1) if row["detail"].startswith("mode")}
    assert states[str(tmp_path / "open")]["state"] == "failed"
    assert next(doctor.store_findings(tmp_path / "closed")).state == "ok"
    assert [one.state for one in doctor.store_findings(tmp_path / "none")] == ["failed"]


@pytest.mark.parametrize(
    ("devices", "encrypted"),
    [
        ({}, None),
        ({"8:1": ("", [])}, False),
        ({"8:1": ("CRYPT-LUKS2-1234-home", [])}, True),
        ({"8:1": ("LVM-abc", ["254:0"]), "254:0": ("CRYPT-LUKS2-1234-disk", [])}, True),
        ({"8:1": ("LVM-abc", ["254:0", "8:2"]), "254:0": ("CRYPT-LUKS2-1-d", []), "8:2": ("", [])}, False),
    ],
)
def test_encrypted_volumes(tmp_path: Path, devices: dict[str, tuple[str, list[str]]], encrypted: bool | None) -> None:
    for name, (uuid, slaves) in devices.items():
        (tmp_path / name / "slaves").mkdir(parents=True)
        if uuid:
            (tmp_path / name / "dm").mkdir()
            (tmp_path / name / "dm" / "uuid").write_text(uuid + "\n")
        for slave in slaves:
            (tmp_path / name / "slaves" / slave.replace(":", "_")).mkdir()
            (tmp_path / name / "slaves" / slave.replace(":", "_") / "dev").write_text(slave + "\n")
    assert doctor.is_encrypted("8:1", sys_folder=tmp_path) is encrypted
