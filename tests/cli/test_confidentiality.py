"""`securepacs deidentify` and `reidentify` as a user calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from securepacs.cli.main import app
from securepacs.pki import CertificateProfile
from tests.support.pki import TestPki, make_pki
from tests.support.samples import sample


@pytest.fixture
def trustee(tmp_path: Path) -> tuple[Path, Path]:
    pki: TestPki = make_pki(tmp_path)
    return pki.write_pem(pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee"))


def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_there_and_back(tmp_path: Path, trustee: tuple[Path, Path]) -> None:
    key, certificate = trustee
    out, back = tmp_path / "out.dcm", tmp_path / "back.dcm"
    shown, warned = run("deidentify", sample("CT_small.dcm"), "-o", out, "--to", certificate, "--option", "retain-full-dates")
    original = pydicom.dcmread(sample("CT_small.dcm"))
    made = pydicom.dcmread(out)
    assert str(made.SOPInstanceUID) in shown
    assert "pixel-data-not-cleaned" in warned
    assert (made.StudyDate, made.PatientName == original.PatientName) == (original.StudyDate, False)
    run("reidentify", out, "-o", back, "--key", key, "--cert", certificate)
    assert pydicom.dcmread(back).PatientName == original.PatientName


def test_names_of_files_are_not_kept(tmp_path: Path) -> None:
    source, out = tmp_path / "kim_minji", tmp_path / "out"
    source.mkdir()
    for name in ("Kim_1.dcm", "Kim_2.dcm"):
        shutil.copy(sample("CT_small.dcm"), source / name)
    (source / "Kim_notes.txt").write_text("no DICOM")
    said, told = run("deidentify", source, "-o", out, "--json", code=3)
    lines = [json.loads(line) for line in said.splitlines()]
    assert [Path(line["output"]).name for line in lines] == ["IM000001.dcm", "IM000002.dcm"]
    assert sorted(path.name for path in out.iterdir()) == ["IM000001.dcm", "IM000002.dcm"]
    assert "Kim_notes.txt: this is not a DICOM file" in told


def test_a_secret_gives_the_same_names_again(tmp_path: Path) -> None:
    secret, first, second = tmp_path / "secret", tmp_path / "1.dcm", tmp_path / "2.dcm"
    secret.touch(mode=0o600)
    secret.write_text("correct horse battery staple\n")
    for out in (first, second):
        run("deidentify", sample("CT_small.dcm"), "-o", out, "--secret-file", secret)
    assert first.read_bytes() == second.read_bytes()
    secret.chmod(0o644)
    assert "others may read" in run("deidentify", sample("CT_small.dcm"), "-o", first, "--secret-file", secret, code=2)[1]


def test_refusals_leave_nothing_behind(tmp_path: Path, trustee: tuple[Path, Path]) -> None:
    key, certificate = trustee
    out = tmp_path / "out.dcm"
    assert "no option" in run("deidentify", sample("CT_small.dcm"), "-o", out, "--option", "all", code=2)[1]
    plain = run("reidentify", sample("CT_small.dcm"), "-o", out, "--key", key, "--cert", certificate, code=2)[1]
    assert "no encrypted attributes" in plain
    assert not out.exists()
