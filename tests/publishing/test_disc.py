"""Discs: made, looked at from outside, opened again, and refused when they should not be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from securepacs import media
from securepacs.cms.passwords import Password
from securepacs.errors import (
    IntegrityFailure,
    MalformedError,
    NoMatchingRecipient,
    PasswordIncorrect,
    SecurePacsError,
    Unavailable,
    UsageError,
    VerificationError,
)
from securepacs.media import passphrase
from securepacs.media.application_profiles import Medium
from securepacs.media.file_ids import is_legal
from securepacs.media.file_set import PAGE, Sealing
from securepacs.media.page import page
from securepacs.originals import Evidence, OriginalRegistry, SqlRegistry, create, facts_of, read_stamp
from securepacs.pki import CertificateProfile
from securepacs.publishing import is_disc, open_disc, publish
from securepacs.publishing.opening import volume_at
from securepacs.signatures.manifests import read_manifest
from securepacs.store import open_store
from securepacs.tokens.credential import Credential
from tests.support.cms_samples import holder
from tests.support.discs import STUDY, change, study_folder, telling_values
from tests.support.pki import TestPki, make_pki
from tests.support.programs import require
from tests.support.samples import flip_pixel, sample

MEDIA = pytest.mark.parametrize("medium", list(Medium))


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path)


@pytest.fixture
def hospital(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")


@pytest.fixture
def doctor(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return study_folder(tmp_path / "study")


@pytest.fixture(scope="module")
def secret() -> tuple[str, Password]:
    text = media.generate_passphrase()
    return text, passphrase.shared(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def image_bytes(output: Path, medium: Medium) -> bytes:
    """Everything a finder of the medium sees: contents and names."""
    if medium is Medium.CD:
        return output.read_bytes()
    return b"\0".join(name.encode() + b"\0" + content for name, content in contents(output).items())


@MEDIA
def test_a_disc_opens_for_everybody_it_is_for(
    tmp_path: Path,
    pki: TestPki,
    hospital: Credential,
    doctor: Credential,
    study: Path,
    medium: Medium,
    secret: tuple[str, Password],
) -> None:
    disc, sealing = tmp_path / "disc", Sealing([doctor.certificate], secret[1], hospital, at=pki.now)
    made = publish([study], disc, sealing, medium=medium, at=pki.now)
    assert (made.instances, made.studies, made.manifests) == (4, 1, 1)
    assert made.profile == {Medium.CD: "STD-GEN-SEC-CD", Medium.USB: "STD-GEN-SEC-USB-JPEG"}[medium]
    assert is_disc(disc)
    by_key = open_disc(disc, tmp_path / "by-key", doctor, policy=pki.policy(), at=pki.now)
    assert (by_key.origin, by_key.warnings) == ("proven", ())
    (report,) = by_key.studies
    assert (report.verdict, len(report.unchanged)) == ("TOTAL-PASSED", 3)
    by_password = open_disc(disc, tmp_path / "by-password", password=passphrase.entered(secret[0]), at=pki.now)
    assert (by_password.origin, by_password.warnings) == ("not proven", ())
    assert contents(tmp_path / "by-key") == contents(tmp_path / "by-password")
    opened = [member.path for member in by_key.file_set.members[1:]]
    assert {path.read_bytes() for path in study.iterdir()} < {path.read_bytes() for path in opened}
    assert read_manifest(opened[-1].read_bytes()).study_instance_uid == STUDY
    assert read_manifest(opened[-1].read_bytes()).title == ("113031", "DCM")


@MEDIA
def test_every_file_but_the_page_is_secure_and_named_legally(
    tmp_path: Path,
    pki: TestPki,
    hospital: Credential,
    doctor: Credential,
    study: Path,
    medium: Medium,
    secret: tuple[str, Password],
) -> None:
    publish([study], tmp_path / "disc", Sealing([doctor.certificate], secret[1], hospital, at=pki.now), medium=medium, at=pki.now)
    with volume_at(tmp_path / "disc") as volume:
        names = list(volume.names())
        assert len(names) == 6
        for name in names:
            if name == (PAGE,):
                continue
            assert is_legal(name)
            found = volume.find(name)
            assert found is not None
            described = media.inspect(found)
            assert (described.kind, described.profile) == ("secure", "PS3.15 D.1")
            assert sorted(recipient.kind for recipient in described.recipients) == ["ktri", "pwri"]


@MEDIA
def test_nothing_of_the_study_shows_anywhere_on_the_medium(
    tmp_path: Path,
    pki: TestPki,
    hospital: Credential,
    doctor: Credential,
    study: Path,
    medium: Medium,
    secret: tuple[str, Password],
) -> None:
    disc, opened = tmp_path / "disc", tmp_path / "opened"
    publish([study], disc, Sealing([doctor.certificate], secret[1], hospital, at=pki.now), medium=medium, at=pki.now)
    open_disc(disc, opened, doctor, at=pki.now)
    values = telling_values(path for path in opened.rglob("*") if path.is_file())
    names = {path.stem.encode() for path in study.iterdir()} | {study.name.encode(), b"kimchulsoo"}
    assert len(values) > 60
    assert {b"PATIENT-4711", STUDY.encode(), b"Kim^Chulsoo"} < values
    seen, readable = image_bytes(disc, medium), page()
    assert seen.count(readable) == 1  # the same on every disc: its words, some of them terms of DICOM, say nothing about this one
    seen = seen.replace(readable, b"").lower()
    assert [value for value in values | names if value.lower() in seen] == []


@pytest.mark.interop
def test_another_reader_of_images_finds_the_same_files(tmp_path: Path, doctor: Credential, study: Path) -> None:
    publish([study], tmp_path / "disc.iso", Sealing([doctor.certificate]), medium=Medium.CD)
    out = tmp_path / "extracted"
    out.mkdir()
    subprocess.run([require("bsdtar"), "-xf", tmp_path / "disc.iso", "-C", out], check=True, timeout=60)
    assert sorted(contents(out)) == ["DICOM/D0000000/F0000000", "DICOM/D0000000/F0000001", "DICOM/D0000000/F0000002", "DICOMDIR"]
    open_disc(out, tmp_path / "from-folder", doctor)
    open_disc(tmp_path / "disc.iso", tmp_path / "from-image", doctor)
    assert contents(tmp_path / "from-folder") == contents(tmp_path / "from-image")


def test_the_password_costs_one_derivation(tmp_path: Path, pki: TestPki, study: Path, secret: tuple[str, Password]) -> None:
    publish([study], tmp_path / "disc", Sealing(password=secret[1]), at=pki.now)
    entered = passphrase.entered(secret[0])
    open_disc(tmp_path / "disc", tmp_path / "out", password=entered, at=pki.now)
    assert len(entered._keys) == 1


def test_who_it_is_not_for_gets_nothing(
    tmp_path: Path, pki: TestPki, doctor: Credential, hospital: Credential, study: Path
) -> None:
    disc, out = tmp_path / "disc", tmp_path / "out"
    publish([study], disc, Sealing([doctor.certificate], passphrase.shared(media.generate_passphrase()), at=pki.now), at=pki.now)
    with pytest.raises(NoMatchingRecipient):
        open_disc(disc, out, hospital)
    with pytest.raises(PasswordIncorrect):
        open_disc(disc, out, password=passphrase.entered(media.generate_passphrase()))
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_a_signer_nobody_vouches_for_the_disc(tmp_path: Path, pki: TestPki, doctor: Credential, study: Path) -> None:
    made = publish([study], tmp_path / "disc", Sealing([doctor.certificate], at=pki.now), at=pki.now)
    assert (made.manifests, made.instances) == (0, 3)
    assert not (tmp_path / "disc" / PAGE).exists()  # nobody could use it
    opened = open_disc(tmp_path / "disc", tmp_path / "out", doctor, at=pki.now)
    assert opened.warnings == ("no-manifest",)
    with pytest.raises(VerificationError, match="nobody signed"):
        open_disc(tmp_path / "disc", tmp_path / "trusted", doctor, policy=pki.policy(), at=pki.now)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "keyword"),
    [
        ({"PatientID": "PATIENT-4712"}, "PatientID"),
        ({"PatientName": "Park^Chulsoo"}, "PatientName"),
        ({"PatientBirthDate": "19010101"}, "PatientBirthDate"),
    ],
)
def test_one_file_of_another_patient_is_refused(
    tmp_path: Path, doctor: Credential, study: Path, elements: dict[str, str], keyword: str
) -> None:
    for path in study.iterdir():
        change(path, PatientBirthDate="19700101")
    change(study / "kimchulsoo_1.dcm", **elements)
    sealing = Sealing([doctor.certificate])
    with pytest.raises(UsageError, match=f"another patient .* {keyword} differs") as refused:
        publish([study], tmp_path / "disc", sealing)
    assert not any(value in str(refused.value) for value in (*elements.values(), "PATIENT-4711"))
    assert not (tmp_path / "disc").exists()
    assert publish([study], tmp_path / "disc", sealing, several_patients=True).instances == 3


def test_patients_are_told_apart_whichever_file_comes_first(tmp_path: Path, doctor: Credential, study: Path) -> None:
    """The first file says nothing about the birth date: the other two must still agree."""
    change(study / "kimchulsoo_0.dcm", PatientBirthDate="")
    change(study / "kimchulsoo_1.dcm", PatientBirthDate="19700101")
    change(study / "kimchulsoo_2.dcm", PatientBirthDate="19800101")
    with pytest.raises(UsageError, match="PatientBirthDate differs"):
        publish([study], tmp_path / "disc", Sealing([doctor.certificate]))


def test_without_patient_ids_names_tell_patients_apart(tmp_path: Path, doctor: Credential, study: Path) -> None:
    for path in study.iterdir():
        change(path, PatientID="")
    assert publish([study], tmp_path / "same", Sealing([doctor.certificate])).instances == 3
    change(study / "kimchulsoo_1.dcm", PatientName="")
    with pytest.raises(UsageError, match="PatientName differs"):
        publish([study], tmp_path / "disc", Sealing([doctor.certificate]))


def test_a_name_in_another_spelling_is_the_same_patient(tmp_path: Path, doctor: Credential, study: Path) -> None:
    change(study / "kimchulsoo_1.dcm", PatientName="KIM^CHULSOO^^")
    assert publish([study], tmp_path / "disc", Sealing([doctor.certificate])).instances == 3


def test_the_same_instance_twice_is_refused(tmp_path: Path, doctor: Credential, study: Path) -> None:
    shutil.copy(study / "kimchulsoo_0.dcm", study / "again.dcm")
    with pytest.raises(UsageError, match="same instance"):
        publish([study], tmp_path / "disc", Sealing([doctor.certificate]))


def test_what_is_not_dicom_is_refused_or_left_out(tmp_path: Path, doctor: Credential, study: Path) -> None:
    (study / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    shutil.copy(sample("CT_small.dcm").parent / "dicomdirtests" / "DICOMDIR", study / "DICOMDIR")
    with pytest.raises(MalformedError, match="not a DICOM file"):
        publish([study], tmp_path / "disc", Sealing([doctor.certificate]))
    made = publish([study], tmp_path / "disc", Sealing([doctor.certificate]), skip_others=True)
    assert (made.instances, made.left_out) == (3, (str(study / "viewer.exe"),))


def test_meta_information_that_names_another_instance_is_put_right(
    tmp_path: Path, pki: TestPki, hospital: Credential, doctor: Credential, study: Path
) -> None:
    path = study / "kimchulsoo_1.dcm"
    dataset = dcmread(path)
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.file_meta.SourceApplicationEntityTitle = "CT1"
    dataset.save_as(path, enforce_file_format=False)
    assert dcmread(path).file_meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    publish([study], tmp_path / "disc", Sealing([doctor.certificate], signer=hospital, at=pki.now), at=pki.now)
    opened = open_disc(tmp_path / "disc", tmp_path / "out", doctor, policy=pki.policy(), at=pki.now)
    after = dcmread(opened.file_set.members[2].path)
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID == dataset.SOPInstanceUID
    assert after.file_meta.SourceApplicationEntityTitle == "CT1"
    assert after.to_json() == dataset.to_json()


def test_a_file_that_no_directory_can_name_is_named(tmp_path: Path, doctor: Credential) -> None:
    path = tmp_path / "report.dcm"
    shutil.copy(sample("reportsi.dcm"), path)
    dataset = dcmread(path)
    del dataset.VerificationFlag
    dataset.save_as(path)
    with pytest.raises(MalformedError, match=r"report.dcm: .*SR DOCUMENT"):
        publish([path], tmp_path / "disc", Sealing([doctor.certificate]))
    assert not (tmp_path / "disc").exists()


def test_an_executable_preamble_is_refused(tmp_path: Path, doctor: Credential, study: Path) -> None:
    path = study / "kimchulsoo_2.dcm"
    path.write_bytes(b"MZ" + path.read_bytes()[2:])
    with pytest.raises(MalformedError, match="preamble"):
        publish([study], tmp_path / "disc", Sealing([doctor.certificate]))
    assert not (tmp_path / "disc").exists()


def test_a_place_that_holds_something_is_refused(tmp_path: Path, doctor: Credential, study: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "letter.txt").write_text("mine")
    for medium in Medium:
        with pytest.raises(UsageError, match=r"not empty|there already"):
            publish([study], stick, Sealing([doctor.certificate]), medium=medium)
    (stick / "letter.txt").unlink()
    (stick / "System Volume Information").mkdir()
    publish([study], stick, Sealing([doctor.certificate]))
    assert sorted(path.name for path in stick.iterdir()) == ["DICOM", "DICOMDIR", "System Volume Information"]
    with pytest.raises(UsageError, match="not empty"):
        publish([study], stick, Sealing([doctor.certificate]))


def test_transfer_syntaxes_of_no_profile_are_refused(tmp_path: Path, doctor: Credential) -> None:
    sealing, jpeg, rle = Sealing([doctor.certificate]), sample("SC_rgb_jpeg_dcmtk.dcm"), sample("SC_rgb_rle.dcm")
    with pytest.raises(UsageError, match="no secure application profile"):
        publish([jpeg], tmp_path / "disc", sealing, medium=Medium.CD)
    assert publish([jpeg], tmp_path / "jpeg", sealing).profile == "STD-GEN-SEC-USB-JPEG"
    assert publish([sample("JPEG2000.dcm")], tmp_path / "j2k", sealing).profile == "STD-GEN-SEC-USB-J2K"
    with pytest.raises(UsageError, match="no secure application profile"):
        publish([rle], tmp_path / "disc", sealing)
    assert publish([rle], tmp_path / "disc", sealing, any_transfer_syntax=True).profile == ""


def test_extensions_claim_no_profile(tmp_path: Path, doctor: Credential, study: Path) -> None:
    assert publish([study], tmp_path / "curve", Sealing([doctor.certificate, holder("curve", "p256").certificate])).profile == ""
    assert publish([study], tmp_path / "gcm", Sealing([doctor.certificate], cipher="aes256-gcm")).profile == ""
    assert publish([study], tmp_path / "oaep", Sealing([doctor.certificate], key_transport="oaep")).profile == ""


@pytest.mark.parametrize("name", ["MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "rtplan.dcm"])
def test_native_files_leave_in_explicit_vr_little_endian(
    tmp_path: Path, pki: TestPki, hospital: Credential, doctor: Credential, name: str
) -> None:
    publish([sample(name)], tmp_path / "disc", Sealing([doctor.certificate], signer=hospital, at=pki.now), at=pki.now)
    opened = open_disc(tmp_path / "disc", tmp_path / "out", doctor, policy=pki.policy(), at=pki.now)
    before, after = dcmread(sample(name)), dcmread(opened.file_set.members[1].path)
    assert after.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert after.SOPInstanceUID == before.SOPInstanceUID
    if "PixelData" in before and name != "MR_small_bigendian.dcm":
        assert after.PixelData == before.PixelData


@pytest.mark.parametrize("status", ["OR", "AO", "AC"])
def test_nothing_leaves_as_an_original(tmp_path: Path, doctor: Credential, study: Path, status: str) -> None:
    change(study / "kimchulsoo_0.dcm", SOPInstanceStatus=status, SOPAuthorizationDateTime="20240101120000")
    for name, authorized_copies in (("plain", False), ("copies", True)):
        publish([study], tmp_path / name, Sealing([doctor.certificate]), authorized_copies=authorized_copies)
        opened = open_disc(tmp_path / name, tmp_path / f"{name}-out", doctor)
        stamps = [read_stamp(member.path.read_bytes()).status.value for member in opened.file_set.members[1:]]
        assert stamps == [status if (status, authorized_copies) == ("AC", True) else "NS", "NS", "NS"]


def test_authorized_originals_leave_as_copies(tmp_path: Path, pki: TestPki, doctor: Credential, study: Path) -> None:
    """PS3.15 A.1, T5 and T6: the registry knows what is an original, and what an authorized copy is of."""
    registry = SqlRegistry(open_store(f"sqlite:///{tmp_path / 'store.db'}"))
    files = sorted(study.iterdir())
    _create(files[:1], registry, pki)
    facts = facts_of(files[0].read_bytes())
    expected_facts = {facts.sop_instance_uid: facts.content_sha256}
    registry.authorize(expected_facts, at=pki.now, actor="Dr. Kim", evidence=Evidence("1.2.3.4", "1.2.3.5"))
    _create(files[1:], registry, pki)
    for name, authorized_copies, expected in (("plain", False, "NS"), ("copies", True, "AC")):
        disc, out = tmp_path / name, tmp_path / f"{name}-out"
        publish([study], disc, Sealing([doctor.certificate]), registry=registry, authorized_copies=authorized_copies)
        opened = open_disc(disc, out, doctor)
        assert [read_stamp(member.path.read_bytes()).status.value for member in opened.file_set.members[1:]] == [
            expected,
            "NS",
            "NS",
        ]
    files[0].write_bytes(flip_pixel(files[0].read_bytes()))
    with pytest.raises(IntegrityFailure, match="differs from what was registered"):
        publish([study], tmp_path / "changed", Sealing([doctor.certificate]), registry=registry)
    assert not (tmp_path / "changed").exists()


def _create(files: list[Path], registry: OriginalRegistry, pki: TestPki) -> None:
    for path, data in zip(files, create(files, registry, holder="CT1", at=pki.now), strict=True):
        path.write_bytes(data)


# --- discs that were changed -----------------------------------------------------------------------------------------------


@pytest.fixture
def disc(tmp_path: Path, pki: TestPki, hospital: Credential, doctor: Credential, study: Path) -> Path:
    publish([study], tmp_path / "disc", Sealing([doctor.certificate], signer=hospital, at=pki.now), at=pki.now)
    return tmp_path / "disc"


FIRST, SECOND = Path("DICOM/D0000000/F0000000"), Path("DICOM/D0000000/F0000001")


def test_a_missing_file_is_noticed(tmp_path: Path, doctor: Credential, disc: Path) -> None:
    (disc / SECOND).unlink()
    with pytest.raises(VerificationError, match="not on the medium"):
        open_disc(disc, tmp_path / "out", doctor)
    assert not (tmp_path / "out").exists()
    rest = open_disc(disc, tmp_path / "out", doctor, allow_incomplete=True)
    assert rest.warnings == ("incomplete",)
    assert len(rest.studies[0].missing) == 1
    assert not (tmp_path / "out" / SECOND).exists()


def test_exchanged_files_are_noticed(tmp_path: Path, doctor: Credential, disc: Path) -> None:
    one, other = (disc / FIRST).read_bytes(), (disc / SECOND).read_bytes()
    (disc / FIRST).write_bytes(other)
    (disc / SECOND).write_bytes(one)
    with pytest.raises(IntegrityFailure, match="not the instance"):
        open_disc(disc, tmp_path / "out", doctor)
    assert not (tmp_path / "out").exists()


def test_a_changed_image_is_noticed_whoever_encrypted_it(
    tmp_path: Path, pki: TestPki, hospital: Credential, doctor: Credential, disc: Path
) -> None:
    """Everybody can encrypt for the doctor, and sign as themselves: only the manifest tells."""
    changed = flip_pixel(media.open(disc / FIRST, doctor).content)
    stranger = pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Mr. Park")
    for signer in (None, stranger):
        media.protect(changed, recipients=[doctor.certificate], signer=signer, output=disc / FIRST, at=pki.now)
        with pytest.raises(IntegrityFailure, match="not those of the signed manifest"):
            open_disc(disc, tmp_path / "out", doctor, at=pki.now)
    with pytest.raises(IntegrityFailure):
        open_disc(disc, tmp_path / "out", doctor, policy=pki.policy(), at=pki.now)
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_is_noticed(tmp_path: Path, doctor: Credential, disc: Path) -> None:
    raw = bytearray((disc / SECOND).read_bytes())
    raw[len(raw) // 2] ^= 1
    (disc / SECOND).write_bytes(raw)
    with pytest.raises(IntegrityFailure):
        open_disc(disc, tmp_path / "out", doctor)


def test_a_file_that_nobody_named_is_reported_and_not_opened(tmp_path: Path, doctor: Credential, disc: Path) -> None:
    shutil.copy(disc / FIRST, disc / "EXTRA")
    opened = open_disc(disc, tmp_path / "out", doctor)
    assert opened.warnings == ("unnamed-files",)
    assert opened.file_set.unnamed == ("EXTRA",)
    assert not (tmp_path / "out" / "EXTRA").exists()


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("file_id", ["..\\..\\SECRET", "DICOM\\..\\..\\X", "\\etc\\passwd", "C:\\X", "A/B"])
def test_a_directory_that_leads_out_is_refused(tmp_path: Path, doctor: Credential, disc: Path, file_id: str) -> None:
    _rename(disc, doctor, tmp_path, file_id.split("\\"))
    (tmp_path / "SECRET").write_bytes(b"secret")
    with pytest.raises(MalformedError, match="no File ID"):
        open_disc(disc, tmp_path / "out", doctor)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    "names", [["DICOMDIR"], ["dicomdir"], ["DICOM", "D0000000", "F0000002"], ["dicom", "d0000000", "f0000002"]]
)
def test_a_directory_that_names_a_file_twice_is_refused(tmp_path: Path, doctor: Credential, disc: Path, names: list[str]) -> None:
    _rename(disc, doctor, tmp_path, names)
    with pytest.raises(MalformedError, match="twice, or itself"):
        open_disc(disc, tmp_path / "out", doctor)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_names_that_others_should_not_have_used_are_opened(tmp_path: Path, doctor: Credential, disc: Path) -> None:
    _rename(disc, doctor, tmp_path, ["images", "im-1.dcm"])
    (disc / "images").mkdir()
    (disc / FIRST).rename(disc / "images" / "im-1.dcm")
    opened = open_disc(disc, tmp_path / "out", doctor)
    assert (tmp_path / "out" / "images" / "im-1.dcm").is_file()
    assert opened.warnings == ("several-signers", "no-manifest")  # the directory was encrypted anew, without its signer


def _rename(disc: Path, doctor: Credential, folder: Path, names: list[str]) -> None:
    """Give the first file of the set another File ID, in its directory only."""
    plain = folder / "plain"
    plain.write_bytes(media.open(disc / "DICOMDIR", doctor).content)
    dataset = dcmread(plain)
    record = next(each for each in dataset.DirectoryRecordSequence if "ReferencedFileID" in each)
    record.ReferencedFileID = names
    dataset.save_as(plain)
    media.protect(plain, recipients=[doctor.certificate], output=disc / "DICOMDIR")


def test_links_out_of_the_medium_are_not_followed(tmp_path: Path, doctor: Credential, disc: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(disc / FIRST, outside)
    (disc / FIRST).symlink_to(outside)
    with pytest.raises(MalformedError, match="outside"):
        open_disc(disc, tmp_path / "out", doctor)


def test_a_disc_of_opened_files_keeps_the_older_manifest_as_a_document(
    tmp_path: Path, pki: TestPki, hospital: Credential, doctor: Credential, disc: Path
) -> None:
    open_disc(disc, tmp_path / "out", doctor)
    made = publish([tmp_path / "out"], tmp_path / "again", Sealing([doctor.certificate], signer=hospital, at=pki.now), at=pki.now)
    assert (made.instances, made.manifests) == (5, 1)
    opened = open_disc(tmp_path / "again", tmp_path / "opened", doctor, policy=pki.policy(), at=pki.now)
    assert [(report.verdict, len(report.unchanged)) for report in opened.studies] == [("TOTAL-PASSED", 4)]


@pytest.mark.parametrize("keep", [0, 1, 32769, 34816, 36000, 60000])
def test_a_cut_image_is_malformed(tmp_path: Path, doctor: Credential, study: Path, keep: int) -> None:
    publish([study], tmp_path / "disc.iso", Sealing([doctor.certificate]), medium=Medium.CD)
    whole = (tmp_path / "disc.iso").read_bytes()
    (tmp_path / "cut.iso").write_bytes(whole[:keep])
    with pytest.raises(SecurePacsError):
        open_disc(tmp_path / "cut.iso", tmp_path / "out", doctor)
    assert not (tmp_path / "out").exists()


# --- the record -----------------------------------------------------------------------------------------------------------


def test_without_a_durable_record_there_is_no_disc(tmp_path: Path, doctor: Credential, study: Path) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("the spool is full")

    with pytest.raises(Unavailable):
        publish([study], tmp_path / "disc", Sealing([doctor.certificate]), record=refuse)
    assert not (tmp_path / "disc").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_disc_that_did_not_come_to_be_is_recorded_as_such(tmp_path: Path, doctor: Credential, study: Path) -> None:
    seen: list[str] = []

    def record(sources: object, medium: object, label: str, outcome: object) -> None:
        seen.append(getattr(outcome, "name", ""))
        (tmp_path / "parent" / "disc").mkdir(exist_ok=True)  # somebody takes the place in between
        (tmp_path / "parent" / "disc" / "theirs").touch()

    (tmp_path / "parent").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        publish([study], tmp_path / "parent" / "disc", Sealing([doctor.certificate]), record=record)
    assert seen == ["SUCCESS", "SERIOUS_FAILURE"]
    assert [path.name for path in (tmp_path / "parent" / "disc").iterdir()] == ["theirs"]
