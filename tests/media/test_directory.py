"""Which files a DICOMDIR names, and that none of them can be anywhere else."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from securepacs.errors import MalformedError
from securepacs.media.directory import file_ids, is_dicomdir, resolve
from tests.support.samples import sample

FILE_SET = sample("CT_small.dcm").parent / "dicomdirtests"


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-implicit", "DICOMDIR-bigEnd"])
def test_the_names_are_those_that_pydicom_reads(name: str) -> None:
    records = dcmread(FILE_SET / name).DirectoryRecordSequence
    expected = [tuple(record.ReferencedFileID) for record in records if "ReferencedFileID" in record]
    assert list(file_ids((FILE_SET / name).read_bytes())) == expected
    assert len(expected) > 10


def test_a_dicomdir_is_known_by_name_and_class(tmp_path: Path) -> None:
    assert is_dicomdir(FILE_SET / "DICOMDIR")
    assert not is_dicomdir(FILE_SET / "DICOMDIR-implicit")
    shutil.copy(sample("CT_small.dcm"), tmp_path / "DICOMDIR")
    assert not is_dicomdir(tmp_path / "DICOMDIR")
    (tmp_path / "DICOMDIR").write_bytes(b"no dicom")
    assert not is_dicomdir(tmp_path / "DICOMDIR")


def test_files_are_found_below_the_folder_in_either_case(tmp_path: Path) -> None:
    (tmp_path / "pat1").mkdir()
    (tmp_path / "pat1" / "img1").touch()
    assert resolve(tmp_path, ("PAT1", "IMG1")) == tmp_path / "pat1" / "img1"
    assert resolve(tmp_path, ("PAT1", "IMG2")) is None
    assert resolve(tmp_path, ("PAT1",)) is None  # a folder is no file


@pytest.mark.parametrize(
    "components",
    [
        ("..", "SECRET"),
        ("IMAGES", "..", "..", "SECRET"),
        ("", "etc", "passwd"),
        ("/etc/passwd",),
        ("IMAGES/../../SECRET",),
        (".",),
        ("C:", "SECRET"),
        ("A\nB",),
        tuple("ABCDEFGHI"),
        (),
    ],
    ids=repr,
)
def test_a_way_out_is_refused(components: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "SECRET").touch()
    (tmp_path / "disc" / "IMAGES").mkdir(parents=True)
    with pytest.raises(MalformedError):
        resolve(tmp_path / "disc", components)


def test_a_link_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "SECRET").touch()
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc" / "IMG1").symlink_to(tmp_path / "SECRET")
    with pytest.raises(MalformedError, match="outside"):
        resolve(tmp_path / "disc", ("IMG1",))


def test_an_empty_directory_names_nothing() -> None:
    dataset = dcmread(FILE_SET / "DICOMDIR")
    dataset.DirectoryRecordSequence = []
    buffer = BytesIO()
    dataset.save_as(buffer)
    assert list(file_ids(buffer.getvalue())) == []
