"""Files in and out: mapped for reading, written whole or not at all."""

from __future__ import annotations

import mmap
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from securepacs.dicom.elements import Buffer
from securepacs.errors import UsageError

_SMALL = 4 << 20  # bytes; below this a plain read is as fast as a mapping, and immune to the file being cut while it is read

_STEP = 16 << 20  # bytes written before the disk is told to begin
_MOST_HELD = 16 << 20  # bytes in memory of what was deflated
_DISK = "/var/tmp"  # noqa: S108  (the file made there has no name)


def map_file(path: Path) -> Buffer:
    """Return the content of a file: bytes when small, else a read-only mapping that lives as long as the view is used.

    UsageError when it cannot be read, or is no file but a pipe or a device, which may have no end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # not to wait for the writer of a pipe
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"cannot read {path}: not a file")
            if status.st_size >= _SMALL:
                return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(status.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def hold(parts: Iterable[bytes]) -> memoryview:
    """Keep what comes in parts: in memory when it is little, else in a temporary file without a name, mapped for reading.

    The file is in TMPDIR, else in /var/tmp, which is on a disk where /tmp may be memory. UsageError when it has no room.
    """
    kept = bytearray()
    source = iter(parts)
    for part in source:
        kept += part
        if len(kept) > _MOST_HELD:
            return _spilled(kept, source)
    return memoryview(kept).toreadonly()


def _spilled(first: bytearray, rest: Iterable[bytes]) -> memoryview:
    folder = None if "TMPDIR" in os.environ or not os.access(_DISK, os.W_OK) else _DISK
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(first)
            first.clear()
            for part in rest:
                file.write(part)
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        hint = "let TMPDIR name a folder with room for it"
        raise UsageError(f"a large deflated data set finds no place on the disk: {error.strerror}", hint=hint) from None


def write_atomically(path: Path, pieces: Iterable[Buffer], *, mode: int | None = None) -> None:
    """Write a file so that `path` holds the old content or all of the new one: temporary file, fsync, rename, fsync of the folder.

    An existing file keeps its permissions; a new one gets `mode`, or what the umask allows.
    """
    file = PendingFile(path, pieces, default_mode() if mode is None else mode)
    file.synchronize()
    file.take_name()
    sync_folder(path.parent)


class PendingFile:
    """A new content of `path` that is written in three steps: written under another name, synchronized, renamed.

    After a power cut `path` holds the old content or all of the new one; the new one for certain after `sync_folder` as well. The
    first step is done by the constructor. UsageError when one cannot be done; nothing is left behind then. `mode`: the permissions
    of a new file; one that is replaced keeps its own.
    """

    __slots__ = ("_descriptor", "_temporary", "path")

    def __init__(self, path: Path, pieces: Iterable[Buffer], mode: int) -> None:
        self.path = path
        self._temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
        self._descriptor = -1
        with self._undone_on_error():
            permissions = _permissions(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o600)  # nobody else reads what is not yet complete
            self._write(pieces)
            os.fchmod(self._descriptor, mode if permissions is None else permissions)

    def _write(self, pieces: Iterable[Buffer]) -> None:
        begun = size = 0
        with open(self._descriptor, "wb", closefd=False) as file:
            for piece in pieces:
                view = memoryview(piece)
                for start in range(0, len(view), _STEP):
                    size += file.write(view[start : start + _STEP])
                    if size - begun >= _STEP:
                        file.flush()
                        begun = self._begin(begun, size)
        self._begin(begun, size)

    def _begin(self, start: int, end: int) -> int:
        """Let the disk begin with what `synchronize` will wait for, and return where to go on.

        The advice is meant for what is not needed any more. It drops no pages that are still to be written, and would drop written
        ones: so it is given once for each.
        """
        with suppress(OSError):
            os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
        return end

    def synchronize(self) -> None:
        """Wait until the content is on the disk."""
        with self._undone_on_error():
            os.fsync(self._descriptor)

    def take_name(self) -> None:
        """Let `path` be this content from now on."""
        with self._undone_on_error():
            self._temporary.replace(self.path)
        self._close()

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self._descriptor >= 0:
                self._close()
                self._temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise UsageError(f"cannot write {self.path}: {error.strerror}") from None
            raise

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def _permissions(path: Path) -> int | None:
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return None


def default_mode() -> int:
    """Return the permissions that the umask of the process leaves a new file."""
    return 0o666 & ~_umask()


def _umask() -> int:
    """Return the umask of the process, as the kernel tells it: os.umask would have to change it, for all threads, to know it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("Umask:")[2].split(None, 1)[0], 8)
    except (OSError, IndexError, ValueError):
        return 0o077  # not told: private


def sync_folder(folder: Path) -> None:
    """Make sure that files renamed into the folder stay so after a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
