"""Files in and out: mapped for reading, written whole or not at all."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from securepacs.dicom.elements import Buffer
from securepacs.errors import UsageError

_SMALL = 4 << 20  # bytes; below this a plain read is as fast as a mapping, and immune to the file being cut while it is read


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
    replace_file(path, pieces, mode)
    sync_folder(path.parent)


def replace_file(path: Path, pieces: Iterable[Buffer], mode: int | None = None) -> None:
    """Do as `write_atomically` without the last step: after a power cut the old content may be back, never a part of the new."""
    temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
    created = False
    try:
        permissions = path.stat().st_mode & 0o7777 if path.exists() else mode
        if permissions is None:
            permissions = 0o666 & ~_umask()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:  # nobody else reads what is not yet complete
            created = True
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), permissions)
            os.fsync(file.fileno())
        temporary.replace(path)
        created = False
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if created:
            temporary.unlink(missing_ok=True)


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
