"""Folders and images that hold file-sets: what is found, and images that were damaged or made to do harm."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import MalformedError, SecurePacsError, UsageError
from securepacs.media.volume import FolderVolume, is_image, open_image, write_image

_SECTOR = 2048
_DESCRIPTORS, _END = 16 * _SECTOR, 30 * _SECTOR  # descriptors, path tables and folders of a small image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    (folder / "DICOM" / "D0").mkdir(parents=True)
    (folder / "DICOMDIR").write_bytes(b"directory")
    (folder / "DICOM" / "D0" / "F0").write_bytes(b"first")
    (folder / "OPEN.HTM").write_bytes(b"page")
    output = tmp_path_factory.mktemp("image") / "disc.iso"
    write_image(folder, output, label="LABEL")
    return output


def test_an_image_has_the_files_of_the_folder(image: Path, tmp_path: Path) -> None:
    with open_image(image, tmp_path) as volume:
        assert sorted(volume.names()) == [("DICOM", "D0", "F0"), ("DICOMDIR",), ("OPEN.HTM",)]
        found = volume.find(("DICOM", "D0", "F0"))
        assert found is not None
        assert found.read_bytes() == b"first"
        assert volume.find(("DICOM", "D0", "F1")) is None
        assert volume.find(("DICOM",)) is None  # a folder is no file


@pytest.mark.parametrize("file_id", [("..", "X"), ("DICOM", "..", "DICOMDIR"), ("", "DICOMDIR"), ("A:",), ("A/B",), ()])
def test_what_is_no_file_id_is_refused(image: Path, tmp_path: Path, file_id: tuple[str, ...]) -> None:
    with open_image(image, tmp_path) as volume, pytest.raises(MalformedError, match="no File ID"):
        volume.find(file_id)


def test_the_image_tells_its_label_and_no_moment(image: Path) -> None:
    descriptor = image.read_bytes()[_DESCRIPTORS : _DESCRIPTORS + _SECTOR]
    assert descriptor[40:72].strip() == b"LABEL"
    assert descriptor[813:881] == (b"0" * 16 + b"\0") * 4


def test_images_are_told_from_other_files(image: Path, tmp_path: Path) -> None:
    assert is_image(image)
    assert not is_image(tmp_path)
    (tmp_path / "other").write_bytes(bytes(40_000))
    assert not is_image(tmp_path / "other")
    assert not is_image(tmp_path / "missing")
    with pytest.raises(MalformedError), open_image(tmp_path / "other", tmp_path):
        pass


@given(st.lists(st.tuples(st.integers(_DESCRIPTORS, _END - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_a_damaged_image_gives_files_or_a_clear_error(
    image: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    raw = bytearray(image.read_bytes())
    for place, value in changes:
        if place < len(raw):
            raw[place] = value
    (folder / "disc.iso").write_bytes(raw)
    try:
        with open_image(folder / "disc.iso", folder) as volume:
            assert all(isinstance(part, str) for name in volume.names() for part in name)
            volume.find(("DICOM", "D0", "F0"))
    except SecurePacsError:
        pass


def test_folders_that_contain_themselves_come_to_an_end(image: Path, tmp_path: Path) -> None:
    raw = bytearray(image.read_bytes())
    root = struct.unpack_from("<I", raw, _DESCRIPTORS + 158)[0]
    at = root * _SECTOR
    while raw[at + 33 : at + 38] != b"DICOM" or raw[at + 32] != 5:
        at += raw[at]
    struct.pack_into("<I", raw, at + 2, root)
    struct.pack_into(">I", raw, at + 6, root)
    (tmp_path / "loop.iso").write_bytes(raw)
    with pytest.raises(MalformedError), open_image(tmp_path / "loop.iso", tmp_path) as volume:
        list(volume.names())


def test_a_folder_finds_names_in_lower_case(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "f0").write_bytes(b"x")
    volume = FolderVolume(tmp_path)
    assert volume.find(("DICOM", "F0")) == tmp_path / "dicom" / "f0"
    assert list(volume.names()) == [("dicom", "f0")]


def test_an_image_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "DICOMDIR").write_bytes(b"x")
    with pytest.raises(UsageError, match="cannot write"):
        write_image(tmp_path / "set", tmp_path / "missing" / "disc.iso", label="X")
    (tmp_path / "set" / "name-that-is-not-legal").write_bytes(b"x")
    with pytest.raises(UsageError, match="do not fit"):
        write_image(tmp_path / "set", tmp_path / "disc.iso", label="X")
