"""The four status attributes inside encoded files, and the content that they must not touch (PS3.15 A.1, invariant I3).

SOP Instance Status (0100,0410), SOP Authorization DateTime (0100,0420), SOP Authorization Comment (0100,0424) and Authorization
Equipment Certification Number (0100,0426) are written into the encoded bytes; every other byte stays, so a signature that leaves
group 0100 out still verifies. Deflated files are the exception of form: their data set is inflated and deflated again.

Pure. Files are DICOM files (PS3.10) as bytes or as the mapping that `dicom.map_file` gives.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime

from securepacs import codes
from securepacs.dicom import EncodedDataSet, Encoding, encode_element, open_dataset, read_part10, replace_elements
from securepacs.dicom.edit import swap_words
from securepacs.dicom.elements import Buffer, Part
from securepacs.errors import MalformedError, UsageError
from securepacs.originals.registry import Holding, InstanceFacts
from securepacs.originals.states import CLAUSE, SOPInstanceStatus

SOP_INSTANCE_STATUS = 0x01000410
SOP_AUTHORIZATION_DATETIME = 0x01000420
SOP_AUTHORIZATION_COMMENT = 0x01000424
AUTHORIZATION_EQUIPMENT_CERTIFICATION_NUMBER = 0x01000426
STATUS_ATTRIBUTES = (
    SOP_INSTANCE_STATUS,
    SOP_AUTHORIZATION_DATETIME,
    SOP_AUTHORIZATION_COMMENT,
    AUTHORIZATION_EQUIPMENT_CERTIFICATION_NUMBER,
)
_DATA_SET_TRAILING_PADDING = 0xFFFCFFFC
_NOT_CONTENT = frozenset({*STATUS_ATTRIBUTES, _DATA_SET_TRAILING_PADDING})
_TOKEN = struct.Struct("<BIQ")  # kind, tag, length: no two different data sets give the same stream

_SPECIFIC_CHARACTER_SET = 0x00080005
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_PIXELS_FOLLOW = 0x7FE00000
_LT_MAXIMUM = 10240
_LO_MAXIMUM = 64
_LT_CONTROLS = "\t\n\f\r"


@dataclass(frozen=True, slots=True)
class Stamp:
    """The status attributes as a file carries them. `status` is NS when (0100,0410) is absent or empty."""

    status: SOPInstanceStatus
    authorization_datetime: str = ""
    equipment: str = ""


def stamp(data: Buffer, status: SOPInstanceStatus, *, at: datetime | None = None, equipment: str = "", comment: str = "") -> bytes:
    """Return the file with its status attributes set (PS3.15 A.1); nothing else changes.

    NS drops the companions (0100,0420), (0100,0424) and (0100,0426); every other status needs `at`, and drops the comment and the
    equipment number when they are empty. UsageError for text that cannot be written. Does not check whether the status is due.
    """
    encoding = read_part10(data).encoding
    changes: dict[int, bytes | None] = dict.fromkeys(STATUS_ATTRIBUTES)
    changes[SOP_INSTANCE_STATUS] = encode_element(SOP_INSTANCE_STATUS, b"CS", status.value.encode("ascii"), encoding)
    if status is not SOPInstanceStatus.NS:
        if at is None or at.tzinfo is None:
            raise UsageError(f"status {status.value} needs the time it was given, with a zone", standard=CLAUSE)
        value = at.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f+0000").encode("ascii")
        changes[SOP_AUTHORIZATION_DATETIME] = encode_element(SOP_AUTHORIZATION_DATETIME, b"DT", value, encoding)
        changes |= _texts(data, encoding, comment=comment, equipment=equipment)
    return replace_elements(data, changes)


def stamp_holding(data: Buffer, holding: Holding) -> bytes:
    """Return the file stamped as the registry says."""
    return stamp(data, holding.status, at=holding.since, equipment=holding.equipment, comment=holding.comment)


def read_stamp(data: Buffer) -> Stamp:
    """Return the status attributes of a file. MalformedError for a status that PS3.3 C.12.1 does not define."""
    values = _values(open_dataset(data), frozenset(STATUS_ATTRIBUTES))
    text = _text(values, SOP_INSTANCE_STATUS)
    if text and text not in SOPInstanceStatus.__members__:
        raise MalformedError("the file has an unknown SOP Instance Status", standard="PS3.3 C.12.1")
    return Stamp(
        SOPInstanceStatus(text) if text else SOPInstanceStatus.NS,
        _text(values, SOP_AUTHORIZATION_DATETIME),
        _text(values, AUTHORIZATION_EQUIPMENT_CERTIFICATION_NUMBER),
    )


def content_digest(data: Buffer) -> str:
    """Return SHA-256 (hex) over everything a DICOM file says, apart from the status attributes, however it is written down.

    Covered are all elements at every depth, private ones and those of unknown VR included: tag, value and structure. Equal before
    and after stamping, and after a hop that only writes the data set in another way: explicit or implicit VR, byte order, deflated
    or not, explicit or undefined lengths, group lengths, trailing padding, preamble, meta information. Compressing, decompressing
    or padding a value differently makes other content.
    """
    return _digest(open_dataset(data))


def facts_of(data: Buffer) -> InstanceFacts:
    """Return what the registry keeps of an instance. MalformedError when one of its UIDs is missing or none."""
    dataset = open_dataset(data)
    values = _values(dataset, frozenset({_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID}))
    return InstanceFacts(
        sop_instance_uid=_uid(values, _SOP_INSTANCE_UID),
        sop_class_uid=_uid(values, _SOP_CLASS_UID),
        study_instance_uid=_uid(values, _STUDY_INSTANCE_UID),
        series_instance_uid=_uid(values, _SERIES_INSTANCE_UID),
        content_sha256=_digest(dataset),
    )


def check_texts(*, comment: str, equipment: str) -> None:
    """Refuse, with UsageError, texts that do not fit LT (0100,0424) or LO (0100,0426) (PS3.5 6.2)."""
    if len(comment) > _LT_MAXIMUM or not all(char.isprintable() or char in _LT_CONTROLS for char in comment):
        raise UsageError(f"the authorization comment has at most {_LT_MAXIMUM} printable characters", standard="PS3.5 6.2")
    if len(equipment) > _LO_MAXIMUM or "\\" in equipment or not equipment.isascii() or not equipment.isprintable():
        raise UsageError(
            f"the equipment certification number has at most {_LO_MAXIMUM} ASCII characters and no backslash", standard="PS3.5 6.2"
        )


def check_comment(data: Buffer, comment: str) -> None:
    """Refuse, with UsageError, a comment that the character set of this file cannot write."""
    if not comment.isascii():
        _in_character_set(data, comment)


def _texts(data: Buffer, encoding: Encoding, *, comment: str, equipment: str) -> dict[int, bytes]:
    check_texts(comment=comment, equipment=equipment)
    texts: dict[int, bytes] = {}
    if comment:
        value = comment.encode("ascii") if comment.isascii() else _in_character_set(data, comment)
        texts[SOP_AUTHORIZATION_COMMENT] = encode_element(SOP_AUTHORIZATION_COMMENT, b"LT", value, encoding)
    if equipment:
        number = AUTHORIZATION_EQUIPMENT_CERTIFICATION_NUMBER
        texts[number] = encode_element(number, b"LO", equipment.encode("ascii"), encoding)
    return texts


def _in_character_set(data: Buffer, text: str) -> bytes:
    """Encode text in the file's Specific Character Set: adding another would change what the other texts mean."""
    from pydicom.charset import convert_encodings, decode_bytes, encode_string

    names = _text(_values(open_dataset(data), frozenset({_SPECIFIC_CHARACTER_SET})), _SPECIFIC_CHARACTER_SET)
    encodings = convert_encodings([name.strip() for name in names.split("\\")])
    with warnings.catch_warnings(action="ignore"):  # what cannot be written is replaced with a warning; compared instead
        encoded = encode_string(text, encodings)
        if decode_bytes(encoded, encodings, set()) != text:
            hint = "use ASCII letters"
            raise UsageError("the file's character set cannot write this comment", hint=hint, standard="PS3.3 C.12.1.1.2")
    return encoded


def _digest(dataset: EncodedDataSet) -> str:
    digest = hashlib.sha256(_syntax(dataset.transfer_syntax).encode("ascii") + b"\0")
    for token in dataset.tokens():
        if token.part is Part.ELEMENT or token.part is Part.FRAGMENT:
            if token.tag & 0xFFFF == 0 or (token.depth == 0 and token.tag in _NOT_CONTENT):
                continue
            value = dataset.value(token)
            digest.update(_TOKEN.pack(token.part.value, token.tag, len(value)))
            digest.update(value if dataset.encoding.little else swap_words(value, token.vr))
        else:
            digest.update(_TOKEN.pack(token.part.value, token.tag, 0))
    return digest.hexdigest()


def _syntax(transfer_syntax: str) -> str:
    """Return what a transfer syntax says about values: the encodings of native data are one."""
    return codes.EXPLICIT_VR_LITTLE_ENDIAN if transfer_syntax in codes.NATIVE_TRANSFER_SYNTAXES else transfer_syntax


def _values(dataset: EncodedDataSet, tags: frozenset[int]) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    for element in dataset.elements():
        if element.tag >= _PIXELS_FOLLOW:
            break
        if element.tag in tags:
            if element.tag in values:
                raise MalformedError("an element stands twice", offset=element.offset, standard="PS3.5 7.1")
            values[element.tag] = bytes(dataset.value(element))
    return values


def _text(values: dict[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("latin-1").strip(" \0")


def _uid(values: dict[int, bytes], tag: int) -> str:
    text = _text(values, tag)
    if not text or len(text) > 64 or not all(component.isdigit() and component.isascii() for component in text.split(".")):
        raise MalformedError(f"the instance has no valid ({tag >> 16:04X},{tag & 0xFFFF:04X})", standard="PS3.5 9.1")
    return text
