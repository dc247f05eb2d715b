"""The files of a spool as other processes see them, and the cursors of destinations."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from securepacs.audit.segments import (
    MAX_RECORD,
    RECORD_HEADER,
    Cursor,
    SpoolReader,
    encode_record,
    read_spool,
    segment_path,
    segments,
)
from securepacs.audit.spool import Spool
from securepacs.errors import ConfigError, Unavailable


def small(folder: Path) -> Spool:
    """Return a spool whose segments hold about ten short records."""
    return Spool.open(folder, segment_bytes=1024, quota_bytes=1024 * 1024)


def test_a_reader_follows_the_writer_over_segments(tmp_path: Path) -> None:
    with small(tmp_path) as spool:
        reader = spool.reader()
        seen: list[bytes] = []
        for number in range(100):
            spool.append(b"%d" % number * 20)
            if number % 3 == 0:
                seen += [record.data for record in reader.read(at_most=64)]
        while records := reader.read():
            seen += [record.data for record in records]
        assert seen == [b"%d" % number * 20 for number in range(100)]
        assert len(segments(tmp_path)) > 3
        reader.close()


@pytest.mark.parametrize("after", [0, 1, 9, 50, 99, 100, 5000])
def test_a_reader_begins_after_any_number(tmp_path: Path, after: int) -> None:
    with small(tmp_path) as spool:
        for number in range(1, 101):
            assert spool.append(b"x" * 30 + b"%d" % number) == number
        reader = spool.reader(after=after)
        seen = []
        while records := reader.read():
            seen += [record.sequence for record in records]
        assert seen == list(range(after + 1, 101))
        reader.close()


def test_at_most_bounds_what_is_read_at_once(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        for _ in range(10):
            spool.append(b"x" * 1000)
        reader = spool.reader()
        assert len(reader.read(at_most=3000)) == 3
        assert len(reader.read(at_most=1)) == 1
        reader.close()


def test_a_record_larger_than_one_read_comes_whole(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        spool.append(b"a" * 3_000_000)
        spool.append(b"b")
    assert [len(record) for record in read_spool(tmp_path)] == [3_000_000, 1]


def test_a_record_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        spool.append(b"first")
        spool.append(b"second")
    path = segment_path(tmp_path, 1)
    content = path.read_bytes()
    tail = len(encode_record(2, b"second"))
    for missing in range(1, tail + 1):
        path.write_bytes(content[:-missing])
        reader = SpoolReader(tmp_path)
        assert [record.data for record in reader.read()] == [b"first"]
        assert reader.read() == []
        path.write_bytes(content)
        assert [record.data for record in reader.read()] == [b"second"]
        reader.close()


def test_a_flipped_bit_is_never_delivered(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        spool.append(b"only")
    path = segment_path(tmp_path, 1)
    content = bytearray(path.read_bytes())
    for position in range(len(content) - len(encode_record(1, b"only")), len(content)):
        for bit in (1, 128):
            content[position] ^= bit
            path.write_bytes(content)
            assert list(read_spool(tmp_path)) == []
            content[position] ^= bit


def test_an_absurd_length_ends_the_reading(tmp_path: Path) -> None:
    with Spool.open(tmp_path) as spool:
        spool.append(b"one")
    with segment_path(tmp_path, 1).open("ab") as file:
        file.write(RECORD_HEADER.pack(MAX_RECORD + 1, 0, 2) + b"x" * 100)
    assert list(read_spool(tmp_path)) == [b"one"]


def test_damage_within_a_finished_segment_is_reported_and_passed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small(tmp_path) as spool:
        for number in range(60):
            spool.append(b"%04d" % number * 10)
    first, second = segments(tmp_path)[:2]
    path = segment_path(tmp_path, first)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        seen = [int(record[:4]) for record in read_spool(tmp_path)]
    assert seen == [*range(second - 2), *range(second - 1, 60)]
    assert "damaged" in caplog.text


def test_a_segment_that_is_gone_is_passed(tmp_path: Path) -> None:
    with small(tmp_path) as spool:
        for number in range(60):
            spool.append(b"%04d" % number * 10)
    first, second = segments(tmp_path)[:2]
    segment_path(tmp_path, first).unlink()
    assert int(next(read_spool(tmp_path))[:4]) == second - 1


def test_an_empty_folder_has_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "notes.spool").touch()
    assert list(read_spool(str(tmp_path))) == []


def test_a_cursor_is_what_was_saved_last(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path, "arr.hospital.example")
    assert cursor.load() is None
    for number in (0, 7, 12345678901):
        cursor.save(number)
        assert Cursor(tmp_path, "arr.hospital.example").load() == number
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arr.hospital.example.cursor"]


@pytest.mark.parametrize("content", [b"", b"12", b"x\n", b"-1\n", b"1\n1\n"])
def test_a_damaged_cursor_delivers_everything_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "arr.cursor").write_bytes(content)
    assert Cursor(tmp_path, "arr").load() is None


@pytest.mark.parametrize("name", ["", "../arr", ".hidden", "a/b", "a b", "x" * 101])
def test_a_destination_needs_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Cursor(tmp_path, name)
    assert caught.value.key == "audit.destination"


def test_a_cursor_that_cannot_be_saved_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Cursor(tmp_path / "missing", "arr").save(1)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        spool.append(b"x")
    Cursor(tmp_path / "spool", "arr").save(1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "spool").iterdir()}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
