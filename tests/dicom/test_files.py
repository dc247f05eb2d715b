from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from securepacs.dicom.files import map_file, write_atomically
from securepacs.errors import UsageError


@pytest.mark.parametrize("size", [0, 1000, 5 << 20])
def test_what_is_written_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.dcm"
    write_atomically(path, [bytes(size), memoryview(b"end")])
    assert bytes(map_file(path)) == bytes(size) + b"end"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_source_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"old")

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_atomically(path, broken())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_stay_or_are_set(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_atomically(path, [b"1"], mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    write_atomically(path, [b"2"])
    assert path.stat().st_mode & 0o777 == 0o640


def test_files_that_cannot_be_read_or_written_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        map_file(tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot write"):
        write_atomically(tmp_path / "no" / "folder", [b""])


def test_a_new_file_gets_what_the_umask_allows(tmp_path: Path) -> None:
    import os

    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.dcm", [b"1"])
    finally:
        os.umask(before)
    assert (tmp_path / "a.dcm").stat().st_mode & 0o777 == 0o640


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(UsageError, match="not a file"):
            map_file(path)
    with pytest.raises(UsageError, match="cannot read"):
        map_file(tmp_path)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_is_written_in_steps_is_the_whole(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securepacs.dicom.files._STEP", step)
    pieces = [bytes(range(256)), memoryview(b""), memoryview(bytes(range(256)))[3:100], b"end"]
    write_atomically(tmp_path / "a.dcm", pieces)
    assert (tmp_path / "a.dcm").read_bytes() == b"".join(pieces)
