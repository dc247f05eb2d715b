"""Attribute confidentiality with GDCM's gdcmanon, both ways (PS3.15 E)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pydicom
import pytest

from securepacs.confidentiality import deidentify, reidentify
from securepacs.tokens.credential import Credential
from tests.support.cms_samples import Holder, holder
from tests.support.programs import require
from tests.support.samples import sample

FILES = ["CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm"]
CIPHERS = {"aes128-cbc": "--aes128", "aes192-cbc": "--aes192", "aes256-cbc": "--aes256", "des-ede3-cbc": "--des3"}


pytestmark = pytest.mark.interop


@pytest.fixture
def recipient(tmp_path: Path) -> Holder:
    """A recipient whose key.pem and cert.pem GDCM finds in the test's folder."""
    made = holder("researcher")
    made.write(tmp_path)
    return made


def gdcmanon(folder: Path, *arguments: str) -> None:
    command = [require("gdcmanon"), *arguments, "-c", "cert.pem", "-k", "key.pem"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("name", FILES)
def test_gdcm_re_identifies_ours(tmp_path: Path, recipient: Holder, name: str, cipher: str) -> None:
    original = pydicom.dcmread(sample(name))
    deidentify(sample(name), recipients=[recipient.certificate], cipher=cipher, output=tmp_path / "ours.dcm")
    gdcmanon(tmp_path, "-d", "ours.dcm", "back.dcm")
    back = pydicom.dcmread(tmp_path / "back.dcm")
    for keyword in ("PatientName", "PatientID", "StudyDate", "SOPInstanceUID", "StudyInstanceUID", "PixelData"):
        assert back[keyword].value == original[keyword].value, keyword
    assert "EncryptedAttributesSequence" not in back


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("name", FILES)
def test_we_re_identify_what_gdcm_made(tmp_path: Path, recipient: Holder, name: str, cipher: str) -> None:
    original = pydicom.dcmread(sample(name))
    gdcmanon(tmp_path, "-e", CIPHERS[cipher], str(sample(name)), "theirs.dcm")
    assert pydicom.dcmread(tmp_path / "theirs.dcm").PatientID != original.PatientID
    reidentify(tmp_path / "theirs.dcm", Credential(recipient.certificate, recipient.private_key), output=tmp_path / "back.dcm")
    back = pydicom.dcmread(tmp_path / "back.dcm")
    for keyword in ("PatientName", "PatientID", "StudyDate", "SOPInstanceUID", "StudyInstanceUID", "PixelData"):
        assert back[keyword].value == original[keyword].value, keyword
    assert back.PatientIdentityRemoved == "NO"
