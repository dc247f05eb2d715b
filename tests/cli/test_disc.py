"""`securepacs media publish` and `media open` of what it made, as a user calls them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from securepacs import codes
from securepacs.audit import Verdict, from_xml, grade, read_spool
from securepacs.audit.syslog import parse_record
from securepacs.cli.main import app
from securepacs.media.file_set import PAGE
from securepacs.pki import CertificateProfile
from tests.cli.test_audit import serving
from tests.support.archives import orthanc, qrscp
from tests.support.audit import TlsFiles
from tests.support.discs import STUDY, change, study_folder
from tests.support.net import free_port
from tests.support.pki import TestPki, make_pki, pem_of
from tests.support.programs import dcmtk, venv_program
from tests.support.samples import sample
from tests.support.softhsm import enrolled_token, token_credential

Keys = tuple[str | Path, ...]


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path / "pki")


@pytest.fixture
def doctor(pki: TestPki) -> Keys:
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee"))
    return "--key", key, "--cert", certificate


@pytest.fixture
def signer(pki: TestPki) -> Keys:
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim"))
    return "--sign-key", key, "--sign-cert", certificate


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return study_folder(tmp_path / "study")


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["media", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


@pytest.mark.parametrize("name", ["disc", "disc.iso"])
def test_publish_and_open(tmp_path: Path, pki: TestPki, doctor: Keys, signer: Keys, study: Path, name: str) -> None:
    disc, out, word = tmp_path / name, tmp_path / "out", tmp_path / "word"
    said = json.loads(run("publish", study, "-o", disc, "--to", doctor[3], "--new-password-file", word, *signer, "--json"))
    assert (said["instances"], said["manifests"], said["medium"]) == (4, 1, "iso" if name.endswith(".iso") else "usb")
    assert said["profile"].startswith("STD-GEN-SEC-")
    lines = run("open", disc, "-o", out, *doctor, "--trust", pki.write_trust(), "--json").splitlines()
    *files, whole = map(json.loads, lines)
    assert [facts["file"] for facts in files][:2] == ["DICOMDIR", "DICOM/D0000000/F0000000"]
    assert {(facts["integrity"], facts["origin"]) for facts in files} == {("signed", "proven")}
    assert (whole["origin"], whole["warnings"], whole["studies"][0]["verdict"]) == ("proven", [], "TOTAL-PASSED")
    shown = run("open", disc, "-o", tmp_path / "again", "--password-file", word)
    assert "origin not proven" in shown
    assert (tmp_path / "again" / "DICOM" / "D0000000" / "F0000002").read_bytes() == (study / "kimchulsoo_2.dcm").read_bytes()


def test_image_is_written_when_asked_for(tmp_path: Path, doctor: Keys, study: Path) -> None:
    run("publish", study, "--out", tmp_path / "disc", "--image", "iso", "--to", doctor[3])
    assert (tmp_path / "disc").is_file()
    run("open", tmp_path / "disc", "-o", tmp_path / "out", *doctor)
    assert (tmp_path / "out" / "DICOMDIR").is_file()


@pytest.mark.interop
def test_a_card_signs_and_opens_a_disc(tmp_path: Path, study: Path) -> None:
    token, pki = enrolled_token()
    pin = tmp_path / "pin"
    pin.write_text(token.pin)
    pin.chmod(0o600)
    card = ("--token", token.uri.replace("?", ";object=rsa-2048?"), "--pin-file", pin)
    certificate = tmp_path / "card.pem"
    with token_credential("rsa-2048") as mine:
        certificate.write_bytes(pem_of(mine.certificate))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pem_of(pki.ca.issuing))
    run("publish", study, "-o", tmp_path / "disc", "--to", certificate, *card, "--chain", chain)
    run("open", tmp_path / "disc", "-o", tmp_path / "out", *card, "--trust", pki.write_trust(tmp_path))
    assert len(list((tmp_path / "out").rglob("F*"))) == 4


def test_the_export_is_recorded_before_the_disc_is_there(tmp_path: Path, doctor: Keys, signer: Keys, study: Path) -> None:
    disc, spool = tmp_path / "disc.iso", tmp_path / "spool"
    said = json.loads(
        run("publish", study, "-o", disc, "--to", doctor[3], *signer, "--audit-spool", spool, "--audit-source", "burner", "--json")
    )
    (record,) = read_spool(spool)
    message = from_xml(parse_record(record).msg)
    assert message.EventIdentification.EventID.csd_code == "110106"
    assert message.AuditSourceIdentification.AuditSourceID == "burner"
    (media,) = [each for each in message.ActiveParticipant if each.MediaType is not None]
    assert (media.UserID, media.AlternativeUserID, media.MediaType) == (disc.as_uri(), said["label"], codes.CD)
    assert codes.DESTINATION_MEDIA in media.RoleIDCode
    assert not media.UserIsRequestor
    objects = {each.ParticipantObjectID: each for each in message.ParticipantObjectIdentification}
    assert set(objects) == {STUDY, "PATIENT-4711"}
    described = objects[STUDY].ParticipantObjectDescription
    assert described is not None
    assert grade(record).verdict is Verdict.CONFORMANT
    assert (described.Encrypted, described.Accession) == (True, ("ACC0815",))
    assert sorted(each.NumberOfInstances for each in described.SOPClass) == [1, 3]


def test_what_a_user_can_get_wrong(tmp_path: Path, doctor: Keys, study: Path) -> None:
    to = ("--to", doctor[3])
    assert "nobody could open" in run("publish", study, "-o", tmp_path / "disc", code=2)
    assert "say what to publish" in run("publish", "-o", tmp_path / "disc", *to, code=2)
    assert "say what to publish" in run("publish", study, "-o", tmp_path / "disc", *to, "--pacs", "A@h:1", "--study", "1.2", code=2)
    assert "AET@HOST:PORT" in run("publish", "-o", tmp_path / "disc", *to, "--pacs", "nonsense", "--study", "1.2", code=2)
    assert "no folder" in run("publish", study, "-o", tmp_path / "no" / "disc", *to, code=2)
    assert "weaker than" in _with_password(tmp_path, study, "hospital", code=2)
    change(study / "kimchulsoo_1.dcm", PatientID="OTHER-1")
    said = run("publish", study, "-o", tmp_path / "disc", *to, "--new-password-file", tmp_path / "word", code=2)
    assert "another patient" in said
    assert "OTHER-1" not in said
    assert not (tmp_path / "word").exists()  # it would open nothing
    assert not (tmp_path / "disc").exists()


def test_a_passphrase_that_is_there_already_is_kept(tmp_path: Path, study: Path) -> None:
    word = tmp_path / "word"
    word.write_text("of another disc")
    said = run("publish", study, "-o", tmp_path / "disc", "--new-password-file", word, code=2)
    assert "does not exist" in said
    assert word.read_text() == "of another disc"
    assert not (tmp_path / "disc").exists()


def _with_password(tmp_path: Path, study: Path, text: str, *, code: int) -> str:
    word = tmp_path / "weak"
    word.write_text(text)
    word.chmod(0o600)
    return run("publish", study, "-o", tmp_path / "disc", "--password-file", word, code=code)


def test_a_damaged_disc_opens_in_part_when_asked(tmp_path: Path, doctor: Keys, signer: Keys, study: Path) -> None:
    disc = tmp_path / "disc"
    run("publish", study, "-o", disc, "--to", doctor[3], *signer)
    (disc / "DICOM" / "D0000000" / "F0000001").write_bytes(b"\0" * 1000)
    run("open", disc, "-o", tmp_path / "out", *doctor, code=3)
    assert not (tmp_path / "out").exists()
    said = run("open", disc, "-o", tmp_path / "out", *doctor, "--unsafe-incomplete", code=3)
    assert "F0000001" in said
    assert sorted(path.name for path in (tmp_path / "out").rglob("F*")) == ["F0000000", "F0000002", "F0000003"]


# --- from archives, and into the hands of other programs ------------------------------------------------------------------


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["orthanc", "qrscp"])
def test_a_study_of_an_archive_is_published(tmp_path: Path, doctor: Keys, signer: Keys, study: Path, kind: str) -> None:
    from securepacs.pacs import DimseConnector

    with {"orthanc": orthanc, "qrscp": qrscp}[kind](tmp_path / "archive") as archive:
        DimseConnector("127.0.0.1", archive.port, called_ae_title=archive.ae_title).store(sorted(study.iterdir()))
        source = ("--pacs", f"{archive.ae_title}@127.0.0.1:{archive.port}")
        run("publish", "-o", tmp_path / "disc", *source, "--study", STUDY, "--to", doctor[3], *signer)
        assert "no study" in run("publish", "-o", tmp_path / "other", *source, "--study", "1.2.3", "--to", doctor[3], code=2)
    run("open", tmp_path / "disc", "-o", tmp_path / "out", *doctor)
    got = {dcmread(path).SOPInstanceUID for path in (tmp_path / "out").rglob("F*")}
    assert {dcmread(path).SOPInstanceUID for path in study.iterdir()} < got


@pytest.mark.interop
def test_a_study_is_fetched_by_c_move(tmp_path: Path, doctor: Keys, signer: Keys, study: Path) -> None:
    from securepacs.pacs import DimseConnector

    port = free_port()
    with orthanc(tmp_path / "archive", modalities={"BURNER": ("127.0.0.1", port)}) as archive:
        DimseConnector("127.0.0.1", archive.port, called_ae_title=archive.ae_title).store(sorted(study.iterdir()))
        source = ("--pacs", f"{archive.ae_title}@127.0.0.1:{archive.port}", "--study", STUDY, "--calling", "BURNER")
        run("publish", "-o", tmp_path / "disc", *source, "--move-port", str(port), "--to", doctor[3], *signer)
    run("open", tmp_path / "disc", "-o", tmp_path / "out", *doctor)
    got = {dcmread(path).SOPInstanceUID for path in (tmp_path / "out").rglob("F*")}
    assert {dcmread(path).SOPInstanceUID for path in study.iterdir()} < got


@pytest.mark.interop
def test_dcmtk_takes_the_opened_directory(tmp_path: Path, doctor: Keys, signer: Keys, study: Path) -> None:
    run("publish", study, "-o", tmp_path / "disc.iso", "--to", doctor[3], *signer)
    out = tmp_path / "out"
    run("open", tmp_path / "disc.iso", "-o", out, *doctor)
    dump = subprocess.run([dcmtk("dcmdump"), "DICOMDIR"], cwd=out, capture_output=True, text=True, check=False, timeout=60)
    assert (dump.returncode, dump.stderr) == (0, "")
    assert "KEY OBJECT DOC" in dump.stdout
    change(study / "kimchulsoo_0.dcm", SOPInstanceUID=f"{STUDY}.9.9")
    (out / "NEW").write_bytes((study / "kimchulsoo_0.dcm").read_bytes())
    append = [dcmtk("dcmmkdir"), "--append", "--general-purpose", "--invent", "NEW"]
    made = subprocess.run(append, cwd=out, capture_output=True, text=True, check=False, timeout=60)
    assert (made.returncode, made.stderr) == (0, "")
    images = [each for each in dcmread(out / "DICOMDIR").DirectoryRecordSequence if each.DirectoryRecordType == "IMAGE"]
    assert len(images) == 4


@pytest.mark.interop
def test_dciodvfy_finds_no_new_error(tmp_path: Path, doctor: Keys, signer: Keys, study: Path) -> None:
    for name in ("MR_small_implicit.dcm", "rtplan.dcm", "reportsi.dcm"):
        shutil.copy(sample(name), study)
    run("publish", study, "-o", tmp_path / "disc", "--to", doctor[3], *signer, "--several-patients")
    run("open", tmp_path / "disc", "-o", tmp_path / "out", *doctor)
    before = {dcmread(path).SOPInstanceUID: _errors(path) for path in study.iterdir()}
    after = {dcmread(path).SOPInstanceUID: _errors(path) for path in (tmp_path / "out").rglob("F*")}
    assert any(before.values())  # the samples are not without fault, and the program finds it
    assert {uid: after.pop(uid) - errors for uid, errors in before.items()} == dict.fromkeys(before, frozenset())
    known = frozenset().union(*before.values())  # what is copied from the samples, for example a UID
    assert {errors - known for errors in after.values()} == {frozenset()}  # manifests
    assert _errors(tmp_path / "out" / "DICOMDIR") <= known


def _errors(path: Path) -> frozenset[str]:
    said = subprocess.run([venv_program("dciodvfy"), path], capture_output=True, text=True, check=False, timeout=60)
    return frozenset(line for line in (said.stdout + said.stderr).splitlines() if "Error" in line)


def test_the_page_lies_on_discs_with_a_password_only(tmp_path: Path, doctor: Keys, study: Path) -> None:
    run("publish", study, "-o", tmp_path / "keys", "--to", doctor[3])
    run("publish", study, "-o", tmp_path / "word", "--new-password-file", tmp_path / "passphrase")
    assert not (tmp_path / "keys" / PAGE).exists()
    assert (tmp_path / "word" / PAGE).is_file()


@pytest.mark.interop
def test_the_record_reaches_a_repository_or_waits_for_it(tmp_path: Path, pki: TestPki, doctor: Keys, study: Path) -> None:
    files = TlsFiles(pki, tmp_path / "tls")
    store, spool = f"sqlite:///{tmp_path}/audit.db", ("--audit-spool", tmp_path / "spool")
    keys = ("--audit-cert", files.client_cert, "--audit-key", files.client_key, "--audit-trust", files.trust)
    assert "--audit-to needs" in run(
        "publish", study, "-o", tmp_path / "no", "--to", doctor[3], "--audit-to", "localhost:1", code=2
    )
    run("publish", study, "-o", tmp_path / "one", "--to", doctor[3], *spool)  # nobody to send it to
    with serving(store, files) as (address, _):
        to = ("--audit-to", address.replace("127.0.0.1", "localhost"))
        run("publish", study, "-o", tmp_path / "two", "--to", doctor[3], *spool, *keys, *to)
        found = CliRunner().invoke(app, ["audit", "search", "--store", store, "--event", "110106", "--json"])
    assert len(found.stdout.splitlines()) == 2
