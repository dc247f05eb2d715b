"""De-identification and back: nothing of the patient stays, everything comes back, whatever the encoding."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from securepacs.cms import enveloped
from securepacs.confidentiality import Option, Pseudonyms, deidentify, reidentify
from securepacs.errors import IntegrityFailure, MalformedError, NoMatchingRecipient, SecurePacsError, UsageError
from securepacs.pki import CertificateProfile
from securepacs.tokens.credential import Credential
from tests.support.cms_samples import holder
from tests.support.pki import TestPki, make_pki
from tests.support.samples import sample
from tests.support.softhsm import enrolled_token, token_credential

FILES = [
    "CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "rtplan.dcm", "reportsi.dcm", "image_dfl.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "JPEG2000.dcm", "liver_expb_1frame.dcm", "examples_overlay.dcm", "test-SR.dcm", "waveform_ecg.dcm",
]  # fmt: skip
SECRET = "Zq7Xv"  # part of everything that must not survive
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path)


@pytest.fixture
def researcher(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee")


def read(content: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def patient_dataset() -> Dataset:
    """One of everything: names, numbers, dates, sequences, private data, each with the secret in it."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "1.2.3.4.5"
    dataset.StudyDate, dataset.StudyTime = "20240131", "101112"
    dataset.AcquisitionDateTime = "20240131101112.5+0900"
    dataset.AccessionNumber = f"{SECRET}A1"
    dataset.Modality = "CT"
    dataset.Manufacturer = "ACME"
    dataset.InstitutionName = f"{SECRET} Hospital"
    dataset.StudyDescription = f"CT chest 5 mm with contrast for {SECRET}"
    dataset.PatientName, dataset.PatientID = f"{SECRET}^Hand", f"{SECRET}77"
    dataset.PatientAge, dataset.PatientSex = "041Y", "F"
    dataset.DeviceSerialNumber = f"{SECRET}-D"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    dataset.ImageComments = f"{SECRET}: hand"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4.6"
    dataset.ReferencedImageSequence = Sequence([reference])
    request = Dataset()
    request.RequestedProcedureID = f"{SECRET}R"
    request.RequestedProcedureDescription = f"CT abdomen {SECRET}"
    dataset.RequestAttributesSequence = Sequence([request])
    inner = Dataset()
    inner.PatientName = f"{SECRET}^Other"
    outer = Dataset()
    outer.CodeValue, outer.CodingSchemeDesignator, outer.CodeMeaning = "T-D3000", "SRT", "Chest"
    inner.AnatomicRegionSequence = Sequence([outer])
    dataset.ReferencedSeriesSequence = Sequence([inner])  # not of the table: the rules hold inside
    block = dataset.private_block(0x0029, "ACME PRIVATE", create=True)
    block.add_new(0x01, "LO", f"{SECRET} private")
    dataset.Rows = dataset.Columns = 2
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.BurnedInAnnotation = "NO"
    dataset.PixelData = b"\1\2\3\4\5\6\7\x08"
    dataset["PixelData"].VR = "OW"
    return dataset


def as_file(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    dataset.file_meta.SourceApplicationEntityTitle = SECRET
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def without_statement(dataset: Dataset, original: Dataset) -> Dataset:
    """The data set as it was, except for what re-identification must say (PS3.15 E.1.2) and group lengths."""
    if "PatientIdentityRemoved" not in original:
        assert dataset.PatientIdentityRemoved == "NO"
        del dataset.PatientIdentityRemoved
    for element in list(original):
        if element.tag.element == 0:
            del original[element.tag]
    return dataset


@pytest.mark.parametrize("name", FILES)
def test_real_files_come_back_as_they_were(pki: TestPki, researcher: Credential, name: str) -> None:
    source = sample(name).read_bytes()
    made = deidentify(source, recipients=[researcher.certificate], at=pki.now)
    changed, original = read(made.content), read(source)
    assert changed.PatientIdentityRemoved == "YES"
    assert (
        changed.SOPInstanceUID == changed.file_meta.MediaStorageSOPInstanceUID == made.sop_instance_uid != original.SOPInstanceUID
    )
    assert changed.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    back = reidentify(made.content, researcher)
    restored = read(back.content)
    assert restored.file_meta.MediaStorageSOPInstanceUID == back.sop_instance_uid == original.SOPInstanceUID
    assert without_statement(restored, original) == original


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nothing_of_the_patient_stays(pki: TestPki, researcher: Credential, syntax: str) -> None:
    source = as_file(patient_dataset(), syntax)
    made = deidentify(source, recipients=[researcher.certificate], at=pki.now)
    changed = read(made.content)
    shown = str(changed) + str(changed.file_meta)
    for told in (SECRET, "20240131", "1.2.3", "ACME PRIVATE", "041Y"):
        assert told not in shown.replace("1.2.3.4.5.6", "")
    if syntax != DeflatedExplicitVRLittleEndian:
        assert SECRET.encode() not in made.content
    assert made.warnings == ()
    assert changed.PixelData == patient_dataset().PixelData
    assert changed.ReferencedSeriesSequence[0].AnatomicRegionSequence[0].CodeMeaning == "Chest"
    assert [each.CodeValue for each in changed.DeidentificationMethodCodeSequence] == ["113100"]
    assert changed.LongitudinalTemporalInformationModified == "REMOVED"
    original = read(source)
    assert without_statement(read(reidentify(made.content, researcher).content), original) == original


def test_without_recipients_there_is_no_way_back(researcher: Credential) -> None:
    made = deidentify(as_file(patient_dataset()))
    assert "EncryptedAttributesSequence" not in read(made.content)
    with pytest.raises(UsageError, match="no encrypted attributes"):
        reidentify(made.content, researcher)


def test_one_mapping_keeps_instances_together() -> None:
    first, second, other = patient_dataset(), patient_dataset(), patient_dataset()
    second.SOPInstanceUID = "1.2.3.4.6"
    other.PatientID = "another"
    mapping = Pseudonyms(b"sixteen octets!!")
    a, b, c = (read(deidentify(as_file(each), pseudonyms=mapping).content) for each in (first, second, other))
    assert a.StudyInstanceUID == b.StudyInstanceUID
    assert a.ReferencedImageSequence[0].ReferencedSOPInstanceUID == b.SOPInstanceUID != a.SOPInstanceUID
    assert a.ReferencedImageSequence[0].ReferencedSOPClassUID == CTImageStorage
    assert a.PatientID == b.PatientID == a.PatientName != c.PatientID
    again = read(deidentify(as_file(patient_dataset()), pseudonyms=Pseudonyms(b"sixteen octets!!")).content)
    assert again.SOPInstanceUID == a.SOPInstanceUID
    elsewhere = read(deidentify(as_file(patient_dataset())).content)
    assert elsewhere.SOPInstanceUID != a.SOPInstanceUID


def test_options_keep_what_they_name() -> None:
    source = as_file(patient_dataset())
    kept = read(deidentify(source, options=[Option.RETAIN_UIDS, "retain-device-identity", "retain-full-dates"]).content)
    assert (kept.SOPInstanceUID, kept.StudyInstanceUID) == ("1.2.3.4.5", "1.2.3")
    assert kept.DeviceSerialNumber == f"{SECRET}-D"
    assert (kept.StudyDate, kept.AcquisitionDateTime) == ("20240131", "20240131101112.5+0900")
    assert kept.LongitudinalTemporalInformationModified == "UNMODIFIED"
    assert [each.CodeValue for each in kept.DeidentificationMethodCodeSequence] == ["113100", "113106", "113109", "113110"]
    assert "PatientAge" not in kept
    person = read(deidentify(source, options=["retain-patient-characteristics", "retain-institution-identity"]).content)
    assert (person.PatientAge, person.PatientSex, person.InstitutionName) == ("041Y", "F", f"{SECRET} Hospital")


def test_modified_dates_keep_their_distances() -> None:
    first, second = patient_dataset(), patient_dataset()
    second.StudyDate = "20240210"
    mapping = Pseudonyms()
    a, b = (
        read(deidentify(as_file(each), options=["retain-modified-dates"], pseudonyms=mapping).content) for each in (first, second)
    )
    assert a.StudyDate != "20240131"
    days = [pydicom.valuerep.DA(each.StudyDate) for each in (a, b)]
    assert days[1] - days[0] == timedelta(days=10)  # type: ignore[operator]
    assert a.AcquisitionDateTime == f"{a.StudyDate}101112.5+0900"
    assert a.StudyTime == "101112"
    assert a.LongitudinalTemporalInformationModified == "MODIFIED"


def test_clean_descriptors_keep_known_words_only() -> None:
    cleaned = read(deidentify(as_file(patient_dataset()), options=["clean-descriptors"]).content)
    assert cleaned.StudyDescription == "CT chest 5 mm with contrast"
    assert "ImageComments" not in cleaned  # "hand" is a known word, but here it is the patient's name
    (request,) = cleaned.RequestAttributesSequence
    assert "RequestedProcedureID" not in request
    assert request.RequestedProcedureDescription == "CT abdomen"
    assert SECRET not in str(cleaned)


def test_private_codes_and_typed_meanings_are_cleaned() -> None:
    dataset = patient_dataset()
    known, own = Dataset(), Dataset()
    known.CodeValue, known.CodingSchemeDesignator, known.CodeMeaning = "T-D3000", "SRT", f"Chest of {SECRET}"
    own.CodeValue, own.CodingSchemeDesignator, own.CodeMeaning = SECRET, "99ACME", SECRET
    dataset.AdmittingDiagnosesCodeSequence = Sequence([known, own])
    cleaned = read(deidentify(as_file(dataset), options=["clean-descriptors"]).content)
    (code,) = cleaned.AdmittingDiagnosesCodeSequence
    assert (code.CodeValue, code.CodeMeaning) == ("T-D3000", "Chest of")


def test_text_in_7_bit_extensions_is_not_taken_for_words() -> None:
    dataset = patient_dataset()
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.add_new(0x00081030, "LO", b"CT \x1b$B;3ED\x1b(B")
    assert "StudyDescription" not in read(deidentify(as_file(dataset), options=["clean-descriptors"]).content)


def test_pixels_that_show_the_patient_are_refused() -> None:
    for keyword in ("BurnedInAnnotation", "RecognizableVisualFeatures"):
        dataset = patient_dataset()
        setattr(dataset, keyword, "YES")
        with pytest.raises(UsageError, match="pixel data show"):
            deidentify(as_file(dataset))
        assert deidentify(as_file(dataset), unsafe_burned_in=True).content
    silent = patient_dataset()
    del silent.BurnedInAnnotation
    assert deidentify(as_file(silent)).warnings == ("pixel-data-not-cleaned",)


def test_a_name_in_an_attribute_that_stays_is_told() -> None:
    dataset = patient_dataset()
    dataset.Manufacturer = f"ACME of {SECRET.upper()}"
    assert deidentify(as_file(dataset)).warnings == ("patient-named-in (0008,0070)",)


def test_structured_content_becomes_a_skeleton() -> None:
    source = sample("test-SR.dcm")
    made = read(deidentify(source).content)
    assert len(made.ContentSequence) == 1
    assert made.ContentSequence[0].ValueType == read(source.read_bytes()).ContentSequence[0].ValueType


def test_what_was_de_identified_before_keeps_its_history() -> None:
    dataset = patient_dataset()
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "by hand"
    made = read(deidentify(as_file(dataset)).content)
    assert made.DeidentificationMethod == ["by hand", "Basic Application Confidentiality Profile"]
    twice = read(deidentify(as_file(made)).content)
    assert len(twice.DeidentificationMethodCodeSequence) == 1


@pytest.mark.interop
def test_a_card_re_identifies() -> None:
    enrolled_token()
    with token_credential("rsa-2048") as card:
        made = deidentify(sample("CT_small.dcm"), recipients=[card.certificate])
        restored = read(reidentify(made.content, card).content)
    assert restored.PatientID == read(sample("CT_small.dcm").read_bytes()).PatientID


def test_output_is_written_whole_or_not_at_all(pki: TestPki, researcher: Credential, tmp_path: Path) -> None:
    out, back = tmp_path / "out.dcm", tmp_path / "back.dcm"
    made = deidentify(sample("CT_small.dcm"), recipients=[researcher.certificate], output=out, at=pki.now)
    assert made.content == b""
    assert read(out.read_bytes()).SOPInstanceUID == made.sop_instance_uid
    stranger = pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. No")
    with pytest.raises(NoMatchingRecipient):
        reidentify(out, stranger, output=back)
    assert not back.exists()
    assert reidentify(out, researcher, output=back).content == b""
    assert read(back.read_bytes()).PatientID == read(sample("CT_small.dcm").read_bytes()).PatientID


@pytest.mark.parametrize("cipher", ["aes128-cbc", "aes192-cbc", "aes256-cbc", "des-ede3-cbc"])
def test_every_cipher_of_the_profile(pki: TestPki, researcher: Credential, cipher: str) -> None:
    made = deidentify(sample("CT_small.dcm"), recipients=[researcher.certificate], cipher=cipher, at=pki.now)
    envelope = bytes(read(made.content).EncryptedAttributesSequence[0].EncryptedContent)
    length = 4 + int.from_bytes(envelope[2:4], "big")  # the padding to even length is not of the message
    assert enveloped.inspect(envelope[:length]).cipher == cipher
    assert reidentify(made.content, researcher).restored


def test_means_outside_the_profile_are_refused(pki: TestPki, researcher: Credential) -> None:
    source = sample("CT_small.dcm")
    with pytest.raises(UsageError, match="no cipher"):
        deidentify(source, recipients=[researcher.certificate], cipher="aes256-gcm", at=pki.now)
    with pytest.raises(UsageError, match="RSA recipients only"):
        deidentify(source, recipients=[holder("curve", "p256").certificate])
    with pytest.raises(UsageError, match="not valid now"):
        deidentify(source, recipients=[researcher.certificate], at=pki.now + timedelta(days=20_000))
    with pytest.raises(UsageError, match="exclude each other"):
        deidentify(source, options=["retain-full-dates", "retain-modified-dates"])
    with pytest.raises(UsageError, match="no option"):
        deidentify(source, options=["retain-everything"])
    with pytest.raises(UsageError, match="fewer than 16"):
        Pseudonyms(b"short")
    once = deidentify(source, recipients=[researcher.certificate], at=pki.now).content
    with pytest.raises(UsageError, match="already"):
        deidentify(once, recipients=[researcher.certificate], at=pki.now)


def test_two_values_of_one_attribute_are_refused() -> None:
    source = as_file(patient_dataset())
    twice = source.replace(b"\x10\x00\x20\x00LO", b"\x10\x00\x10\x00LO", 1)
    with pytest.raises(MalformedError, match="occurs twice"):
        deidentify(twice)


def test_an_executable_in_the_preamble_is_refused() -> None:
    source = as_file(patient_dataset())
    with pytest.raises(MalformedError, match="preamble"):
        deidentify(b"MZ" + source[2:])


def test_a_directory_is_no_instance() -> None:
    with pytest.raises(MalformedError, match="no SOP instance"):
        deidentify(sample("DICOMDIR"))


def test_truncated_and_changed_files_end_in_typed_errors(pki: TestPki, researcher: Credential) -> None:
    dataset = patient_dataset()
    del dataset.PixelData
    made = deidentify(as_file(dataset), recipients=[researcher.certificate], at=pki.now).content
    place = made.index(b"\x00\x04\x00\x05SQ")
    for length in range(132, len(made), 37):
        with pytest.raises(SecurePacsError):
            reidentify(made[:length], researcher)
    told = set()
    for position in range(place, len(made), 29):
        changed = made[:position] + bytes((made[position] ^ 0x10,)) + made[position + 1 :]
        try:
            reidentify(changed, researcher)
        except SecurePacsError as error:
            told.add(str(error))
    assert told
    assert not any(SECRET in each for each in told)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8), st.sampled_from(SYNTAXES[:3]))
def test_damaged_files_are_refused_or_still_told_nothing(changes: list[tuple[int, int]], syntax: str) -> None:
    source = bytearray(as_file(patient_dataset(), syntax))
    for place, value in changes:
        source[132 + place % (len(source) - 132)] = value
    try:
        made = deidentify(bytes(source), options=[Option.CLEAN_DESCRIPTORS, Option.RETAIN_MODIFIED_DATES])
    except SecurePacsError:
        return
    assert made.content[:128] == bytes(128)


def test_a_changed_envelope_is_one_error(pki: TestPki, researcher: Credential) -> None:
    made = deidentify(as_file(patient_dataset()), recipients=[researcher.certificate], at=pki.now).content
    place = made.index(b"\x00\x04\x20\x05OB")
    length = int.from_bytes(made[place + 8 : place + 12], "little")
    end = place + 12 + length
    for back in (40, 20, 17):
        with pytest.raises(IntegrityFailure):
            reidentify(made[: end - back] + bytes((made[end - back] ^ 1,)) + made[end - back + 1 :], researcher)
