"""Changing what stands around a signature without touching what it covers: removing one, stamping one later (PS3.3 C.12.1.1.3).

Removal takes the signature item, the MAC Parameters item when no other signature of that data set uses it, and sequences that
become empty; every other byte of the file stays. The time stamp (0400,0305) and (0400,0310) is not hashed, so it can be added to
any signature at any time: it proves that the signature existed then. Not checked: whether the signature is valid.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa

from securepacs.dicom.edit import Changes, encode_element, join_pieces, splice
from securepacs.dicom.edit import Path as ItemPath
from securepacs.dicom.elements import UNDEFINED, Buffer, Part, tokens
from securepacs.dicom.files import write_atomically
from securepacs.dicom.part10 import EncodedDataSet, open_dataset
from securepacs.errors import MalformedError, UsageError
from securepacs.signatures.check import read_certificate
from securepacs.signatures.instances import raw_of
from securepacs.signatures.sequences import (
    CERTIFIED_TIMESTAMP,
    CERTIFIED_TIMESTAMP_TYPE,
    CMS_TSP,
    DIGITAL_SIGNATURES_SEQUENCE,
    MAC_PARAMETERS_SEQUENCE,
    Scope,
    SignatureItem,
    read_mac_parameters,
    read_signatures,
    survey,
)
from securepacs.signatures.values import der_value

if TYPE_CHECKING:
    from pydicom import Dataset


def remove(target: Dataset | Path, uid: str, *, output: Path | None = None) -> None:
    """Remove the signature with this Digital Signature UID: from a Dataset in place, from a file into `output` (PS3.3 C.12.1.1.3).

    Naming the source as `output` replaces it. UsageError when there is no such signature, or more than one.
    """
    _amend(target, output, lambda raw: remove_encoded(raw, uid))


def add_timestamp(
    target: Dataset | Path, uid: str, timestamp: Callable[[bytes], bytes], *, output: Path | None = None, replace: bool = False
) -> None:
    """Add a certified time stamp to the signature with this UID: to a Dataset in place, to a file into `output`.

    `timestamp` gets the signature value and returns a TimeStampToken over it (RFC 3161). UsageError when there is no such
    signature, more than one, or it has a time stamp that `replace` does not allow to replace: an older stamp proves more.
    """
    _amend(target, output, lambda raw: add_timestamp_encoded(raw, uid, timestamp, replace=replace))


class Amended(NamedTuple):
    """A changed DICOM file in pieces, and the top-level tags that changed, directly or inside."""

    pieces: list[Buffer]
    tags: tuple[int, ...]


def _amend(target: Dataset | Path, output: Path | None, change: Callable[[Buffer], Amended]) -> None:
    if isinstance(target, Path | str):
        if output is None:
            raise UsageError("no output is named for the changed file", hint="name the source itself to replace it")
        write_atomically(Path(output), change(raw_of(target)[0]).pieces)
        return
    if output is not None:
        raise UsageError("a Dataset is changed in place; it has no output")
    from io import BytesIO

    from pydicom import dcmread

    raw, _ = raw_of(target)
    amended = change(raw)
    changed = dcmread(BytesIO(b"".join(amended.pieces)), specific_tags=list(amended.tags))
    for tag in amended.tags:
        if tag in changed:
            target[tag] = changed[tag]
        elif tag in target:
            del target[tag]


def remove_encoded(raw: Buffer, uid: str) -> Amended:
    """Return the DICOM file `raw` without the signature."""
    dataset = open_dataset(raw)
    scope, index, items = _find(dataset, uid)
    gone = items[index].mac_id
    changes: dict[int, bytes | None] = {
        DIGITAL_SIGNATURES_SEQUENCE: _without(dataset, scope.signatures, {index}),
    }
    if all(item.mac_id != gone for number, item in enumerate(items) if number != index):
        unused = {number for number, one in enumerate(read_mac_parameters(dataset, scope)) if one.mac_id == gone}
        if unused:
            changes[MAC_PARAMETERS_SEQUENCE] = _without(dataset, scope.mac_parameters, unused)
    return _amended(raw, dataset, changes, scope.path)


def add_timestamp_encoded(raw: Buffer, uid: str, timestamp: Callable[[bytes], bytes], *, replace: bool = False) -> Amended:
    """Return the DICOM file `raw` with a time stamp in the signature."""
    dataset = open_dataset(raw)
    scope, index, items = _find(dataset, uid)
    if items[index].timestamp and not replace:
        raise UsageError("the signature has a time stamp already", hint="an older stamp proves more; see --replace")
    token = timestamp(_signature_value(items[index]))
    encoding = dataset.encoding
    changes: dict[int, bytes | None] = {
        CERTIFIED_TIMESTAMP_TYPE: encode_element(CERTIFIED_TIMESTAMP_TYPE, b"CS", CMS_TSP.encode(), encoding),
        CERTIFIED_TIMESTAMP: encode_element(CERTIFIED_TIMESTAMP, b"OB", token, encoding),
    }
    return _amended(raw, dataset, changes, (*scope.path, (DIGITAL_SIGNATURES_SEQUENCE, index)))


def _amended(raw: Buffer, dataset: EncodedDataSet, changes: Changes, path: ItemPath) -> Amended:
    return Amended(join_pieces(raw, splice(dataset, changes, path=path)), (path[0][0],) if path else tuple(changes))


def _find(dataset: EncodedDataSet, uid: str) -> tuple[Scope, int, list[SignatureItem]]:
    """Return where the signature stands: its data set, its number there, and all signatures of that data set."""
    found = [
        (scope, index, items)
        for scope in survey(dataset).scopes
        for items in [read_signatures(dataset, scope)]
        for index, item in enumerate(items)
        if item.uid == uid
    ]
    if len(found) != 1:
        many = "the file has several signatures of that UID" if found else "the file has no signature of that UID"
        raise UsageError(many, hint="see: securepacs inspect")
    return found[0]


def _signature_value(item: SignatureItem) -> bytes:
    """Return the signature without the pad byte of its OB: what a time stamp is made over."""
    key = read_certificate(item.certificate).public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return item.signature[: (key.key_size + 7) // 8]
    return der_value(item.signature)


def _without(dataset: EncodedDataSet, place: tuple[int, int] | None, gone: set[int]) -> bytes | None:
    """Return a sequence element without the items of those numbers, None when nothing is left of it."""
    if place is None:
        raise MalformedError("a signature without its sequence", standard="PS3.3 C.12.1.1.3")
    start, end = place
    pieces: list[memoryview] = []
    head = first = start
    number = -1
    for token in tokens(dataset.view, start, encoding=dataset.encoding, end=end):
        if token.part is Part.SEQUENCE and token.depth == 0:
            head = token.value_offset
        elif token.part is Part.ITEM and token.depth == 1:
            number, first = number + 1, token.offset
        elif token.part is Part.ITEM_END and token.depth == 1 and number not in gone:
            pieces.append(dataset.view[first : token.value_offset])
    if not pieces:
        return None
    header = bytearray(dataset.view[start:head])
    order = "<I" if dataset.encoding.little else ">I"
    (length,) = struct.unpack_from(order, header, len(header) - 4)
    if length == UNDEFINED:
        pieces.append(dataset.view[end - 8 : end])  # the delimiter
    else:
        struct.pack_into(order, header, len(header) - 4, sum(map(len, pieces)))
    return bytes(header) + b"".join(pieces)
