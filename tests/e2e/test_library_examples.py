"""The programs of the how-to pages about the library, run from the built wheel and not from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from securepacs import audit, signatures
from securepacs.pki import CertificateProfile
from securepacs.signatures.manifests import build_manifest
from securepacs.trust import TrustPolicy
from tests.support.net import free_port, wait_for_port
from tests.support.pki import make_pki, pem_of
from tests.support.programs import dcmtk
from tests.support.samples import new_instance

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = ("use-the-library.md", "sign-in-a-pynetdicom-handler.md", "publish-a-disc.md")
PAGES = [REPOSITORY / "docs" / "how-to" / name for name in EXAMPLES]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds nothing but the unpacked wheel."""
    work = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(REPOSITORY)],
        check=True,
        capture_output=True,
    )
    (built,) = work.glob("securepacs-*.whl")
    site = work / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(built)],
        check=True,
        capture_output=True,
    )
    return site


@pytest.fixture
def environment(wheel: Path, tmp_path: Path) -> dict[str, str]:
    """Write the pages' programs and the keys they name; return the environment that finds the wheel first."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, program in re.findall(r"^```python (\w+\.py)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(program, encoding="utf-8")
    pki = make_pki(tmp_path / "pki")
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.MODALITY, "ct1.hospital.example"), tmp_path / "device")
    shutil.copy(key, tmp_path / "device.key")
    shutil.copy(certificate, tmp_path / "device.pem")
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee"), tmp_path / "lee")
    shutil.copy(key, tmp_path / "dr-lee.key")
    shutil.copy(certificate, tmp_path / "dr-lee.pem")
    pki.write_trust(tmp_path)
    (tmp_path / "issuing.pem").write_bytes(pem_of(pki.ca.issuing))
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    where = subprocess.run(
        [sys.executable, "-c", "import securepacs, securepacs_proxy; print(securepacs.__file__, securepacs_proxy.__file__)"],
        env=environment, cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert all(path.startswith(str(wheel)) for path in where)
    return environment


@pytest.mark.e2e
@pytest.mark.parametrize("program", ["sign_in_handler.py", "sign_received_bytes.py"])
def test_sign_in_a_handler_then_verify_the_dataset(program: str, environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    image = get_testdata_file("CT_small.dcm", download=False)
    signer = subprocess.Popen([sys.executable, program, str(port)], cwd=tmp_path, env=environment)
    try:
        wait_for_port(port)
        subprocess.run([dcmtk("storescu"), "127.0.0.1", str(port), str(image)], check=True, timeout=60)
    finally:
        signer.terminate()
        signer.wait(timeout=30)
    stored = tmp_path / f"{pydicom.dcmread(str(image)).SOPInstanceUID}.dcm"
    result = subprocess.run(
        [sys.executable, "verify_dataset.py", str(stored)],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.splitlines()[-1] == "TOTAL-PASSED"


@pytest.mark.e2e
def test_a_report_that_vouches_for_its_images(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    raw = new_instance("CT_small.dcm", 1)
    (tmp_path / "images" / "1.dcm").write_bytes(raw)
    document = build_manifest([raw], at=datetime.now(UTC))
    for item in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence:
        del item.ReferencedSOPInstanceMACSequence
    document.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    command = [sys.executable, "sign_report.py", "report.dcm", "images"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    policy = TrustPolicy.from_files([tmp_path / "root.pem"], intermediates=[tmp_path / "issuing.pem"])
    report = signatures.evaluate(tmp_path / "signed-report.dcm", policy, references=tmp_path / "images", require=["sr"])
    assert (report.verdict, [str(one.outcome) for one in report.references]) == ("TOTAL-PASSED", ["matches"])


@pytest.mark.e2e
def test_a_disc_is_published_and_opened(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "STUDY").mkdir()
    for number in (1, 2):
        (tmp_path / "STUDY" / f"{number}.dcm").write_bytes(new_instance("CT_small.dcm", number))
    command = [sys.executable, "publish_and_open.py"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60, capture_output=True, text=True)
    assert result.stdout.splitlines() == ["not proven", "1.2.826.0.1.3680043.10.999.1 2 0"]


@pytest.mark.e2e
def test_audit_from_logging(environment: dict[str, str], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "audit_from_logging.py"], cwd=tmp_path, env=environment, check=True, timeout=60)
    records = list(audit.read_spool(tmp_path / "spool"))
    assert len(records) == 1
    assert b"lee@hospital.example" in records[0]


def test_the_examples_are_short(environment: dict[str, str], tmp_path: Path) -> None:
    for program in tmp_path.glob("*.py"):
        lines = [
            line
            for line in program.read_text(encoding="utf-8").splitlines()
            if line.strip() and not line.startswith(("import", "from"))
        ]
        assert len(lines) <= (20 if program.name == "sign_received_bytes.py" else 10)  # error handling is its point
