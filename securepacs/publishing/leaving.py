"""The form in which an instance leaves on a medium: Explicit VR Little Endian, and never as an original (PS3.11 D.3.1, PS3.15 A.1).

A disc is nobody's AE: what is on it is a copy outside the profile and says NS. An authorized copy (AC) leaves as one only when
asked.
"""

from __future__ import annotations

import warnings
from io import BytesIO

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from securepacs import codes
from securepacs.dicom.edit import swap_words
from securepacs.dicom.elements import Buffer
from securepacs.dicom.part10 import read_part10
from securepacs.errors import UsageError
from securepacs.originals import OriginalRegistry, SOPInstanceStatus, content_digest, copy_of, read_stamp, stamp

_CLAUSE = "PS3.15 A.1"


def as_it_leaves(data: Buffer, *, registry: OriginalRegistry | None = None, authorized_copies: bool = False) -> Buffer:
    """Return the file as it goes on the medium; the same object when nothing has to change.

    With `authorized_copies` an original that `registry` holds as AO leaves as AC, and what arrived as AC stays AC. Everything else
    leaves as NS. IntegrityFailure when the file differs from what was registered; UsageError when it cannot be written as the
    profiles want it.
    """
    return explicit(_as_copy(data, registry, authorized_copies=authorized_copies))


def _as_copy(data: Buffer, registry: OriginalRegistry | None, *, authorized_copies: bool) -> Buffer:
    found = read_stamp(data)
    if registry is not None:
        copied = copy_of(data, registry, to_profile_peer=authorized_copies)  # checks the content of what is registered
        if read_stamp(copied).status is SOPInstanceStatus.AC:
            return copied
    if found.status is SOPInstanceStatus.AC and authorized_copies:
        return data
    if found.status is SOPInstanceStatus.NS and not (found.authorization_datetime or found.equipment):
        return data
    return stamp(data, SOPInstanceStatus.NS)


def explicit(data: Buffer) -> Buffer:
    """Return a file whose uncompressed data set is in Explicit VR Little Endian, compressed ones as they are (PS3.5 A.2)."""
    syntax = read_part10(data).transfer_syntax
    if syntax == codes.EXPLICIT_VR_LITTLE_ENDIAN or syntax not in codes.NATIVE_TRANSFER_SYNTAXES:
        return data
    refusal = UsageError(
        "an instance cannot be written in Explicit VR Little Endian without a change",
        hint="convert it first",
        standard="PS3.11 D.3.1",
    )
    try:
        with warnings.catch_warnings(action="ignore"):  # about values that are not conformant, which stay as they are
            dataset = dcmread(BytesIO(data))
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            if syntax == codes.EXPLICIT_VR_BIG_ENDIAN:
                _swap(dataset)
            buffer = BytesIO()
            dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, NotImplementedError):
        raise refusal from None
    written = buffer.getvalue()
    if content_digest(written) != content_digest(data):
        raise refusal
    return written


def _swap(dataset: Dataset) -> None:
    """Turn the words of values that pydicom keeps as bytes; it turns all others itself."""
    for element in dataset.iterall():
        if isinstance(element.value, bytes):
            element.value = swap_words(element.value, element.VR.encode("ascii"))
