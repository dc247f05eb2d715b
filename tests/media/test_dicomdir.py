"""Directories of file-sets: what is in them, where offsets lead, and that other readers take them."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pydicom.fileset
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from securepacs.errors import MalformedError, UsageError
from securepacs.media.dicomdir import Entry, build_dicomdir
from securepacs.media.directory import file_ids
from securepacs.media.directory_records import record_type, records_of
from securepacs.media.file_ids import file_id, is_legal, place
from tests.support.programs import dcmtk
from tests.support.samples import sample

FILES = ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "rtdose.dcm", "reportsi.dcm", "SC_rgb_jpeg_dcmtk.dcm", "test-SR.dcm"]


def entry_of(path: Path, number: int) -> Entry:
    head = dcmread(path, stop_before_pixels=True)
    return Entry(
        file_id(number),
        records_of(head, number),
        str(head.SOPClassUID),
        str(head.SOPInstanceUID),
        str(head.file_meta.TransferSyntaxUID),
    )


@pytest.fixture
def file_set(tmp_path: Path) -> Path:
    entries = []
    for number, name in enumerate(FILES):
        target = place(tmp_path, file_id(number))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample(name), target)
        entries.append(entry_of(target, number))
    (tmp_path / "DICOMDIR").write_bytes(build_dicomdir(entries))
    return tmp_path


def test_pydicom_reads_the_same_set(file_set: Path) -> None:
    found = FileSet(file_set / "DICOMDIR")
    assert {instance.load().SOPInstanceUID for instance in found} == {dcmread(sample(name)).SOPInstanceUID for name in FILES}
    assert all(instance.load().SOPInstanceUID == instance.ReferencedSOPInstanceUIDInFile for instance in found)
    assert sorted(file_ids((file_set / "DICOMDIR").read_bytes())) == [file_id(number) for number in range(len(FILES))]


def test_offsets_lead_from_record_to_record(file_set: Path) -> None:
    raw = (file_set / "DICOMDIR").read_bytes()
    directory = dcmread(BytesIO(raw))
    by_offset = {record.seq_item_tell: record for record in directory.DirectoryRecordSequence}
    seen: list[Dataset] = []

    def follow(offset: int) -> None:
        while offset:
            seen.append(by_offset[offset])
            follow(by_offset[offset].OffsetOfReferencedLowerLevelDirectoryEntity)
            offset = by_offset[offset].OffsetOfTheNextDirectoryRecord

    follow(directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity)
    assert len(seen) == len(by_offset) == len({id(record) for record in seen})
    assert by_offset[directory.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity].DirectoryRecordType == "PATIENT"


@pytest.mark.interop
def test_dcmtk_reads_it_and_adds_to_it(file_set: Path) -> None:
    dump = subprocess.run([dcmtk("dcmdump"), "DICOMDIR"], cwd=file_set, capture_output=True, text=True, check=False, timeout=60)
    assert dump.returncode == 0, dump.stderr
    assert dump.stdout.count("DirectoryRecordType") > 3 * len(FILES)
    shutil.copy(sample("MR_small_implicit.dcm"), file_set / "OTHER")
    before = len(FileSet(file_set / "DICOMDIR"))
    add = [dcmtk("dcmmkdir"), "--append", "-Nxc", "--general-purpose", "--invent", "OTHER"]
    made = subprocess.run(add, cwd=file_set, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    assert len(FileSet(file_set / "DICOMDIR")) >= before


def test_what_an_instance_leaves_out_is_supplied() -> None:
    head = dcmread(sample("CT_small.dcm"), stop_before_pixels=True)
    for keyword in ("StudyDate", "StudyTime", "StudyID", "SeriesNumber", "InstanceNumber", "PatientID", "AccessionNumber"):
        if keyword in head:
            del head[keyword]
    head.SeriesDate = "20200102"
    records = records_of(head, 41)
    assert records.study[1].StudyDate == "20200102"
    assert (records.patient[1].PatientID, records.study[1].StudyID) == ("UNKNOWN", "UNKNOWN")
    assert (records.series[1].SeriesNumber, records.instance[1].InstanceNumber) == (0, 42)
    assert "StudyDate" not in head  # the instance itself stays as it is


def test_an_image_record_has_the_keys_of_the_profiles() -> None:
    head = dcmread(sample("CT_small.dcm"), stop_before_pixels=True)
    record = records_of(head, 0).instance[1]
    assert (record.ImageType, record.Rows, record.Columns) == (head.ImageType, head.Rows, head.Columns)
    assert record.FrameOfReferenceUID == head.FrameOfReferenceUID


def test_a_report_shows_its_title_and_not_its_content() -> None:
    record = records_of(dcmread(sample("reportsi.dcm")), 0).instance[1]
    assert record.DirectoryRecordType == "SR DOCUMENT"
    assert "ConceptNameCodeSequence" in record
    assert all(item.RelationshipType == "HAS CONCEPT MOD" for item in record.get("ContentSequence", ()))


def test_a_verified_report_says_when() -> None:
    head = dcmread(sample("test-SR.dcm"))
    moments = [observer.VerificationDateTime for observer in head.VerifyingObserverSequence]
    assert records_of(head, 0).instance[1].VerificationDateTime == max(moments)


def test_record_types_are_those_of_pydicom() -> None:
    theirs = pydicom.fileset._FOUR_LEVEL_SOP_CLASSES
    different = {uid.name: kind for uid, kind in theirs.items() if record_type(str(uid)) != kind}
    assert different == {}


def test_what_belongs_to_no_patient_is_refused() -> None:
    for uid in pydicom.fileset._SINGLE_LEVEL_SOP_CLASSES:
        with pytest.raises(UsageError, match="no patient"):
            record_type(str(uid))


def test_an_instance_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        build_dicomdir([entry_of(sample("CT_small.dcm"), number) for number in (0, 1)])
    with pytest.raises(UsageError, match="at least one"):
        build_dicomdir([])


def test_an_instance_without_uids_is_refused() -> None:
    head = dcmread(sample("CT_small.dcm"), stop_before_pixels=True)
    del head.SeriesInstanceUID
    with pytest.raises(MalformedError, match="UIDs"):
        records_of(head, 0)


@pytest.mark.parametrize("number", [0, 1, 999, 1000, 9_999_999])
def test_file_ids_are_legal_and_their_last_part_is_unique(number: int) -> None:
    assert is_legal(file_id(number))
    assert file_id(number)[-1] == f"F{number:07}"


@pytest.mark.parametrize("number", [-1, 10_000_000])
def test_there_is_an_end_of_file_ids(number: int) -> None:
    with pytest.raises(UsageError):
        file_id(number)


@pytest.mark.parametrize("components", [(), ("..", "A"), ("a",), ("A/B",), ("ABCDEFGHI",), ("A.DCM",), ("A\n",), ("",), ("A",) * 9])
def test_what_is_no_file_id_has_no_place(components: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="no File ID"):
        place(tmp_path, components)
