"""The DICOMDIR of a file-set (PS3.3 F, PS3.10 8.6): a tree of directory records, written as one sequence that offsets run through.

Offsets count from the first byte of the DICOMDIR itself, before it is encrypted: a reader decrypts and then follows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import zip_longest

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from securepacs.dicom import encode_element, encode_sequence
from securepacs.dicom.elements import EXPLICIT_LITTLE
from securepacs.errors import MalformedError, UsageError
from securepacs.media.directory_records import UNREADABLE, Records
from securepacs.media.file_ids import FileId, is_legal

_FILE_SET_ID, _FIRST, _LAST, _CONSISTENT, _SEQUENCE = 0x00041130, 0x00041200, 0x00041202, 0x00041212, 0x00041220
_ITEM_HEAD = 8
_IN_USE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the set."""

    file_id: FileId
    records: Records
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(slots=True)
class _Node:
    record: Dataset
    children: dict[str, _Node] = field(default_factory=dict)
    offset: int = 0

    def walk(self) -> Iterator[_Node]:
        for child in self.children.values():
            yield child
            yield from child.walk()


def build_dicomdir(entries: Iterable[Entry]) -> bytes:
    """Return the DICOMDIR, a DICOM file in Explicit VR Little Endian, that names every entry; UsageError when there is none.

    Records stand in the order in which the entries come; what a record says of patient, study and series is what the first entry of
    it says.
    """
    root = _tree(entries)
    nodes = list(root.walk())
    if not nodes:
        raise UsageError("a file-set holds at least one file", standard="PS3.11 D.3.3")
    head = _head()
    start = len(head) + len(_before(0, 0)) + len(encode_sequence(_SEQUENCE, [], EXPLICIT_LITTLE))
    for node in nodes:
        node.offset = start
        start += _ITEM_HEAD + len(_encoded(node.record))
    _link(root)
    top = list(root.children.values())
    items = [_encoded(node.record) for node in nodes]
    return head + _before(top[0].offset, top[-1].offset) + encode_sequence(_SEQUENCE, items, EXPLICIT_LITTLE)


def _tree(entries: Iterable[Entry]) -> _Node:
    root = _Node(Dataset())
    for entry in entries:
        if not is_legal(entry.file_id):
            raise UsageError("a file has no legal File ID", standard="PS3.10 8.2")
        node = root
        for key, record in entry.records.levels():
            if key not in node.children:
                node.children[key] = _Node(_started(record))
            node = node.children[key]
        if "ReferencedFileID" in node.record:
            raise UsageError("an instance is given twice", standard="PS3.10 8.6")
        node.record.ReferencedFileID = list(entry.file_id)
        node.record.ReferencedSOPClassUIDInFile = entry.sop_class_uid
        node.record.ReferencedSOPInstanceUIDInFile = entry.sop_instance_uid
        node.record.ReferencedTransferSyntaxUIDInFile = entry.transfer_syntax_uid
    return root


def _started(record: Dataset) -> Dataset:
    record.OffsetOfTheNextDirectoryRecord = 0
    record.RecordInUseFlag = _IN_USE
    record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    return record


def _link(parent: _Node) -> None:
    children = list(parent.children.values())
    for child, following in zip_longest(children, children[1:]):
        child.record.OffsetOfTheNextDirectoryRecord = following.offset if following is not None else 0
        lower = next(iter(child.children.values()), None)
        child.record.OffsetOfReferencedLowerLevelDirectoryEntity = lower.offset if lower is not None else 0
        _link(child)


def _head() -> bytes:
    """Return preamble and file meta information."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _before(first: int, last: int) -> bytes:
    """Return what stands between the meta information and the records."""
    elements = (
        (_FILE_SET_ID, b"CS", b""),
        (_FIRST, b"UL", first.to_bytes(4, "little")),
        (_LAST, b"UL", last.to_bytes(4, "little")),
        (_CONSISTENT, b"US", b"\0\0"),  # no known inconsistencies
    )
    return b"".join(encode_element(tag, vr, value, EXPLICIT_LITTLE) for tag, vr, value in elements)


def _encoded(record: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    try:
        write_dataset(buffer, record)
    except UNREADABLE:
        raise MalformedError("an instance has a value that no directory can repeat", standard="PS3.5 6.2") from None
    return buffer.getvalue()
