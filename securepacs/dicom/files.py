"""Files in and out: mapped for reading, written whole or not at all."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore

from securepacs.dicom.elements import Buffer
from securepacs.errors import UsageError

_SMALL = 4 << 20  # bytes; below this a plain read is as fast as a mapping, and immune to the file being cut while it is read

_PENDING = 4  # files a FileWriter holds at most


def map_file(path: Path) -> Buffer:
    """Return the content of a file: bytes when small, else a read-only mapping that lives as long as the view is used."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _SMALL:
                return file.read()
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def write_atomically(path: Path, pieces: Iterable[Buffer], *, mode: int | None = None) -> None:
    """Write a file so that `path` holds the old content or all of the new one: temporary file, fsync, rename, fsync of the folder.

    An existing file keeps its permissions; a new one gets `mode`, or what the umask allows.
    """
    _replace(path, pieces, mode)
    _sync_folder(path.parent)


class FileWriter:
    """Writes many files, each as `write_atomically` does, in a thread of its own while the caller prepares the next ones.

    A context manager: at its end all files are written, and their folders synchronized once each. At any moment a `path` holds the
    old content or all of the new one; after a power cut, files written before the end may be back at their old content.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="file-writer")
        self._room = BoundedSemaphore(_PENDING)
        self._folders: dict[Path, None] = {}

    def write(self, path: Path, pieces: Iterable[Buffer], *, mode: int | None = None) -> Future[None]:
        """Hand over a file; waits while many are pending. The future's result raises the UsageError of a file that failed."""
        self._room.acquire()
        self._folders[path.parent] = None
        written = self._thread.submit(_replace, path, pieces, mode)
        written.add_done_callback(lambda _: self._room.release())
        return written

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        for folder in self._folders:
            _sync_folder(folder)


def _replace(path: Path, pieces: Iterable[Buffer], mode: int | None) -> None:
    """Write a temporary file beside `path`, synchronize it, and rename it."""
    temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
    created = False
    try:
        permissions = path.stat().st_mode & 0o7777 if path.exists() else mode
        # without a mode the kernel applies the umask; to ask for the umask one has to set it, for all threads
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o666 if permissions is None else permissions & 0o700), "wb") as file:
            created = True
            for piece in pieces:
                file.write(piece)
            file.flush()
            if permissions is not None:
                os.fchmod(file.fileno(), permissions)
            os.fsync(file.fileno())
        temporary.replace(path)
        created = False
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if created:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
