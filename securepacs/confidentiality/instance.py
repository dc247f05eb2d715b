"""A DICOM file in and out: what both directions of attribute confidentiality share (PS3.10 7.1)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from securepacs.confidentiality.tree import Attribute, Standing, standing
from securepacs.dicom import EncodedDataSet, Encoding, encode_element, map_file, open_dataset, read_part10, write_atomically
from securepacs.dicom.elements import EXPLICIT_LITTLE, Buffer
from securepacs.dicom.part10 import PREAMBLE_SIZE, deflate, is_deflated
from securepacs.dicom.preamble import require_harmless
from securepacs.errors import MalformedError

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
PATIENT_IDENTITY_REMOVED = 0x00120062
METHOD, METHOD_CODES = 0x00120063, 0x00120064
LONGITUDINAL_MODIFIED = 0x00280303
ENCRYPTED_ATTRIBUTES, MODIFIED_ATTRIBUTES = 0x04000500, 0x04000550
ENCRYPTED_CONTENT_SYNTAX, ENCRYPTED_CONTENT = 0x04000510, 0x04000520

_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_IMPLEMENTATION_CLASS_UID = "2.25.222691588294514649117151030737063796751"
_IMPLEMENTATION_VERSION_NAME = "SECUREPACS"


class Instance:
    """One SOP instance as it stands in a file: `attributes` by tag, in file order, group lengths left out."""

    def __init__(self, src: bytes | Path) -> None:
        data: Buffer = src if isinstance(src, bytes) else map_file(src)
        self._head = read_part10(data)
        require_harmless(bytes(data[:PREAMBLE_SIZE]))
        self.dataset: EncodedDataSet = open_dataset(data)
        self.attributes: dict[int, Standing] = {}
        for each in standing(self.dataset):
            if each.tag in self.attributes:  # two readers would choose differently
                raise MalformedError(f"{tag_text(each.tag)} occurs twice", offset=each.start, standard="PS3.5 7.1")
            if each.tag & 0xFFFF:
                self.attributes[each.tag] = each
        if self.text(SOP_CLASS_UID) in ("", _MEDIA_STORAGE_DIRECTORY) or not self.text(SOP_INSTANCE_UID):
            raise MalformedError("the file holds no SOP instance", hint="a DICOMDIR is made anew from the new files")

    @property
    def transfer_syntax(self) -> str:
        """The transfer syntax UID, the same in and out."""
        return self._head.transfer_syntax

    @property
    def encoding(self) -> Encoding:
        """How element headers are written."""
        return self._head.encoding

    def text(self, tag: int) -> str:
        """Return the value of a top-level attribute without padding, one character for each octet; "" when it is absent."""
        found = self.attributes.get(tag)
        return found.read().text.strip() if found is not None and not found.is_sequence else ""

    def pieces(self, changed: Mapping[int, Attribute | None]) -> list[Buffer]:
        """Return the pieces of a new file: attributes inserted, replaced or (None) removed, everything else as it stands."""
        encoding = self.encoding
        encoded: dict[int, Buffer] = {tag: each.encoded for tag, each in self.attributes.items() if tag not in changed}
        encoded |= {tag: new.encode(encoding) for tag, new in changed.items() if new is not None}
        body = [encoded[tag] for tag in sorted(encoded)]
        uid = changed.get(SOP_INSTANCE_UID)
        head = _meta_information(
            self.text(SOP_CLASS_UID), uid.text if uid is not None else self.text(SOP_INSTANCE_UID), self.transfer_syntax
        )
        return [head, deflate(b"".join(body))] if is_deflated(self.transfer_syntax) else [head, *body]


def _meta_information(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Return a new preamble and file meta information: what another writer left there would tell of the original (PS3.15 E.1.1)."""
    values = (
        (0x00020002, b"UI", sop_class),
        (0x00020003, b"UI", sop_instance),
        (0x00020010, b"UI", transfer_syntax),
        (0x00020012, b"UI", _IMPLEMENTATION_CLASS_UID),
        (0x00020013, b"SH", _IMPLEMENTATION_VERSION_NAME),
    )
    group = encode_element(0x00020001, b"OB", b"\0\1", EXPLICIT_LITTLE)
    group += b"".join(encode_element(tag, vr, value.encode("latin-1"), EXPLICIT_LITTLE) for tag, vr, value in values)
    length = encode_element(0x00020000, b"UL", struct.pack("<I", len(group)), EXPLICIT_LITTLE)
    return bytes(PREAMBLE_SIZE) + b"DICM" + length + group


def delivered(pieces: Iterable[Buffer], output: Path | None) -> bytes:
    """Write the file whole or not at all and return b"", or return it when there is no `output`."""
    if output is None:
        return b"".join(pieces)
    write_atomically(output, pieces)
    return b""


def tag_text(tag: int) -> str:
    """Write a tag as the standard does."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
