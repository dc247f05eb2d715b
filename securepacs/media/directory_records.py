"""What the directory records of a DICOMDIR say about an instance (PS3.3 F.5), with the keys that PS3.11 D.3.3 and H.3.3 add.

The keys of each type of record are those of pydicom. Many are type 1 in a directory though an instance may leave them out: what is
missing is supplied here, as PS3.11 D.3.3.1 asks of a file-set creator.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.fileset import DIRECTORY_RECORDERS
from pydicom.sequence import Sequence as Items

from securepacs.errors import MalformedError, UsageError

UNREADABLE = (  # what pydicom raises for values that are not what their VR says
    ValueError, TypeError, KeyError, AttributeError, OverflowError, NotImplementedError, OSError, EOFError, BytesLengthException,
    InvalidDicomError,
)  # fmt: skip

_CLAUSE = "PS3.3 F.5"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_TYPES = {  # by what follows the common root of storage SOP Classes; one that ends in "." stands for all below it
    "4.2": "SPECTROSCOPY", "9.": "WAVEFORM", "11.": "PRESENTATION", "66": "RAW DATA", "66.1": "REGISTRATION",
    "66.2": "FIDUCIAL", "66.3": "REGISTRATION", "66.5": "SURFACE", "66.6": "TRACT", "67": "VALUE MAP", "68.1": "SURFACE SCAN",
    "68.2": "SURFACE SCAN", "77.1.5.3": "STEREOMETRIC", "78.": "MEASUREMENT", "78.6": "SR DOCUMENT", "79.1": "SR DOCUMENT",
    "80.1": "MEASUREMENT", "88.": "SR DOCUMENT", "88.59": "KEY OBJECT DOC", "90.1": "ASSESSMENT", "104.": "ENCAP DOC",
    "131": "PRESENTATION", "481.2": "RT DOSE", "481.3": "RT STRUCTURE SET", "481.4": "RT TREAT RECORD", "481.5": "RT PLAN",
    "481.6": "RT TREAT RECORD", "481.7": "RT TREAT RECORD", "481.8": "RT PLAN", "481.9": "RT TREAT RECORD",
}  # fmt: skip
_NOT_OF_A_PATIENT = ("1.2.840.10008.5.1.4.38.", "1.2.840.10008.5.1.4.39.", "1.2.840.10008.5.1.4.43.", "1.2.840.10008.5.1.4.44.",
                     "1.2.840.10008.5.1.4.45.")  # fmt: skip
_PATIENT_KEYS = ("PatientBirthDate", "PatientSex")
_SERIES_KEYS = ("InstitutionName", "InstitutionAddress", "PerformingPhysicianName")
_IMAGE_KEYS = (
    "ImageType", "Rows", "Columns", "NumberOfFrames", "FrameOfReferenceUID", "SynchronizationFrameOfReferenceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "LossyImageCompressionRatio",
)  # fmt: skip
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate")
_TIMES = ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime")
_VERIFIED = "VerificationDateTime"
_UNKNOWN = {"PatientID": "UNKNOWN", "StudyDate": "19000101", "StudyTime": "000000", "StudyID": "UNKNOWN", "Modality": "OT"}


@dataclass(frozen=True, slots=True)
class Records:
    """The four records of one instance, outermost first, and what tells records of one level apart."""

    patient: tuple[str, Dataset]
    study: tuple[str, Dataset]
    series: tuple[str, Dataset]
    instance: tuple[str, Dataset]

    def levels(self) -> tuple[tuple[str, Dataset], ...]:
        """Return key and record of every level."""
        return self.patient, self.study, self.series, self.instance


def record_type(sop_class_uid: str) -> str:
    """Return the Directory Record Type (0004,1430) of a SOP Class; IMAGE for all that have no other (PS3.3 F.4)."""
    if sop_class_uid.startswith(_NOT_OF_A_PATIENT):
        raise UsageError("the SOP Class belongs to no patient, and such files are not published", standard=_CLAUSE)
    ending = sop_class_uid.removeprefix(_STORAGE)
    if ending == sop_class_uid:
        return "IMAGE"
    found = (kind for start, kind in _TYPES.items() if start.endswith(".") and ending.startswith(start))
    return _TYPES.get(ending) or next(found, "IMAGE")


def records_of(head: Dataset, number: int) -> Records:
    """Return the directory records of an instance read without pixel data; `number` stands in for a missing Instance Number.

    MalformedError when the instance lacks what its IOD asks for and a directory needs, or has values that cannot be read.
    """
    try:
        return _records_of(head, number)
    except UNREADABLE:
        text = "an instance has a value that is not what its value representation says"
        raise MalformedError(text, hint="ask its maker for a correct instance", standard="PS3.5 6.2") from None


def _records_of(head: Dataset, number: int) -> Records:
    filled = Dataset()
    for tag in head.keys():  # noqa: SIM118  # a Dataset iterates over its elements, and decodes them all
        if not tag.is_private:
            filled[tag] = head.get_item(tag)
    _supply(filled, number)
    kind = record_type(str(head.SOPClassUID))
    keys = (
        str(filled.PatientID).strip(),
        str(filled.StudyInstanceUID),
        str(filled.SeriesInstanceUID),
        str(filled.SOPInstanceUID),
    )
    records = [_record(filled, each) for each in ("PATIENT", "STUDY", "SERIES", kind)]
    _copy(filled, records[0], _PATIENT_KEYS)
    _copy(filled, records[2], _SERIES_KEYS)
    if kind == "IMAGE":
        _copy(filled, records[3], _IMAGE_KEYS)
        _copy_referenced_images(filled, records[3])
    return Records(*zip(keys, records, strict=True))


def _record(filled: Dataset, kind: str) -> Dataset:
    try:
        record: Dataset = DIRECTORY_RECORDERS[kind](filled)
    except UNREADABLE:
        text = f"an instance lacks an element that its directory record ({kind}) needs"
        raise MalformedError(text, hint="ask its maker for a complete instance", standard=_CLAUSE) from None
    record.DirectoryRecordType = kind
    if "SpecificCharacterSet" in filled:
        record.SpecificCharacterSet = filled.SpecificCharacterSet
    return record


def _supply(filled: Dataset, number: int) -> None:
    """Supply what a directory needs and an instance may leave empty; shorten what a directory must not repeat."""
    for keyword, others in (("StudyDate", _DATES), ("StudyTime", _TIMES)):
        known = next((filled[name].value for name in others if _has(filled, name)), None)
        if known is not None:
            setattr(filled, keyword, known)
    for keyword, value in _UNKNOWN.items():
        if not _has(filled, keyword):
            setattr(filled, keyword, value)
    for keyword, instead in (("SeriesNumber", 0), ("InstanceNumber", number + 1)):
        if not _has(filled, keyword):
            setattr(filled, keyword, instead)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if not _has(filled, keyword):
            raise MalformedError("an instance lacks one of its UIDs", standard="PS3.3 C.12.1")
    verified = [item.VerificationDateTime for item in filled.get("VerifyingObserverSequence") or () if _has(item, _VERIFIED)]
    if verified and filled.get("VerificationFlag") == "VERIFIED":
        setattr(filled, _VERIFIED, max(verified))
    if "ContentSequence" in filled:  # of a document only what modifies its title stands in the directory (PS3.3 F.5.23, F.5.24)
        modifiers = [item for item in filled.ContentSequence or () if item.get("RelationshipType") == "HAS CONCEPT MOD"]
        del filled.ContentSequence
        if modifiers:
            filled.ContentSequence = Items(modifiers)


def _has(dataset: Dataset, keyword: str) -> bool:
    return keyword in dataset and dataset[keyword].VM > 0 and str(dataset[keyword].value).strip(" \0") != ""


def _copy(filled: Dataset, record: Dataset, keywords: tuple[str, ...]) -> None:
    for keyword in keywords:
        if _has(filled, keyword):
            setattr(record, keyword, filled[keyword].value)


def _copy_referenced_images(filled: Dataset, record: Dataset) -> None:
    items = []
    for referenced in filled.get("ReferencedImageSequence") or ():
        if _has(referenced, "ReferencedSOPClassUID") and _has(referenced, "ReferencedSOPInstanceUID"):
            item = Dataset()
            _copy(referenced, item, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))
            items.append(item)
    if items:
        record.ReferencedImageSequence = Items(items)
