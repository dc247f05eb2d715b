"""Many files at once: written whole or not at all, in order, each with its own outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from securepacs.errors import UsageError
from securepacs.signatures.batch import FileWriter


def test_many_files_are_written_while_the_next_are_made(tmp_path: Path) -> None:
    with FileWriter() as writer:
        written = [writer.write(tmp_path / f"{number}.dcm", [str(number).encode(), b" end"]) for number in range(20)]
    assert [done.result() for done in written] == [None] * 20
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {f"{n}.dcm": f"{n} end".encode() for n in range(20)}


def test_one_file_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    with FileWriter() as writer:
        (tmp_path / "folder").mkdir()
        bad, good = writer.write(tmp_path / "folder", [b"1"]), writer.write(tmp_path / "good", [b"2"])
    with pytest.raises(UsageError, match="cannot write"):
        bad.result()
    assert good.result() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "good"]
