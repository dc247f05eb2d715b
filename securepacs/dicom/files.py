"""Files in and out: mapped for reading, written whole or not at all."""

from __future__ import annotations

import mmap
import os
import tempfile
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
    temporary: str | None = None
    try:
        permissions = _permissions(path, mode)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), permissions)
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  (a str from mkstemp, renamed over a Path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _permissions(path: Path, mode: int | None) -> int:
    if path.exists():
        return path.stat().st_mode & 0o7777
    if mode is not None:
        return mode
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
