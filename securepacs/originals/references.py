"""Secure references to instances by their MAC: Referenced SOP Instance MAC Sequence (0400,0403), PS3.3 C.17.2.1, PS3.15 A.4.

The MAC is the bare digest over the same byte stream that a signature would cover, without any field of a signature. References made
here cover every element that can be signed at all, outside group 0100, so an authorized original may change its status and nothing
else. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from securepacs import codes
from securepacs.dicom import EncodedDataSet, open_dataset
from securepacs.dicom.elements import Buffer, Part
from securepacs.errors import IntegrityFailure
from securepacs.signatures.mac import MacStream
from securepacs.signatures.profiles import STATUS_GROUP, is_signable

CLAUSE = "PS3.15 A.4"
MAC_ALGORITHM = "SHA256"
ACCEPTED_ALGORITHMS = {
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA512": "sha512",
}  # of the six of Annex C, those not weak or ageing


@dataclass(frozen=True, slots=True)
class InstanceMac:
    """One item of (0400,0403): `tags` are those of the referenced instance, ascending."""

    transfer_syntax: str
    algorithm: str
    tags: tuple[int, ...]
    mac: bytes


def mac_of(data: Buffer) -> InstanceMac:
    """Return the secure reference to a DICOM file: SHA-256 over everything signable outside group 0100."""
    dataset = open_dataset(data)
    tags = _signable_tags(dataset)
    return InstanceMac(_mac_syntax(dataset), MAC_ALGORITHM, tags, _digest(dataset, tags, ACCEPTED_ALGORITHMS[MAC_ALGORITHM]))


def check_mac(data: Buffer, reference: InstanceMac) -> None:
    """Compare a DICOM file with a secure reference to it; IntegrityFailure when they do not agree.

    Also refused: a weak hash, a reference that leaves out an element that could have been covered, and one made over another
    transfer syntax, whose bytes are not at hand.
    """
    name = ACCEPTED_ALGORITHMS.get(reference.algorithm)
    if name is None:
        raise IntegrityFailure(f"a reference uses the MAC algorithm {reference.algorithm!r}", standard=CLAUSE)
    dataset = open_dataset(data)
    missing = set(_signable_tags(dataset)) - set(reference.tags)
    if missing:
        tag = min(missing)
        raise IntegrityFailure(
            f"a reference leaves out {len(missing)} elements of the instance, first ({tag >> 16:04X},{tag & 0xFFFF:04X})",
            hint="the instance was changed after it was signed for, or the key object covers only a part of it",
            standard=CLAUSE,
        )
    if reference.transfer_syntax != _mac_syntax(dataset):
        raise IntegrityFailure("a reference was made over another transfer syntax than that of the file", standard=CLAUSE)
    if _digest(dataset, reference.tags, name) != reference.mac:
        raise IntegrityFailure("an instance differs from what was signed for", standard=CLAUSE)


def _signable_tags(dataset: EncodedDataSet) -> tuple[int, ...]:
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


def _mac_syntax(dataset: EncodedDataSet) -> str:
    """Return the transfer syntax a MAC names: the file's own for encapsulated data, explicit VR little endian otherwise."""
    native = dataset.transfer_syntax in codes.NATIVE_TRANSFER_SYNTAXES
    return codes.EXPLICIT_VR_LITTLE_ENDIAN if native else dataset.transfer_syntax


def _digest(dataset: EncodedDataSet, tags: Iterable[int], name: str) -> bytes:
    digest = hashlib.new(name)
    MacStream(digest.update).feed(dataset.view, dataset.tokens(), frozenset(tags), dataset.encoding)
    return digest.digest()
