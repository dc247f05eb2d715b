"""The durable audit spool: store-and-forward as IHE ITI-20 asks, one writer process for each folder.

Rules of this file:
1. `append` returns, and `on_durable(None)` is called, only after the record is on the disk (fdatasync).
2. Nothing is dropped silently: a full or failing spool raises Unavailable and alarms; damaged tails are kept beside the segment.
3. A segment goes only after every destination named to `open` has saved a cursor beyond it; without destinations none ever goes.
4. Part of the quota is a reserve that only `reserved=True` may use (acquisition, emergency, the alarm itself).
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from securepacs.audit.group import GroupCommit, notify
from securepacs.audit.segments import (
    MAGIC,
    MAX_RECORD,
    RECORD_HEADER,
    SEGMENT_HEADER,
    Cursor,
    SpoolReader,
    encode_record,
    scan,
    segment_path,
    segments,
    sync_folder,
    write_all,
    write_file,
)
from securepacs.errors import ConfigError, SecurePacsError, Unavailable, UsageError

DEFAULT_QUOTA = 1024 * 1024 * 1024
DEFAULT_SEGMENT = 16 * 1024 * 1024
ALARM_LEVELS = (80, 90, 100)  # percent of the quota
RESERVE = 0.05  # of the quota
_HYSTERESIS = 5  # percent the use must fall below a level before that level alarms again
_logger = logging.getLogger(__name__)


class AlarmKind(StrEnum):
    """What is wrong with a spool."""

    FILLING = "filling"
    WRITE_FAILED = "write-failed"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class SpoolAlarm:
    """`percent` is the level that was reached (FILLING), `detail` is for people and holds no record."""

    kind: AlarmKind
    percent: int
    used_bytes: int
    quota_bytes: int
    detail: str


@dataclass(frozen=True, slots=True)
class _Entry:
    data: bytes
    reserved: bool


OnDurable = Callable[[BaseException | None], None]


class Spool:
    """An open spool folder; make it with `Spool.open`, after any fork. Every method may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        lock: int,
        *,
        quota_bytes: int,
        segment_bytes: int,
        destinations: Iterable[str],
        on_alarm: Callable[[SpoolAlarm], None] | None,
    ) -> None:
        self.folder = folder
        self.quota_bytes = quota_bytes
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._cursors = [Cursor(folder, name) for name in destinations]
        self._on_alarm = on_alarm
        self._alarmed = 0
        self._sizes: dict[int, int] = {}  # of every segment, by first sequence number
        self._descriptor = -1
        self._current = 0
        self._next = 1
        self._recover()
        self._writer = GroupCommit[_Entry, int](self._commit, name="audit-spool", size_of=lambda entry: len(entry.data))

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        quota_bytes: int = DEFAULT_QUOTA,
        segment_bytes: int | None = None,
        destinations: Iterable[str] = (),
        on_alarm: Callable[[SpoolAlarm], None] | None = None,
    ) -> Self:
        """Open a folder, making it if needed, and repair what a crash left behind.

        `on_alarm` runs in the writer thread (or here, for what recovery found): it may call `submit`, never `append`.
        Raises Unavailable when another process (or another Spool of this one) writes there, ConfigError for a quota too small.
        """
        size = segment_bytes or min(DEFAULT_SEGMENT, quota_bytes // 8)
        if size < 1024 or quota_bytes < 2 * size:
            raise ConfigError("the quota of the audit spool is too small", key="audit.quota_mb")
        path = Path(folder)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"the audit spool cannot be opened: {error.strerror}", retryable=False) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(
                path, lock, quota_bytes=quota_bytes, segment_bytes=size, destinations=destinations, on_alarm=on_alarm
            )  # fmt: skip
        except BlockingIOError:
            os.close(lock)
            raise Unavailable("another process writes this audit spool", hint="one spool folder for each process") from None
        except OSError as error:
            os.close(lock)
            raise Unavailable(f"the audit spool cannot be opened: {error.strerror}", retryable=False) from None
        except BaseException:
            os.close(lock)
            raise

    def append(self, record: bytes, *, reserved: bool = False) -> int:
        """Write a record and return its sequence number once it is durable; many threads share one commit."""
        return self._writer.call(_Entry(_sized(record), reserved))

    def submit(self, record: bytes, on_durable: OnDurable, *, reserved: bool = False) -> None:
        """Hand in a record; `on_durable(error or None)` is called from the writer thread once its fate is known.

        For event loops: let the callback do `loop.call_soon_threadsafe`. Raises Unavailable at once when the spool is closed.
        """
        self._writer.submit(_Entry(_sized(record), reserved), lambda _sequence, error: on_durable(error))

    def reader(self, *, after: int = 0) -> SpoolReader:
        """Return a reader of the records after a sequence number."""
        return SpoolReader(self.folder, after=after)

    @property
    def used_bytes(self) -> int:
        """What the segments take on the disk."""
        return sum(self._sizes.copy().values())

    @property
    def used_fraction(self) -> float:
        """Use as a fraction of the quota, for those who must stop before it is full."""
        return self.used_bytes / self.quota_bytes

    def close(self) -> None:
        """Commit what waits, end the writer and free the folder. A second call does nothing."""
        self._writer.close()
        self._close_segment()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- writing: everything below runs in the writer thread, or before it exists ------------------------------------
    def _commit(self, entries: list[_Entry]) -> Sequence[int | SecurePacsError]:
        if self._descriptor < 0 or self._sizes[self._current] >= self._segment_bytes:
            self._retain()
        results: list[int | SecurePacsError] = []
        buffer = bytearray()
        used = self.used_bytes
        for entry in entries:
            size = RECORD_HEADER.size + len(entry.data)
            if not self._fits(used + len(buffer) + size, reserved=entry.reserved):
                self._retain()
                used = self.used_bytes
            if self._fits(used + len(buffer) + size, reserved=entry.reserved):
                buffer += encode_record(self._next, entry.data)
                results.append(self._next)
                self._next += 1
            else:
                results.append(Unavailable("the audit spool is full", hint="free or add disk space, or reach the destination"))
        if buffer and (failure := self._write(buffer)):
            return [failure if isinstance(result, int) else result for result in results]
        self._watch_level(full=any(not isinstance(result, int) for result in results))
        return results

    def _fits(self, total: int, *, reserved: bool) -> bool:
        return total <= (self.quota_bytes if reserved else int(self.quota_bytes * (1 - RESERVE)))

    def _write(self, buffer: bytearray) -> Unavailable | None:
        """Write and sync one batch; a failure leaves the segment as it was, for no later record to follow a torn one."""
        try:
            if self._descriptor < 0 or self._sizes[self._current] >= self._segment_bytes:
                self._begin_segment(self._next_of(buffer))
            write_all(self._descriptor, buffer, self._sizes[self._current])
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._abandon_segment()
            self._alarm(AlarmKind.WRITE_FAILED, 0, error.strerror or "")
            return Unavailable(f"the audit spool cannot be written: {error.strerror}")
        self._sizes[self._current] += len(buffer)
        return None

    @staticmethod
    def _next_of(buffer: bytearray) -> int:
        return int(RECORD_HEADER.unpack_from(buffer)[2])

    def _begin_segment(self, first: int) -> None:
        self._close_segment()
        path = segment_path(self.folder, first)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._current = first
        self._sizes[first] = SEGMENT_HEADER.size
        write_all(self._descriptor, SEGMENT_HEADER.pack(MAGIC, first), 0)
        sync_folder(self.folder)

    def _abandon_segment(self) -> None:
        """After a failed write or sync nothing is known about the segment's end: cut it where it was durable, use another."""
        if self._descriptor >= 0:
            with suppress(OSError):  # already failing and reported; readers pass over what cannot be cut
                os.ftruncate(self._descriptor, self._sizes[self._current])
        self._close_segment()

    def _close_segment(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # --- quota and retention -----------------------------------------------------------------------------------------
    def _retain(self) -> None:
        """Remove segments that every destination has passed; the one being written stays."""
        if not self._cursors:
            return
        passed = min(cursor.load() or 0 for cursor in self._cursors)
        ordered = sorted(self._sizes)
        for first, following in pairwise(ordered):
            if following > passed + 1 or first == self._current:
                break
            self._remove(first)

    def _remove(self, first: int) -> None:
        path = segment_path(self.folder, first)
        if _end_of_sound_records(path, first) == path.stat().st_size:
            path.unlink()
        else:  # what could not be delivered is kept for a person to look at
            path.rename(path.with_suffix(".damaged"))
            self._alarm(AlarmKind.DAMAGED, 0, f"segment {first} was set aside")
        del self._sizes[first]

    def _watch_level(self, *, full: bool) -> None:
        percent = 100 if full else int(100 * self.used_fraction)
        reached = max((level for level in ALARM_LEVELS if percent >= level), default=0)
        if reached > self._alarmed:
            self._alarmed = reached
            self._alarm(AlarmKind.FILLING, reached, "")
        elif percent < self._alarmed - _HYSTERESIS:
            self._alarmed = reached

    def _alarm(self, kind: AlarmKind, percent: int, detail: str) -> None:
        alarm = SpoolAlarm(kind, percent, self.used_bytes, self.quota_bytes, detail)
        _logger.warning("audit spool: %s %d%% of %d octets used %s", kind.value, percent, self.quota_bytes, detail)
        if self._on_alarm is not None:
            notify(self._on_alarm, alarm)

    # --- recovery ----------------------------------------------------------------------------------------------------
    def _recover(self) -> None:
        """Find the end of what is durable: cut a torn tail off the last segment (kept as `.torn`), never reuse a number."""
        known = segments(self.folder)
        while known and segment_path(self.folder, known[-1]).stat().st_size < SEGMENT_HEADER.size:
            segment_path(self.folder, known.pop()).unlink()  # the crash came before its header: it holds nothing
        self._sizes = {first: segment_path(self.folder, first).stat().st_size for first in known}
        delivered = max((cursor.load() or 0 for cursor in self._all_cursors()), default=0)
        self._next = delivered + 1
        if not known:
            return
        self._current = known[-1]
        path = segment_path(self.folder, self._current)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        end, last = SEGMENT_HEADER.size, self._current - 1
        for record in scan(self._descriptor, self._current):
            end, last = record.end, record.sequence
        self._next = max(self._next, last + 1)
        if (rest := self._sizes[self._current] - end) > 0:
            self._cut_tail(path, end, rest)

    def _cut_tail(self, path: Path, end: int, rest: int) -> None:
        """A tail that does not fit is normally a write the crash cut short, which nobody was told to be durable."""
        write_file(path.with_suffix(f".{end}.torn"), os.pread(self._descriptor, rest, end))
        os.ftruncate(self._descriptor, end)
        os.fsync(self._descriptor)
        sync_folder(self.folder)
        self._sizes[self._current] = end
        self._alarm(AlarmKind.DAMAGED, 0, f"{rest} octets after the last sound record were set aside")

    def _all_cursors(self) -> list[Cursor]:
        return [Cursor(self.folder, path.stem) for path in self.folder.glob("*.cursor")]


def _sized(record: bytes) -> bytes:
    if len(record) > MAX_RECORD:
        raise UsageError(f"an audit record of more than {MAX_RECORD} octets cannot be meant")
    return record


def _end_of_sound_records(path: Path, first: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = SEGMENT_HEADER.size
        for record in scan(descriptor, first):
            end = record.end
        return end
    finally:
        os.close(descriptor)
