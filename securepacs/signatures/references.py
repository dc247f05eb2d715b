"""Secure references of SR and Key Object documents to instances (PS3.3 C.17.2.1, PS3.15 A.4), in encoded form.

An item of Current Requested Procedure Evidence (0040,A375) or Pertinent Other Evidence (0040,A385) names an instance and may hold
Referenced SOP Instance MAC (0400,0403), the bare digest over the byte stream that a signature would cover, without any field of a
signature, and Referenced Digital Signature (0400,0402), copies of signatures that the instance carries.

References made here cover every element that can be signed at all, outside group 0100, so an instance may change its status and
nothing else. Pure; `reference_check` compares references with instances, `manifests` writes documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import TypeAlias

from securepacs import codes
from securepacs.dicom.edit import swap_words
from securepacs.dicom.elements import Buffer, Part
from securepacs.dicom.part10 import EncodedDataSet, open_dataset
from securepacs.errors import IntegrityFailure, MalformedError
from securepacs.signatures.mac import MacStream
from securepacs.signatures.profiles import (
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STATUS_GROUP,
    STUDY_INSTANCE_UID,
    is_signable,
)
from securepacs.signatures.sequences import (
    DATA_ELEMENTS_SIGNED,
    DIGITAL_SIGNATURE_UID,
    MAC_ALGORITHM,
    MAC_CALCULATION_TRANSFER_SYNTAX_UID,
    SIGNATURE,
)

CLAUSE = "PS3.15 A.4"
DIGEST = "SHA256"
ACCEPTED_ALGORITHMS = {
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA512": "sha512",
}  # of the six of Annex C, those not weak or ageing

CURRENT_EVIDENCE = 0x0040A375
OTHER_EVIDENCE = 0x0040A385
EVIDENCE = (CURRENT_EVIDENCE, OTHER_EVIDENCE)
_REFERENCED_SERIES_SEQUENCE = 0x00081115
_REFERENCED_SOP_SEQUENCE = 0x00081199
_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_REFERENCED_DIGITAL_SIGNATURE_SEQUENCE = 0x04000402
_REFERENCED_SOP_INSTANCE_MAC_SEQUENCE = 0x04000403
_MAC = 0x04000404

_Tree: TypeAlias = "dict[int, bytes | list[_Tree]]"


@dataclass(frozen=True, slots=True)
class InstanceMac:
    """One item of (0400,0403): `tags` are those of the referenced instance, ascending."""

    transfer_syntax: str
    algorithm: str
    tags: tuple[int, ...]
    mac: bytes


@dataclass(frozen=True, slots=True)
class SignatureCopy:
    """One item of (0400,0402): UID and value of a signature that the referenced instance carries."""

    uid: str
    value: bytes


@dataclass(frozen=True, slots=True)
class InstanceUids:
    """The four UIDs by which an instance is known; those it does not have are empty."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class SecureReference:
    """One referenced instance; without `mac` and `signatures` it is unsecured. `sequence`: tag of its evidence sequence."""

    sequence: int
    instance: InstanceUids
    mac: InstanceMac | None = None
    signatures: tuple[SignatureCopy, ...] = ()


def uids_of(dataset: EncodedDataSet) -> InstanceUids:
    """Return the UIDs that an instance states."""
    wanted = (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_CLASS_UID, SOP_INSTANCE_UID)
    found: dict[int, bytes] = {}
    for element in dataset.elements():
        if element.tag > SERIES_INSTANCE_UID:
            break
        if element.tag in wanted:
            found[element.tag] = bytes(dataset.value(element))
    return InstanceUids(*(found.get(tag, b"").decode("latin-1").strip(" \0") for tag in wanted))


# --- the MAC of an instance -----------------------------------------------------------------------------------------


def mac_of(data: Buffer) -> InstanceMac:
    """Return the secure reference to a DICOM file: SHA-256 over everything signable outside group 0100."""
    dataset = open_dataset(data)
    tags = referable_tags(dataset)
    return InstanceMac(mac_syntax(dataset), DIGEST, tags, mac_digest(dataset, tags, ACCEPTED_ALGORITHMS[DIGEST]))


def check_mac(data: Buffer, reference: InstanceMac) -> None:
    """Compare a DICOM file with a secure reference to it; IntegrityFailure when they do not agree.

    Also refused: a weak hash, a reference that leaves out an element that could have been covered, and one made over another
    transfer syntax, whose bytes are not at hand.
    """
    name = ACCEPTED_ALGORITHMS.get(reference.algorithm)
    if name is None:
        raise IntegrityFailure(f"a reference uses the MAC algorithm {reference.algorithm!r}", standard=CLAUSE)
    dataset = open_dataset(data)
    missing = set(referable_tags(dataset)) - set(reference.tags)
    if missing:
        tag = min(missing)
        raise IntegrityFailure(
            f"a reference leaves out {len(missing)} elements of the instance, first ({tag >> 16:04X},{tag & 0xFFFF:04X})",
            hint="the instance was changed after it was signed for, or the document covers only a part of it",
            standard=CLAUSE,
        )
    if reference.transfer_syntax != mac_syntax(dataset):
        raise IntegrityFailure("a reference was made over another transfer syntax than that of the file", standard=CLAUSE)
    if mac_digest(dataset, reference.tags, name) != reference.mac:
        raise IntegrityFailure("an instance differs from what was signed for", standard=CLAUSE)


def referable_tags(dataset: EncodedDataSet) -> tuple[int, ...]:
    """Return the top-level tags that may be in a MAC and are not status attributes; a UN at any depth bars its whole element."""
    found: list[int] = []
    barred: set[int] = set()
    top = 0
    for token in dataset.tokens():
        if token.depth == 0 and token.part in (Part.ELEMENT, Part.SEQUENCE, Part.FRAGMENTS):
            top = token.tag
            if top >> 16 != STATUS_GROUP and is_signable(top, token.vr):
                found.append(top)
        if token.vr == b"UN":
            barred.add(top)
    return tuple(tag for tag in found if tag not in barred)


def mac_syntax(dataset: EncodedDataSet) -> str:
    """Return the transfer syntax a MAC names: the file's own for encapsulated data, explicit VR little endian otherwise."""
    native = dataset.transfer_syntax in codes.NATIVE_TRANSFER_SYNTAXES
    return codes.EXPLICIT_VR_LITTLE_ENDIAN if native else dataset.transfer_syntax


def mac_digest(dataset: EncodedDataSet, tags: Iterable[int], name: str) -> bytes:
    """Return the bare digest over the elements of an instance, `name` being hashlib's. UnsignableError as `MacStream`."""
    digest = hashlib.new(name, usedforsecurity=False)
    MacStream(digest.update).feed(dataset.view, dataset.tokens(), frozenset(tags), dataset.encoding)
    return digest.digest()


# --- what a document references -------------------------------------------------------------------------------------


def read_references(dataset: EncodedDataSet) -> tuple[SecureReference, ...]:
    """Return the references in the evidence sequences of a document, in file order. MalformedError when they cannot be read."""
    tree = _tree(dataset)
    return tuple(reference for tag in EVIDENCE for reference in _references(tag, _items(tree, tag)))


def _references(sequence: int, studies: list[_Tree]) -> Iterator[SecureReference]:
    for study in studies:
        for series in _items(study, _REFERENCED_SERIES_SEQUENCE):
            for item in _items(series, _REFERENCED_SOP_SEQUENCE):
                uids = InstanceUids(
                    _text(study, STUDY_INSTANCE_UID),
                    _text(series, SERIES_INSTANCE_UID),
                    _text(item, _REFERENCED_SOP_CLASS_UID),
                    _text(item, _REFERENCED_SOP_INSTANCE_UID),
                )
                if not all(astuple(uids)):
                    raise MalformedError("a reference lacks one of its UIDs", standard="PS3.3 C.17.2.1")
                macs = _items(item, _REFERENCED_SOP_INSTANCE_MAC_SEQUENCE)
                if len(macs) > 1:
                    raise MalformedError("a reference has more than one MAC", standard="PS3.3 C.17.2.1")
                copies = tuple(
                    SignatureCopy(_text(one, DIGITAL_SIGNATURE_UID), _value(one, SIGNATURE))
                    for one in _items(item, _REFERENCED_DIGITAL_SIGNATURE_SEQUENCE)
                )
                yield SecureReference(sequence, uids, _mac(macs[0]) if macs else None, copies)


def _mac(item: _Tree) -> InstanceMac:
    raw = _value(item, DATA_ELEMENTS_SIGNED)
    needed = (_MAC, MAC_ALGORITHM, MAC_CALCULATION_TRANSFER_SYNTAX_UID)
    if not raw or len(raw) % 4 or not all(_value(item, tag) for tag in needed):
        raise MalformedError("a referenced MAC is incomplete", standard="PS3.3 C.17.2.1")
    tags = (raw[at : at + 4] for at in range(0, len(raw), 4))
    return InstanceMac(
        _text(item, MAC_CALCULATION_TRANSFER_SYNTAX_UID),
        _text(item, MAC_ALGORITHM),
        tuple(int.from_bytes(tag[:2], "little") << 16 | int.from_bytes(tag[2:], "little") for tag in tags),
        _value(item, _MAC),
    )


def _tree(dataset: EncodedDataSet) -> _Tree:
    """Return the evidence sequences as nested dictionaries, values in little endian."""
    root: _Tree = {}
    levels = [root]
    sequences: list[list[_Tree]] = []
    inside = False
    for token in dataset.tokens():
        part = token.part
        if token.depth == 0 and part in (Part.ELEMENT, Part.SEQUENCE, Part.FRAGMENTS):
            inside = token.tag in EVIDENCE
        if not inside:
            continue
        if part in (Part.ELEMENT, Part.SEQUENCE) and token.tag in levels[-1]:
            raise MalformedError("an element stands twice", offset=token.offset, standard="PS3.5 7.1")
        if part is Part.ELEMENT:
            value = dataset.value(token)
            levels[-1][token.tag] = bytes(value) if dataset.encoding.little else swap_words(value, token.vr)
        elif part is Part.SEQUENCE:
            sequences.append([])
            levels[-1][token.tag] = sequences[-1]
        elif part is Part.ITEM:
            levels.append({})
            sequences[-1].append(levels[-1])
        elif part is Part.ITEM_END:
            levels.pop()
        elif part is Part.SEQUENCE_END:
            sequences.pop()
    return root


def _items(tree: _Tree, tag: int) -> list[_Tree]:
    found = tree.get(tag, [])
    if isinstance(found, bytes):
        raise MalformedError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is no sequence that can be read", standard="PS3.5 7.5")
    return found


def _value(tree: _Tree, tag: int) -> bytes:
    found = tree.get(tag, b"")
    return found if isinstance(found, bytes) else b""


def _text(tree: _Tree, tag: int) -> str:
    return _value(tree, tag).decode("latin-1").strip(" \0")
