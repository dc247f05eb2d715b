"""What an identifier of C-FIND, C-GET or C-MOVE asks for, as a policy sees it (PS3.4 C.2.2.2)."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.datadict import dictionary_VR, keyword_for_tag

from securepacs.errors import MalformedError
from securepacs_proxy.dicom import head

_ADMINISTRATIVE = frozenset((head.SPECIFIC_CHARACTER_SET, head.QUERY_RETRIEVE_LEVEL, 0x00080201))
MAX_STUDIES = 256
_NAME_PREFIX = 2  # a name with a trailing * counts as filled in from so many characters on


@dataclass(frozen=True, slots=True)
class Asked:
    """`keys` are the keywords of keys that name something: a value without wildcard and without range.

    A trailing * after at least two characters of a person name is no wildcard here, because viewers always add it. Values of
    sequences are not looked into. `patient_id` is empty when it is absent or holds wildcards.
    """

    level: str
    keys: frozenset[str]
    patient_id: str
    study_instance_uids: tuple[str, ...]


def read(identifier: bytes, transfer_syntax: str, *, limit: int) -> Asked:
    """Read a whole identifier. Raises MalformedError."""
    values = head.read_identifier(identifier, transfer_syntax, limit=limit)
    named = {tag for tag in values if tag not in _ADMINISTRATIVE and _names_something(tag, values)}
    studies = tuple(uid for uid in head.uid_value(values, head.STUDY_INSTANCE_UID).split("\\") if uid)
    if len(studies) > MAX_STUDIES:
        raise MalformedError("identifier names too many studies")
    return Asked(
        level=head.text_value(values, head.QUERY_RETRIEVE_LEVEL),
        keys=frozenset(keyword_for_tag(tag) or f"{tag:08X}" for tag in named),
        patient_id=head.text_value(values, head.PATIENT_ID) if head.PATIENT_ID in named else "",
        study_instance_uids=studies,
    )


def _names_something(tag: int, values: dict[int, bytes]) -> bool:
    value = values[tag].strip(b" \0")
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        vr = "UN"
    if vr == "PN" and value.endswith(b"*") and len(value) > _NAME_PREFIX:
        value = value[:-1]
    if vr in ("DA", "TM", "DT") and b"-" in value:
        return False
    return bool(value) and b"*" not in value and b"?" not in value and bool(value.strip(b"\\^= "))
