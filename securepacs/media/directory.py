"""The files that a DICOMDIR names (PS3.10 8.6, PS3.3 F.3.2.2): each inside the folder of the DICOMDIR, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from securepacs.dicom.elements import Buffer
from securepacs.dicom.files import map_file
from securepacs.dicom.part10 import open_dataset, read_part10
from securepacs.errors import MalformedError

_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
_REFERENCED_FILE_ID = 0x00041500
_REFERENCED_SOP_INSTANCE_UID_IN_FILE = 0x00041511
_MAX_COMPONENTS = 8
_NAME = "DICOMDIR"


def is_dicomdir(path: Path) -> bool:
    """Return whether a file is a DICOMDIR, by its name and its Media Storage SOP Class."""
    if path.name.upper() != _NAME:
        return False
    try:
        return directory_in(map_file(path))
    except MalformedError:
        return False


def directory_in(raw: Buffer) -> bool:
    """Return whether the bytes are a Media Storage Directory."""
    value = read_part10(raw).meta.get(_MEDIA_STORAGE_SOP_CLASS_UID, b"")
    return value.decode("latin-1").strip(" \0") == _MEDIA_STORAGE_DIRECTORY


def file_ids(raw: Buffer) -> Iterator[tuple[str, ...]]:
    """Yield the components of every Referenced File ID (0004,1500) of a DICOMDIR, in file order."""
    for components, _ in files_named(raw):
        yield components


def files_named(raw: Buffer) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every Referenced File ID with the Referenced SOP Instance UID in File (0004,1511) beside it, or ""."""
    dataset = open_dataset(raw)
    components: tuple[str, ...] = ()
    for token in dataset.tokens():
        if token.tag == _REFERENCED_FILE_ID and token.length:
            if components:
                yield components, ""
            value = bytes(dataset.value(token)).decode("latin-1").strip(" \0")
            components = tuple(component.strip(" ") for component in value.split("\\"))
        elif token.tag == _REFERENCED_SOP_INSTANCE_UID_IN_FILE and components:
            yield components, bytes(dataset.value(token)).decode("latin-1").strip(" \0")
            components = ()
    if components:
        yield components, ""


def resolve(folder: Path, components: tuple[str, ...]) -> Path | None:
    """Return the file of a File ID below `folder`, None when it is not there. MalformedError when it leads out of the folder.

    Media are often copied by systems that write names in lower case: such a file is found too.
    """
    require_inside(components)
    for names in (components, tuple(component.lower() for component in components)):
        path = folder.joinpath(*names)
        if path.is_file():
            if not path.resolve().is_relative_to(folder.resolve()):
                raise MalformedError("the DICOMDIR names a file that lies outside its folder", standard="PS3.10 8.2")
            return path
    return None


def require_inside(components: tuple[str, ...]) -> None:
    """Refuse, with MalformedError, what is no File ID at all. Names that other writers should not have used pass."""
    if not 1 <= len(components) <= _MAX_COMPONENTS or not all(map(_is_plain, components)):
        raise MalformedError("the DICOMDIR names a file by something that is no File ID", standard="PS3.10 8.2")


def _is_plain(component: str) -> bool:
    """Return whether a component is one name: no way up, no way to another place."""
    return component not in ("", ".", "..") and component.isprintable() and not any(sign in component for sign in "/\\:\0")
