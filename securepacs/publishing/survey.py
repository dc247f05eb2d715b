"""What is to go on a disc, looked at before anything is written: one patient, no instance twice, nothing that is not DICOM.

Error texts name files, never what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from securepacs import codes
from securepacs.dicom import map_file, read_part10
from securepacs.dicom.elements import Buffer
from securepacs.dicom.preamble import require_harmless
from securepacs.errors import MalformedError, UsageError
from securepacs.media.directory import directory_in
from securepacs.media.directory_records import UNREADABLE

_LONG = 10_240  # octets: longer than any value that a directory repeats
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True, slots=True)
class Source:
    """One instance to be published: its attributes without private and long ones, and what error texts call it."""

    name: str
    place: Path | bytes = field(repr=False)
    head: Dataset = field(repr=False)
    transfer_syntax_uid: str

    def load(self) -> Buffer:
        """Return the file."""
        return self.place if isinstance(self.place, bytes) else map_file(self.place)

    @property
    def published_transfer_syntax_uid(self) -> str:
        """What it has on the disc: every profile wants Explicit VR Little Endian where nothing is compressed (PS3.11 D.3.1)."""
        native = self.transfer_syntax_uid in codes.NATIVE_TRANSFER_SYNTAXES
        return codes.EXPLICIT_VR_LITTLE_ENDIAN if native else self.transfer_syntax_uid


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named and those below the folders named, sorted; UsageError for what is not there."""
    for path in paths:
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if file.is_file())
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"there is no file {path}")


def survey(paths: Iterable[Path], *, several_patients: bool = False, skip_others: bool = False) -> tuple[list[Source], list[str]]:
    """Return the instances to publish, and the names of files that were left out because they are not DICOM (`skip_others`).

    A DICOMDIR is left out always: the disc gets its own. MalformedError for a file that is no DICOM file, has a suspicious preamble
    or lacks a UID; UsageError when there is none, one twice or, unless `several_patients`, more than one patient.
    """
    sources: list[Source] = []
    left_out: list[str] = []
    for path in files_below(paths):
        try:
            source = _source(path)
        except _NotDicom:
            if not skip_others:
                raise MalformedError(
                    f"{path} is not a DICOM file", hint="take it away, or leave out such files", standard="PS3.10 7.1"
                ) from None
            left_out.append(str(path))
            continue
        if source is not None:
            sources.append(source)
    if not sources:
        raise UsageError("there is no instance to publish", standard="PS3.11 D.3.3")
    _require_distinct(sources)
    if not several_patients:
        _require_one_patient(sources)
    return sources, left_out


class _NotDicom(Exception):
    pass


def _source(path: Path) -> Source | None:
    data = map_file(path)
    if bytes(data[128:132]) != b"DICM":
        raise _NotDicom
    try:
        syntax = read_part10(data).transfer_syntax
        if directory_in(data):
            return None
        require_harmless(bytes(data[:132]))
        head = dcmread(BytesIO(data) if isinstance(data, bytes) else path, stop_before_pixels=True)
        _slim(head)
        complete = all(_text(head, keyword) for keyword in _UIDS)
        _identity(head)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.message}", offset=None, hint=error.hint, standard=error.standard) from None
    except UNREADABLE:
        raise MalformedError(f"{path} cannot be read", standard="PS3.5 7") from None
    if not complete:
        raise MalformedError(f"{path} lacks one of its UIDs", standard="PS3.3 C.12.1")
    return Source(str(path), path, head, syntax)


def _slim(head: Dataset) -> None:
    """Drop what no directory or record asks for: heads of thousands of instances stay in memory."""
    for tag in list(head.keys()):
        value = getattr(head.get_item(tag), "value", None)
        if tag.is_private or (isinstance(value, bytes) and len(value) > _LONG):
            del head[tag]


def _require_distinct(sources: Iterable[Source]) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        other = seen.setdefault(str(source.head.SOPInstanceUID), source.name)
        if other != source.name:
            raise UsageError(f"{other} and {source.name} are the same instance", hint="take one away", standard="PS3.10 8.6")


def _require_one_patient(sources: list[Source]) -> None:
    known = _identity(sources[0].head)
    for source in sources[1:]:
        found = _identity(source.head)
        if difference := _different(known, found):
            raise UsageError(
                f"{source.name} is of another patient than {sources[0].name}: {difference} differs",
                hint="a disc is for one patient; say so if this one is not",
            )
        known = {keyword: value or found[keyword] for keyword, value in known.items()}


def _identity(head: Dataset) -> dict[str, str]:
    identity = {keyword: _text(head, keyword) for keyword in ("PatientID", "IssuerOfPatientID", "PatientBirthDate")}
    return identity | {"PatientName": _name(head)}


def _different(known: dict[str, str], found: dict[str, str]) -> str:
    """Return the keyword that tells two patients apart, "" when nothing does.

    What is empty tells nothing; but the Patient ID must be there for all or for none, and without one the name must be.
    """
    if known["PatientID"] != found["PatientID"]:
        return "PatientID"
    nameless = {"PatientName"} if not known["PatientID"] and known["PatientName"] != found["PatientName"] else set()
    both = (keyword for keyword, value in known.items() if value and found[keyword] and value != found[keyword])
    return next(both, "") or next(iter(nameless), "")


def _text(head: Dataset, keyword: str) -> str:
    return str(head.get(keyword) or "").strip(" \0")


def _name(head: Dataset) -> str:
    """Return the first component group in one spelling: case, empty components and blanks do not make another person."""
    alphabetic = _text(head, "PatientName").partition("=")[0]
    return "^".join(" ".join(part.split()) for part in alphabetic.casefold().split("^")).rstrip("^")
