"""What can be signed and verified: a file, its bytes, or a pydicom Dataset (encoded by pydicom, in its own syntax if possible)."""

from __future__ import annotations

from copy import copy
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from securepacs import codes
from securepacs.dicom.elements import Buffer
from securepacs.dicom.files import map_file
from securepacs.dicom.part10 import is_deflated
from securepacs.errors import MalformedError, UsageError

if TYPE_CHECKING:
    from pydicom import Dataset

Target: TypeAlias = "Dataset | Path | str | bytes | bytearray | memoryview"

_REWRITTEN = (codes.IMPLICIT_VR_LITTLE_ENDIAN, codes.EXPLICIT_VR_BIG_ENDIAN)


def raw_of(target: Target) -> tuple[Buffer, str]:
    """Return the DICOM file of a target as bytes or mapping, and the name of the file it comes from (empty when none)."""
    if isinstance(target, bytes | bytearray | memoryview):
        return target, ""
    if isinstance(target, Path | str):
        return map_file(Path(target)), str(target)
    return encode(target), str(getattr(target, "filename", None) or "")


def encode(dataset: Dataset) -> bytes:
    """Encode a Dataset as a DICOM file: encapsulated data as they are, all else in explicit VR little endian (PS3.5 A).

    The Dataset itself is not changed. UsageError when it is not a Dataset, MalformedError when pydicom cannot encode it.
    """
    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    if not isinstance(dataset, Dataset):
        raise UsageError(f"cannot read DICOM from a {type(dataset).__name__}")
    known = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    syntax = str(known or codes.EXPLICIT_VR_LITTLE_ENDIAN)
    if syntax in _REWRITTEN or is_deflated(syntax):
        syntax = codes.EXPLICIT_VR_LITTLE_ENDIAN
    shallow = copy(dataset)  # so that the caller's meta information stays as it is
    shallow.file_meta = FileMetaDataset()
    shallow.file_meta.TransferSyntaxUID = UID(syntax)
    shallow.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
    shallow.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
    buffer = BytesIO()
    try:
        dcmwrite(buffer, shallow, enforce_file_format=False, implicit_vr=False, little_endian=True)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise MalformedError(f"pydicom cannot encode the data set ({type(error).__name__})") from error
    raw = buffer.getvalue()
    return raw if raw[128:132] == b"DICM" else b"\0" * 128 + b"DICM" + raw
