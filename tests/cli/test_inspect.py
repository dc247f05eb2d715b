from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from typer.testing import CliRunner

from securepacs import signatures
from securepacs.cli.main import app
from tests.support.samples import new_instance, sample
from tests.support.signing import signed_sample, signer


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


def test_references_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "ko.dcm"
    path.write_bytes(signatures.manifest([new_instance("CT_small.dcm", 1)], signer()))
    (reference,) = json.loads(run(path, "--json"))["references"]
    assert reference["sop_instance_uid"] == "1.2.826.0.1.3680043.10.999.1.1.1"
    assert (reference["mac_algorithm"], reference["signature_uids"]) == ("SHA256", [])
    assert "7FE00010" in reference["signed_tags"]
    said = run(path)
    assert "refers to 1.2.826.0.1.3680043.10.999.1.1.1 by MAC SHA256 over" in said
    assert "Author Signature" in said


def test_references_that_cannot_be_read_are_said_to_be_so(tmp_path: Path) -> None:
    document = dcmread(BytesIO(signatures.manifest([new_instance("CT_small.dcm", 1)], signer())))
    item = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    del item.ReferencedSOPInstanceUID
    document.save_as(tmp_path / "ko.dcm")
    assert "its references cannot be read" in run(tmp_path / "ko.dcm")


def test_a_file_without_signature() -> None:
    assert "0 signatures" in run(sample("MR_small.dcm"))


def test_what_is_no_file_or_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    run(tmp_path / "text", expect=3)
    run(tmp_path, expect=2)
    run(tmp_path / "absent", expect=2)
