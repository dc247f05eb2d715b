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
from securepacs.dicom.edit import encode_element, swap_words
from securepacs.dicom.elements import EXPLICIT_LITTLE, Buffer
from securepacs.dicom.part10 import MEDIA_STORAGE_SOP_INSTANCE_UID, PREAMBLE_SIZE, open_dataset, read_part10
from securepacs.errors import UsageError
from securepacs.media.directory_records import UNREADABLE
from securepacs.originals import OriginalRegistry, SOPInstanceStatus, content_digest, copy_of, read_stamp, stamp
from securepacs.signatures.references import uids_of

_META_LENGTH, _MEDIA_SOP_CLASS = 0x00020000, 0x00020002
_META = {  # VR of what may stand in file meta information, its length apart
    0x00020001: b"OB", _MEDIA_SOP_CLASS: b"UI", MEDIA_STORAGE_SOP_INSTANCE_UID: b"UI", 0x00020010: b"UI", 0x00020012: b"UI",
    0x00020013: b"SH", 0x00020016: b"AE", 0x00020017: b"AE", 0x00020018: b"AE", 0x00020100: b"UI", 0x00020102: b"OB",
}  # fmt: skip


def as_it_leaves(data: Buffer, *, registry: OriginalRegistry | None = None, authorized_copies: bool = False) -> Buffer:
    """Return the file as it goes on the medium; the same object when nothing has to change.

    With `authorized_copies` an original that `registry` holds as AO leaves as AC, and what arrived as AC stays AC. Everything else
    leaves as NS. IntegrityFailure when the file differs from what was registered; UsageError when it cannot be written as the
    profiles want it.
    """
    return with_own_meta(explicit(_as_copy(data, registry, authorized_copies=authorized_copies)))


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
    except UNREADABLE:
        raise refusal from None
    written = buffer.getvalue()
    if content_digest(written) != content_digest(data):
        raise refusal
    return written


def with_own_meta(data: Buffer) -> Buffer:
    """Return a file whose meta information names the SOP Class and Instance of its data set (PS3.10 7.1): some writers do not."""
    head = read_part10(data)
    uids = uids_of(open_dataset(data))
    own = {
        _MEDIA_SOP_CLASS: uids.sop_class_uid.encode("latin-1"),
        MEDIA_STORAGE_SOP_INSTANCE_UID: uids.sop_instance_uid.encode("latin-1"),
    }
    if all(head.meta.get(tag, b"").strip(b" \0") == uid for tag, uid in own.items()):
        return data
    values = {tag: value for tag, value in {**head.meta, **own}.items() if tag in _META}
    group = b"".join(encode_element(tag, _META[tag], values[tag], EXPLICIT_LITTLE) for tag in sorted(values))
    length = encode_element(_META_LENGTH, b"UL", len(group).to_bytes(4, "little"), EXPLICIT_LITTLE)
    return b"".join((data[: PREAMBLE_SIZE + 4], length, group, data[head.dataset_offset :]))


def _swap(dataset: Dataset) -> None:
    """Turn the words of values that pydicom keeps as bytes; it turns all others itself."""
    for element in dataset.iterall():
        if isinstance(element.value, bytes):
            element.value = swap_words(element.value, element.VR.encode("ascii"))
