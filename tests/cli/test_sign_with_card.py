"""`securepacs sign --token` on SoftHSM: one PIN for a study, patient data on the terminal only, and no login left behind."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.signatures import evaluate
from securepacs.tokens.login import Login
from securepacs.tokens.pkcs11 import Pkcs11Token
from tests.support.samples import new_instance
from tests.support.softhsm import enrolled_token

URI_KIND = "rsa-2048"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"{number}.dcm").write_bytes(new_instance("CT_small.dcm", number))
    return folder


@pytest.fixture
def card(tmp_path: Path) -> list[str]:
    token, _ = enrolled_token()
    pin = tmp_path / "pin"
    pin.write_text(token.pin)
    pin.chmod(0o600)
    return ["--token", token.uri.replace("?", f";object={URI_KIND}?"), "--pin-file", str(pin)]


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the C_Login calls; every one of them still happens."""
    counted: list[int] = []
    real = Login._login

    def login(self: Login, *arguments: Any, **named: Any) -> None:
        counted.append(1)
        real(self, *arguments, **named)

    monkeypatch.setattr(Login, "_login", login)
    return counted


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["sign", *map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done.output


def test_one_login_signs_a_study_and_ends(study: Path, card: list[str], tmp_path: Path, logins: list[int]) -> None:
    said = run(study, *card, "-o", tmp_path / "out")
    assert len(logins) == 1
    token, pki = enrolled_token()
    signed = sorted((tmp_path / "out").iterdir())
    assert len(signed) == 5
    assert all(evaluate(path, pki.policy()).verdict == "TOTAL-PASSED" for path in signed)
    assert "CompressedSamples" not in said  # stderr is no terminal here
    with Pkcs11Token.open(token.uri) as opened:  # without a PIN: the private keys would show if the login were still there
        assert opened.credentials() == []


def test_json_and_a_bad_file(study: Path, card: list[str], tmp_path: Path, logins: list[int]) -> None:
    (study / "0.dcm").write_bytes(b"no dicom")
    lines = [json.loads(line) for line in run(study, *card, "--json", "-o", tmp_path / "out", expect=3).splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["0.dcm", "1.dcm", "2.dcm", "3.dcm", "4.dcm", "5.dcm"]
    assert lines[0]["error"]["code"] == "malformed"
    assert all(len(line["signatures"]) == 1 for line in lines[1:])
    assert len(logins) == 1


def test_nothing_to_sign_asks_for_no_pin(card: list[str], tmp_path: Path, logins: list[int]) -> None:
    (tmp_path / "bad.dcm").write_bytes(b"no dicom")
    run(tmp_path / "bad.dcm", *card, "-o", tmp_path / "out.dcm", expect=3)
    assert logins == []


def test_a_wrong_pin_signs_nothing(study: Path, card: list[str], tmp_path: Path, logins: list[int]) -> None:
    Path(card[3]).write_text("999999")
    before = {path: path.read_bytes() for path in study.iterdir()}
    run(study, *card, "--in-place", expect=4)
    assert len(logins) == 1
    assert {path: path.read_bytes() for path in study.iterdir()} == before


def test_a_file_that_changes_while_the_pin_is_typed_is_refused(
    study: Path, card: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Login._login
    victim = study / "3.dcm"

    def login(self: Login, *arguments: Any, **named: Any) -> None:
        victim.write_bytes(new_instance("MR_small.dcm", 3))
        real(self, *arguments, **named)

    monkeypatch.setattr(Login, "_login", login)
    said = run(study, *card, "--in-place", expect=1)
    assert "3.dcm" in said
    assert "changed after it was shown" in said
    _, pki = enrolled_token()
    verdicts = [evaluate(path, pki.policy()).verdict for path in sorted(study.iterdir())]
    assert verdicts == ["TOTAL-PASSED", "TOTAL-PASSED", "NO-SIGNATURE", "TOTAL-PASSED", "TOTAL-PASSED"]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_terminal_shows_patient_study_and_count_before_the_pin(
    as_json: bool, study: Path, card: list[str], tmp_path: Path
) -> None:
    token, _ = enrolled_token()
    main, side = pty.openpty()
    command = [sys.executable, "-c", "from securepacs.cli.main import main; main()", "sign", str(study), *card[:2]]
    command += ["-o", str(tmp_path / "out"), *(["--json"] if as_json else [])]
    environment = os.environ | token.environment | {"COLUMNS": "140", "TERM": "xterm"}
    process = subprocess.Popen(
        command, stdin=side, stdout=subprocess.PIPE, stderr=side, env=environment,
        start_new_session=True, preexec_fn=lambda: _control(side),
    )  # fmt: skip
    os.close(side)
    seen = _read_until(main, b"PIN or password: ")
    assert (b"CompressedSamples" in seen) is not as_json
    assert (b"1CT1" in seen and b"about to sign" in seen) is not as_json
    assert not (tmp_path / "out").exists()
    os.write(main, token.pin.encode() + b"\n")
    out, _ = process.communicate(timeout=60)
    os.close(main)
    assert process.returncode == 0
    assert b"CompressedSamples" not in out
    assert len(list((tmp_path / "out").iterdir())) == 5


def _control(terminal: int) -> None:
    """Make the pseudo terminal the controlling one: getpass asks /dev/tty."""
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _read_until(terminal: int, end: bytes) -> bytes:
    seen = b""
    while end not in seen:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, seen
        seen += os.read(terminal, 65536)
    return seen
