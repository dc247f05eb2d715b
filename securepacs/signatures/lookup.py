"""Finding an instance by its SOP Instance UID: in a mapping, by a function, or among files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from securepacs.dicom.elements import Buffer
from securepacs.dicom.files import map_file
from securepacs.dicom.part10 import open_dataset, read_part10
from securepacs.errors import MalformedError, UsageError
from securepacs.signatures.instances import Target
from securepacs.signatures.profiles import SOP_INSTANCE_UID

Find: TypeAlias = "Callable[[str], Target | None]"
References: TypeAlias = "Path | Mapping[str, Target] | Find"

_HEAD = 1 << 16  # bytes of a file that are looked at first; SOP Instance UID stands near the beginning


def finder(references: References) -> Find:
    """Return the function that finds an instance: `references` itself, a look-up in a mapping, or in all files below a folder."""
    if isinstance(references, Mapping):
        return references.get
    if isinstance(references, Path):
        if not references.is_dir():
            raise UsageError(f"{references} is no folder of instances")
        return InstanceIndex(path for path in references.rglob("*") if path.is_file())
    return references


class InstanceIndex:
    """The instances in a set of files, read on the first question. Files that are no DICOM are left out.

    Of two files with the same SOP Instance UID the first one counts.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = paths
        self._found: dict[str, Path] | None = None

    def __call__(self, sop_instance_uid: str) -> Path | None:
        """Return the file of an instance, None when it is not there."""
        if self._found is None:
            self._found = {}
            for path in self._paths:
                self._found.setdefault(sop_instance_uid_of(path), path)
            self._found.pop("", None)
        return self._found.get(sop_instance_uid)


def sop_instance_uid_of(path: Path) -> str:
    """Return the SOP Instance UID of a file, empty when it is no DICOM file or has none."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        uid = _uid_in(head) if len(head) < _HEAD or not read_part10(head).deflated else None
        return (_uid_in(map_file(path)) if uid is None else uid) or ""
    except (OSError, MalformedError, UsageError):
        return ""


def _uid_in(data: Buffer) -> str | None:
    """Return the UID, empty when it is not in its place, None when what is before it does not end in `data`."""
    dataset = open_dataset(data)
    try:
        for element in dataset.elements():
            if element.tag >= SOP_INSTANCE_UID:
                return bytes(dataset.value(element)).decode("latin-1").strip(" \0") if element.tag == SOP_INSTANCE_UID else ""
    except MalformedError:
        return None
    return ""
