from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from securepacs.cli.main import app
from tests.support.samples import sample
from tests.support.signing import signed_sample


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done.stdout


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(signed_sample("reportsi.dcm", profile="sr", purpose=1))
    found = json.loads(run(path, "--json"))
    assert found["file"] == str(path)
    (signature,) = found["signatures"]
    assert (signature["profile"], signature["purpose"], signature["mac_algorithm"]) == ("sr", "Author Signature", "SHA256")


def test_text_warns_that_nothing_was_verified(tmp_path: Path) -> None:
    path = tmp_path / "ct.dcm"
    path.write_bytes(signed_sample("CT_small.dcm"))
    said = run(path)
    assert "CN=Dr. Signer" in said
    assert "PixelData" in said
    assert "Nothing of this has been verified." in said


def test_a_file_without_signature() -> None:
    assert "0 signatures" in run(sample("MR_small.dcm"))


def test_what_is_no_file_or_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    run(tmp_path / "text", expect=3)
    run(tmp_path, expect=2)
    run(tmp_path / "absent", expect=2)
