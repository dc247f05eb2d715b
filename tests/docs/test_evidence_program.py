"""The program of docs/how-to/keep-signatures-verifiable.md, run as it stands there against a real time stamp authority."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from securepacs.pki import CertificateProfile, serve
from securepacs.signatures.evidence import sidecar_of
from tests.support.pki import make_pki, pem_of
from tests.support.samples import sample
from tests.support.signing import signed_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "keep-signatures-verifiable.md"


@pytest.mark.e2e
def test_program_collects_and_verifies(tmp_path: Path) -> None:
    own = make_pki(tmp_path)
    own.write_trust()
    (tmp_path / "issuing.pem").write_bytes(pem_of(own.ca.issuing))
    image = tmp_path / "a.dcm"
    image.write_bytes(signed_bytes(sample("CT_small.dcm").read_bytes(), own.credential(CertificateProfile.RADIOLOGIST, "Dr. Page")))
    (program,) = re.findall(r"```python keep_evidence\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with serve(own.ca, port=0) as server:
        command = [sys.executable, "-c", program, str(image), f"{server.url}/tsa"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("TOTAL-PASSED 20")
    assert sidecar_of(image).exists()
