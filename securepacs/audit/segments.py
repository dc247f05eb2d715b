"""The files of an audit spool: segments of framed records, read from any process, and the durable cursors of destinations.

    NNNNNNNNNNNNNNNNNNNN.spool    magic and first sequence number, then records: length, CRC-32, sequence number, octets
    NAME.cursor                   sequence number of the last record the destination NAME has
    lock                          held by the one writer

Sequence numbers rise and are never used twice; there may be gaps where writing failed. A record counts when it is complete and
its CRC fits. Readers take no lock: a record that does not fit yet is one that is still being written.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from securepacs.errors import ConfigError, Unavailable

MAGIC = b"SPSPOOL1"
SEGMENT_HEADER = struct.Struct(">8sQ")
RECORD_HEADER = struct.Struct(">IIQ")
MAX_RECORD = 64 * 1024 * 1024
_SUFFIX = ".spool"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_READ_SIZE = 256 * 1024
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """One record of a spool; `segment` and `end` say where it ends."""

    sequence: int
    data: bytes
    segment: int
    end: int


def encode_record(sequence: int, data: bytes) -> bytes:
    """Return a record as it stands in a segment."""
    return RECORD_HEADER.pack(len(data), _checksum(sequence, data), sequence) + data


def segment_path(folder: Path, first: int) -> Path:
    """Return the path of the segment that begins with sequence number `first`."""
    return folder / f"{first:020d}{_SUFFIX}"


def segments(folder: Path) -> list[int]:
    """Return the first sequence numbers of all segments, in order."""
    names = (name for name in os.listdir(folder) if name.endswith(_SUFFIX))  # noqa: PTH208  (half the cost, polled often)
    return sorted(int(name[: -len(_SUFFIX)]) for name in names if name[: -len(_SUFFIX)].isdigit())


def scan(descriptor: int, segment: int, offset: int = SEGMENT_HEADER.size, *, at_most: int | None = None) -> Iterator[SpoolRecord]:
    """Yield the sound records of an open segment from `offset` on, up to the first that is not, or `at_most` octets."""
    buffer, used = b"", 0  # `offset` is where the buffer begins in the file, `used` what of it was yielded
    while at_most is None or used < at_most:
        wanted = used + RECORD_HEADER.size
        if len(buffer) >= wanted:
            length, checksum, sequence = RECORD_HEADER.unpack_from(buffer, used)
            if length > MAX_RECORD:
                return
            wanted += length
            if len(buffer) >= wanted:
                data = buffer[wanted - length : wanted]
                if checksum != _checksum(sequence, data):
                    return
                used = wanted
                yield SpoolRecord(sequence, data, segment, offset + used)
                continue
        buffer, offset, wanted, at_most, used = (
            buffer[used:],
            offset + used,
            wanted - used,
            None if at_most is None else at_most - used,
            0,
        )
        more = os.pread(descriptor, max(_READ_SIZE, wanted - len(buffer)), offset + len(buffer))
        if not more:
            return
        buffer += more


class SpoolReader:
    """Reads the records after sequence number `after`, from any process, while another one writes and removes segments."""

    def __init__(self, folder: Path, *, after: int = 0) -> None:
        self._folder = folder
        self._after = after
        self._segment: int | None = None
        self._descriptor = -1
        self._offset = 0

    def read(self, *, at_most: int = 1024 * 1024) -> list[SpoolRecord]:
        """Return the next records, about `at_most` octets of them; an empty list when there is none yet."""
        while True:
            if self._segment is None and not self._open_next():
                return []
            found = self._take(at_most)
            if found:
                return found
            following = self._following()
            if following is None:
                return []
            # the segment is complete now, but may have grown between the two looks
            found = self._take(at_most)
            if found:
                return found
            self._report_damage()
            self._open(following)

    def close(self) -> None:
        """Let go of the open segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._segment = -1, None

    def _take(self, at_most: int) -> list[SpoolRecord]:
        found: list[SpoolRecord] = []
        while not found and self._segment is not None:
            seen = list(scan(self._descriptor, self._segment, self._offset, at_most=at_most))
            if not seen:
                return []
            self._offset = seen[-1].end
            found = [record for record in seen if record.sequence > self._after]
            self._after = max(self._after, seen[-1].sequence)
        return found

    def _open_next(self) -> bool:
        """Open the segment that holds what comes after `_after`: the last one that begins at or before it, else the first."""
        known = segments(self._folder)
        earlier = [first for first in known if first <= self._after + 1]
        candidates = earlier[-1:] or known[:1]
        return bool(candidates) and self._open(candidates[0])

    def _open(self, first: int) -> bool:
        try:
            descriptor = os.open(segment_path(self._folder, first), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # removed since it was listed: look again next time
            self.close()
            return False
        self.close()
        self._segment, self._descriptor, self._offset = first, descriptor, SEGMENT_HEADER.size
        return True

    def _following(self) -> int | None:
        current = -1 if self._segment is None else self._segment
        return next((first for first in segments(self._folder) if first > current), None)

    def _report_damage(self) -> None:
        rest = os.fstat(self._descriptor).st_size - self._offset
        if rest > 0:
            _logger.error("audit spool: segment %s is damaged at octet %d, %d octets skipped", self._segment, self._offset, rest)


def read_spool(folder: Path | str) -> Iterator[bytes]:
    """Yield every record that is in a spool now, in order; for inspection, it moves no cursor."""
    reader = SpoolReader(Path(folder))
    try:
        while records := reader.read():
            yield from (record.data for record in records)
    finally:
        reader.close()


class Cursor:
    """How far one destination has come: the sequence number of the last record it has, 0 for none."""

    def __init__(self, folder: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name an audit destination", key="audit.destination", hint="letters, digits, . _ -")
        self.folder = folder
        self._path = folder / f"{name}.cursor"

    def load(self) -> int | None:
        """Return the saved number, None when there is none or the file is damaged (then everything is delivered again)."""
        try:
            text = self._path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None
        return int(text) if re.fullmatch(r"\d{1,20}\n", text, flags=re.ASCII) else None

    def save(self, sequence: int) -> None:
        """Save durably: after a crash the file holds this number or the one before."""
        temporary = self._path.with_suffix(".cursor-new")
        try:
            write_file(temporary, b"%d\n" % sequence)
            temporary.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise Unavailable(f"the cursor of an audit destination cannot be saved: {error.strerror}") from None


def write_file(path: Path, content: bytes) -> None:
    """Write a file readable by its owner alone, and its content to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, content, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls the system needs."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Make names created in or moved within a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(sequence: int, data: bytes) -> int:
    return crc32(data, crc32(sequence.to_bytes(8, "big")))
