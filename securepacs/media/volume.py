"""Where a file-set lies: a folder (a stick, a mounted disc), or an ISO 9660 image, read without mounting it (extra `media`)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from securepacs.errors import ConfigError, MalformedError, UsageError
from securepacs.media import directory
from securepacs.media.file_ids import FileId

MAX_NAMES = 1_000_000
_MAX_DEPTH = 32
_SECTOR = 2048
_DESCRIPTORS = 16  # the system area before the volume descriptors (ISO 9660 6.2.1), in sectors
_MAGIC = b"CD001"
_DATES, _DATE_LENGTH = (813, 830, 847, 864), 17  # of the primary volume descriptor (ISO 9660 8.4.26 to 8.4.29)
_NOT_SPECIFIED = b"0" * 16 + b"\0"


class Volume(Protocol):
    """Files by File ID. A path that `find` gives is valid until it is called again."""

    def find(self, file_id: FileId) -> Path | None:
        """Return the file, None when it is not there; MalformedError for a File ID that leads out."""
        ...

    def names(self) -> Iterator[tuple[str, ...]]:
        """Yield the names of all files."""
        ...


class FolderVolume:
    """A folder that holds the DICOMDIR."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, file_id: FileId) -> Path | None:
        """Return the file; names in lower case are found too."""
        return directory.resolve(self._folder, file_id)

    def names(self) -> Iterator[tuple[str, ...]]:
        """Yield the names of all files below the folder."""
        for parent, folders, names in os.walk(self._folder):
            folders.sort()
            for name in sorted(names):
                yield Path(parent, name).relative_to(self._folder).parts


class ImageVolume:
    """An open ISO 9660 image; every file is copied to `scratch` when it is asked for."""

    def __init__(self, image: Any, scratch: Path) -> None:
        self._image, self._scratch = image, scratch

    def find(self, file_id: FileId) -> Path | None:
        """Return a copy of the file."""
        from pycdlib.pycdlibexception import PyCdlibException

        directory.require_inside(file_id)
        target = self._scratch / "file"
        for path in _spellings(file_id):
            try:
                with target.open("wb") as file:
                    self._image.get_file_from_iso_fp(file, iso_path=path)
            except (PyCdlibException, ValueError, IndexError):
                continue
            except OSError as error:
                raise UsageError(f"cannot read the image: {error.strerror}") from None
            return target
        return None

    def names(self) -> Iterator[tuple[str, ...]]:
        """Yield the names of all files, without the version and the empty extension of ISO 9660."""
        waiting: list[tuple[tuple[str, ...], Any]] = [((), self._image.get_record(iso_path="/"))]
        count = 0
        while waiting:
            above, folder = waiting.pop()
            for record in folder.children:
                if record.is_dot() or record.is_dotdot():
                    continue
                count += 1
                if count > MAX_NAMES or len(above) > _MAX_DEPTH:
                    raise MalformedError("the image has too many files or folders", standard="ISO 9660 6.8")
                name = record.file_identifier().decode("latin-1").partition(";")[0].rstrip(".")
                if record.is_dir():
                    waiting.append(((*above, name), record))
                else:
                    yield (*above, name)


def _spellings(file_id: FileId) -> tuple[str, ...]:
    path = "/" + "/".join(file_id)
    return f"{path}.;1", f"{path};1", path, f"{path}."


def is_image(path: Path) -> bool:
    """Return whether a file is an ISO 9660 image, by its first volume descriptor (ISO 9660 8.1)."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            file.seek(_DESCRIPTORS * _SECTOR + 1)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


@contextmanager
def open_image(path: Path, scratch: Path) -> Iterator[ImageVolume]:
    """Give the volume of an ISO 9660 image; `scratch` is an empty folder for copies of its (encrypted) files."""
    pycdlib = _pycdlib()
    image = pycdlib.PyCdlib()
    try:
        image.open(str(path))
    except (pycdlib.pycdlibexception.PyCdlibException, ValueError, IndexError, OSError, struct.error):
        raise MalformedError("the file is not an ISO 9660 image that can be read", standard="ISO 9660") from None
    try:
        yield ImageVolume(image, scratch)
    finally:
        image.close()


def write_image(folder: Path, output: Path, *, label: str) -> None:
    """Write the file-set in `folder` as an ISO 9660 level 1 image (PS3.12 F), with `label` as volume identifier.

    The descriptor's dates are left unspecified. NOT atomic: give a temporary name.
    """
    pycdlib = _pycdlib()
    image = pycdlib.PyCdlib()
    image.new(interchange_level=1, vol_ident=label)
    try:
        for name in FolderVolume(folder).names():
            _add(image, folder, name)
        image.write(str(output))
        with output.open("r+b") as file:
            for offset in _DATES:
                file.seek(_DESCRIPTORS * _SECTOR + offset)
                file.write(_NOT_SPECIFIED)
            file.flush()
            os.fsync(file.fileno())
    except pycdlib.pycdlibexception.PyCdlibException:
        text = "the files do not fit into an ISO 9660 image"
        raise UsageError(text, hint="no file has 4 GB or more; a USB tree takes larger ones", standard="ISO 9660 7.3.3") from None
    except OSError as error:
        raise UsageError(f"cannot write the image: {error.strerror}") from None
    finally:
        image.close()


def _add(image: Any, folder: Path, name: tuple[str, ...]) -> None:
    for depth in range(1, len(name)):
        above = "/" + "/".join(name[:depth])
        try:
            image.get_record(iso_path=above)
        except _pycdlib().pycdlibexception.PyCdlibInvalidInput:
            image.add_directory(above)
    path = "/" + "/".join(name)
    image.add_file(str(folder.joinpath(*name)), iso_path=f"{path};1" if "." in name[-1] else f"{path}.;1")


def _pycdlib() -> Any:
    try:
        import pycdlib
        import pycdlib.pycdlibexception
    except ModuleNotFoundError:
        raise ConfigError("disc images need pycdlib", key="image", hint="pip install 'securepacs[media]'") from None
    return pycdlib
