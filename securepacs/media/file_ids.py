"""File IDs (PS3.10 8.2): names that say nothing about what is in the files, and that every file system of PS3.12 can hold.

They count, and never derive from UIDs, patient data or the names that files had. The last component is unique in the set, because
readers that are handed files without their folders must tell them apart too.
"""

from __future__ import annotations

import re
from pathlib import Path

from securepacs.errors import MalformedError, UsageError

DICOMDIR = "DICOMDIR"
FileId = tuple[str, ...]
MAX_FILES = 10_000_000

_MAX_COMPONENTS = 8
_LEGAL = re.compile(r"[A-Z0-9_]{1,8}")
_PER_FOLDER = 1000
_CLAUSE = "PS3.10 8.2"


def file_id(number: int) -> FileId:
    """Return the File ID of the file that is number `number`, from 0 on: a folder for every thousand."""
    if not 0 <= number < MAX_FILES:
        raise UsageError(f"a file-set holds at most {MAX_FILES} files", standard=_CLAUSE)
    return "DICOM", f"D{number // _PER_FOLDER:07}", f"F{number:07}"


def is_legal(components: FileId) -> bool:
    """Return whether the components make a File ID: at most 8 of at most 8 characters from A-Z, 0-9 and underscore."""
    return 1 <= len(components) <= _MAX_COMPONENTS and all(map(_LEGAL.fullmatch, components))


def place(folder: Path, components: FileId) -> Path:
    """Return where the file of a File ID lies below `folder`; MalformedError for what is no File ID, such as a way out."""
    if not is_legal(components):
        raise MalformedError("the DICOMDIR names a file by something that is no File ID", standard=_CLAUSE)
    return folder.joinpath(*components)
