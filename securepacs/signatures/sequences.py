"""MAC Parameters (4FFE,0001) and Digital Signatures (FFFA,FFFA) sequences: where they are, what they say, how they are written.

PS3.3 C.12.1.1.3. `survey` is one pass over the whole instance: it proves that the structure is sound at every depth and finds every
data set, outermost or item, that carries signatures. Items of Original Attributes Sequence (0400,0561) are history and left out.
Decoding never raises for strange content: `problems` says what is wrong with an item, and the verifier decides.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeVar

from securepacs.dicom.edit import Path, encode_element, encode_sequence, swap_words
from securepacs.dicom.elements import UNDEFINED, Encoding, Part, Token, tokens
from securepacs.dicom.part10 import EncodedDataSet
from securepacs.dicom.vr import ImplicitDictionary
from securepacs.errors import MalformedError
from securepacs.signatures.profiles import PURPOSE_SCHEME, PURPOSES

T = TypeVar("T")

MAC_PARAMETERS_SEQUENCE = 0x4FFE0001
DIGITAL_SIGNATURES_SEQUENCE = 0xFFFAFFFA
ORIGINAL_ATTRIBUTES_SEQUENCE = 0x04000561
PIXEL_REPRESENTATION = 0x00280103

MAC_ID_NUMBER = 0x04000005
MAC_CALCULATION_TRANSFER_SYNTAX_UID = 0x04000010
MAC_ALGORITHM = 0x04000015
DATA_ELEMENTS_SIGNED = 0x04000020
DIGITAL_SIGNATURE_UID = 0x04000100
DIGITAL_SIGNATURE_DATETIME = 0x04000105
CERTIFICATE_TYPE = 0x04000110
CERTIFICATE_OF_SIGNER = 0x04000115
SIGNATURE = 0x04000120
CERTIFIED_TIMESTAMP_TYPE = 0x04000305
CERTIFIED_TIMESTAMP = 0x04000310
PURPOSE_CODE_SEQUENCE = 0x04000401
CODE_VALUE, CODING_SCHEME_DESIGNATOR, CODE_MEANING = 0x00080100, 0x00080102, 0x00080104

_VRS = {
    MAC_ID_NUMBER: b"US",
    MAC_CALCULATION_TRANSFER_SYNTAX_UID: b"UI",
    MAC_ALGORITHM: b"CS",
    DATA_ELEMENTS_SIGNED: b"AT",
    DIGITAL_SIGNATURE_UID: b"UI",
    DIGITAL_SIGNATURE_DATETIME: b"DT",
    CERTIFICATE_TYPE: b"CS",
    CERTIFICATE_OF_SIGNER: b"OB",
    SIGNATURE: b"OB",
    CERTIFIED_TIMESTAMP_TYPE: b"CS",
    CERTIFIED_TIMESTAMP: b"OB",
}

X509_1993_SIG = "X509_1993_SIG"
CMS_TSP = "CMS_TSP"

_MAX_MAC_ID = 0xFFFF
_LONGEST_LIST = 4 << 16
_MOST_SIGNATURES = 1024  # in one instance; each may cost a pass over all of it
_SHORT_LIST = 4096  # bytes of Data Elements Signed; longer lists are not worth remembering


class Scope(NamedTuple):
    """A data set that carries signatures: the outermost (`path` empty) or an item. view[start:end] is its content."""

    path: Path
    start: int
    end: int
    signed_pixels: bool  # Pixel Representation as inherited, for implicit VR (PS3.5 A.1)
    mac_parameters: tuple[int, int] | None  # whole element
    signatures: tuple[int, int] | None  # whole element


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over an instance found."""

    scopes: tuple[Scope, ...]
    parameters: tuple[tuple[MacParameters, ...], ...]  # of each scope
    mac_ids: frozenset[int]  # in the whole instance, history included
    mac_ids_repeat: bool  # across data sets: the standard wants them unique in the instance, DCMTK counts per data set

    def at(self, path: Path) -> Scope | None:
        """Return the scope at `path`, None when that data set carries no signature."""
        return next((scope for scope in self.scopes if scope.path == path), None)


@dataclass
class MacParameters:
    """One item of the MAC Parameters Sequence."""

    mac_id: int | None = None
    transfer_syntax: str = ""
    algorithm: str = ""
    tags: tuple[int, ...] = ()
    places: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)  # of its leaf elements, header included
    problems: list[str] = field(default_factory=list)


@dataclass
class SignatureItem:
    """One item of the Digital Signatures Sequence; view[start:end] is its content, of which a part is hashed."""

    start: int
    end: int
    mac_id: int | None = None
    uid: str = ""
    date_time: str = ""
    certificate_type: str = ""
    certificate: bytes = b""
    signature: bytes = b""
    timestamp_type: str = ""
    timestamp: bytes = b""
    purpose: tuple[str, str] | None = None  # code value, coding scheme designator
    places: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)  # of its leaf elements, header included
    problems: list[str] = field(default_factory=list)


class _Open(NamedTuple):
    path: Path
    start: int
    signed: bool
    pieces: dict[int, tuple[int, int]]


def survey(dataset: EncodedDataSet, *, wanted: Path | None = None) -> Survey:
    """Read the structure of the whole instance once. MalformedError for anything that does not parse at any depth.

    The data set at `wanted` is among the scopes even when it carries no signature yet.
    """
    stack = [_Open((), dataset.start, signed=False, pieces={})]
    sequences: list[tuple[Token, int]] = []  # open sequences and how many items each had
    scopes: list[Scope] = []
    for token in dataset.derive(_structure):
        part = token.part
        if part is Part.ELEMENT:
            if token.length == 2:
                stack[-1] = stack[-1]._replace(signed=sum(dataset.value(token)) == 1)
        elif part is Part.SEQUENCE:
            sequences.append((token, 0))
        elif part is Part.ITEM:
            head, count = sequences[-1]
            sequences[-1] = (head, count + 1)
            outer = stack[-1]
            stack.append(_Open((*outer.path, (head.tag, count)), token.value_offset, outer.signed, {}))
        elif part is Part.ITEM_END:
            scopes += _closed(stack.pop(), token.offset, wanted)
            if len(scopes) > _MOST_SIGNATURES:
                raise MalformedError(f"more than {_MOST_SIGNATURES} items carry signatures", offset=token.offset)
        elif part is Part.SEQUENCE_END:
            head, _ = sequences.pop()
            if head.tag in (MAC_PARAMETERS_SEQUENCE, DIGITAL_SIGNATURES_SEQUENCE) and head.vr == b"SQ":
                if head.tag in stack[-1].pieces:
                    raise MalformedError("a data set has two sequences of the same tag", offset=head.offset, standard="PS3.5 7.1")
                if _reserved_bytes_set(dataset, head):
                    raise MalformedError("a reserved field is not zero", offset=head.offset, standard="PS3.5 7.1.2")
                stack[-1].pieces[head.tag] = (head.offset, token.value_offset)
    scopes += _closed(stack[0], dataset.end, wanted)
    scopes.sort(key=lambda scope: scope.start)
    read = [(scope, tuple(read_mac_parameters(dataset, scope))) for scope in scopes]
    current = [(scope, found) for scope, found in read if all(tag != ORIGINAL_ATTRIBUTES_SEQUENCE for tag, _ in scope.path)]
    ids = [one.mac_id for _, found in current for one in found if one.mac_id is not None]
    return Survey(
        scopes=tuple(scope for scope, _ in current),
        parameters=tuple(found for _, found in current),
        mac_ids=frozenset(one.mac_id for _, found in read for one in found if one.mac_id is not None),
        mac_ids_repeat=len(set(ids)) < len(ids),
    )


def _structure(found: Iterable[Token]) -> Iterable[Token]:
    """Return what is no leaf, or is Pixel Representation."""
    chosen = (token for token in found if token[0] is not Part.ELEMENT or token[1] == PIXEL_REPRESENTATION)
    return list(chosen) if isinstance(found, list) else chosen


def _reserved_bytes_set(dataset: EncodedDataSet, token: Token) -> bool:
    """Return whether the two reserved bytes of a long header are used for something; they are not hashed in signature sequences."""
    long_form = dataset.encoding.explicit and token.value_offset - token.offset == 12
    return long_form and any(dataset.view[token.offset + 6 : token.offset + 8])


def _closed(level: _Open, end: int, wanted: Path | None) -> list[Scope]:
    if not (level.pieces or level.path == wanted):
        return []
    parameters, signatures = (level.pieces.get(tag) for tag in (MAC_PARAMETERS_SEQUENCE, DIGITAL_SIGNATURES_SEQUENCE))
    return [Scope(level.path, level.start, end, level.signed, parameters, signatures)]


def scope_tokens(dataset: EncodedDataSet, scope: Scope) -> Iterable[Token]:
    """Return the tokens of the scope's own data set, depth 0 being its elements."""
    encoding = dataset.encoding
    if encoding.explicit and (scope.start, scope.end) == (dataset.start, dataset.end):
        return dataset.tokens()
    dictionary = None if encoding.explicit else ImplicitDictionary(encoding.little, signed=scope.signed_pixels)
    return tokens(dataset.view, scope.start, encoding=encoding, end=scope.end, dictionary=dictionary)


def derive(dataset: EncodedDataSet, scope: Scope, compute: Callable[..., T], *arguments: Hashable) -> T:
    """Return compute(scope_tokens(dataset, scope), *arguments); that of a whole data set is remembered (EncodedDataSet.derive)."""
    whole = dataset.encoding.explicit and (scope.start, scope.end) == (dataset.start, dataset.end)
    return dataset.derive(compute, *arguments) if whole else compute(scope_tokens(dataset, scope), *arguments)


def read_mac_parameters(dataset: EncodedDataSet, scope: Scope) -> list[MacParameters]:
    """Decode the MAC Parameters items of a scope, in file order."""
    found = []
    for start, end in _items(dataset, scope.mac_parameters):
        values, _, places, problems = _read_item(dataset, start, end)
        raw_tags = values.get(DATA_ELEMENTS_SIGNED, b"")
        if not raw_tags or len(raw_tags) % 4:
            problems.append("Data Elements Signed is missing or cut off")
        elif len(raw_tags) > _LONGEST_LIST:
            problems.append("Data Elements Signed is longer than any data set")
            raw_tags = b""
        found.append(
            MacParameters(
                mac_id=_mac_id(values, problems),
                transfer_syntax=_text(values, MAC_CALCULATION_TRANSFER_SYNTAX_UID),
                algorithm=_text(values, MAC_ALGORITHM),
                tags=_tags(raw_tags) if len(raw_tags) <= _SHORT_LIST else _tags.__wrapped__(raw_tags),
                places=places,
                problems=problems,
            )
        )
    return found


@lru_cache(maxsize=64)  # the images of a series have the same list
def _tags(raw: bytes) -> tuple[int, ...]:
    """Decode a value of VR AT; an incomplete tag at its end is left out."""
    words = struct.unpack(f"<{len(raw) // 4 * 2}H", raw[: len(raw) // 4 * 4])
    return tuple([group << 16 | number for group, number in zip(words[::2], words[1::2], strict=True)])


def read_signatures(dataset: EncodedDataSet, scope: Scope) -> list[SignatureItem]:
    """Decode the Digital Signatures items of a scope, in file order."""
    found = []
    for start, end in _items(dataset, scope.signatures):
        values, purpose, places, problems = _read_item(dataset, start, end)
        item = SignatureItem(
            start,
            end,
            mac_id=_mac_id(values, problems),
            uid=_text(values, DIGITAL_SIGNATURE_UID),
            date_time=_text(values, DIGITAL_SIGNATURE_DATETIME),
            certificate_type=_text(values, CERTIFICATE_TYPE),
            certificate=values.get(CERTIFICATE_OF_SIGNER, b""),
            signature=values.get(SIGNATURE, b""),
            timestamp_type=_text(values, CERTIFIED_TIMESTAMP_TYPE),
            timestamp=values.get(CERTIFIED_TIMESTAMP, b""),
            purpose=purpose,
            places=places,
            problems=problems,
        )
        missing = [
            name
            for name, value in (
                ("Digital Signature UID", item.uid),
                ("Certificate of Signer", item.certificate),
                ("Signature", item.signature),
            )
            if not value
        ]
        problems += [f"{name} is missing" for name in missing]
        found.append(item)
    return found


def _items(dataset: EncodedDataSet, place: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the content of each item of the sequence element at `place`."""
    if place is None:
        return
    start = count = 0
    for token in tokens(dataset.view, place[0], encoding=dataset.encoding, end=place[1]):
        if token.part is Part.ITEM and token.depth == 1:
            start = token.value_offset
            count += 1
            if count > _MOST_SIGNATURES:
                raise MalformedError(f"there are more than {_MOST_SIGNATURES} signatures", offset=token.offset)
        elif token.part is Part.ITEM_END and token.depth == 1:
            yield start, token.offset


def _read_item(
    dataset: EncodedDataSet, start: int, end: int
) -> tuple[dict[int, bytes], tuple[str, str] | None, dict[int, tuple[int, int]], list[str]]:
    """Return the leaf values of an item in little endian, the purpose code if any, where the leaves stand, and what is wrong."""
    values: dict[int, bytes] = {}
    code: dict[int, bytes] = {}
    places: dict[int, tuple[int, int]] = {}
    problems: list[str] = []
    within = 0
    for token in tokens(dataset.view, start, encoding=dataset.encoding, end=end):
        if token.part is Part.SEQUENCE and token.depth == 0:
            within = token.tag
        if token.part is not Part.ELEMENT:
            continue
        if token.vr != _VRS.get(token.tag, token.vr) or _reserved_bytes_set(dataset, token):
            problems.append(f"({token.tag >> 16:04X},{token.tag & 0xFFFF:04X}) has a wrong header")
        target = values if token.depth == 0 else code
        if token.depth > 1 or (token.depth == 1 and within != PURPOSE_CODE_SEQUENCE):
            continue
        if token.tag in target:
            problems.append(f"({token.tag >> 16:04X},{token.tag & 0xFFFF:04X}) occurs twice")
        raw = dataset.value(token)
        target[token.tag] = bytes(raw) if dataset.encoding.little else swap_words(raw, token.vr)
        if token.depth == 0:
            places[token.tag] = (token.offset, token.value_offset + token.length)
    purpose = (_text(code, CODE_VALUE), _text(code, CODING_SCHEME_DESIGNATOR)) if code else None
    return values, purpose, places, problems


def _mac_id(values: dict[int, bytes], problems: list[str]) -> int | None:
    raw = values.get(MAC_ID_NUMBER, b"")
    if len(raw) == 2:
        return int.from_bytes(raw, "little")
    problems.append("MAC ID Number is missing")
    return None


def _text(values: dict[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("latin-1").strip(" \0")


def next_mac_id(taken: frozenset[int] | set[int]) -> int:
    """Return the smallest MAC ID Number that is free in the whole instance. MalformedError when all 65536 are taken."""
    for number in range(_MAX_MAC_ID + 1):
        if number not in taken:
            return number
    raise MalformedError("no MAC ID Number is free", standard="PS3.3 C.12.1.1.3")


def encode_mac_parameters(mac_id: int, transfer_syntax: str, algorithm: str, tags: tuple[int, ...], encoding: Encoding) -> bytes:
    """Encode the content of a MAC Parameters item in the file's encoding; `tags` ascending."""
    return b"".join(
        (
            encode_element(MAC_ID_NUMBER, b"US", struct.pack("<H", mac_id), encoding),
            encode_element(MAC_CALCULATION_TRANSFER_SYNTAX_UID, b"UI", transfer_syntax.encode(), encoding),
            encode_element(MAC_ALGORITHM, b"CS", algorithm.encode(), encoding),
            encode_element(DATA_ELEMENTS_SIGNED, b"AT", _encode_tags(tags), encoding),
        )
    )


@lru_cache(maxsize=8)
def _encode_tags(tags: tuple[int, ...]) -> bytes:
    """Encode a value of VR AT in little endian: the inverse of `_tags`."""
    return struct.pack(f"<{2 * len(tags)}H", *[word for tag in tags for word in (tag >> 16, tag & 0xFFFF)])


def encode_signature_head(mac_id: int, uid: str, date_time: str, encoding: Encoding) -> bytes:
    """Encode the hashed elements of a signature item that stand before the certificate."""
    return b"".join(
        (
            encode_element(MAC_ID_NUMBER, b"US", struct.pack("<H", mac_id), encoding),
            encode_element(DIGITAL_SIGNATURE_UID, b"UI", uid.encode(), encoding),
            encode_element(DIGITAL_SIGNATURE_DATETIME, b"DT", date_time.encode(), encoding),
            encode_element(CERTIFICATE_TYPE, b"CS", X509_1993_SIG.encode(), encoding),
        )
    )


def encode_signature_value(certificate: bytes, signature: bytes, timestamp: bytes, encoding: Encoding) -> bytes:
    """Encode the elements of a signature item that are not hashed; an empty `timestamp` is left out."""
    parts = [encode_element(CERTIFICATE_OF_SIGNER, b"OB", certificate, encoding)]
    parts.append(encode_element(SIGNATURE, b"OB", signature, encoding))
    if timestamp:
        parts.append(encode_element(CERTIFIED_TIMESTAMP_TYPE, b"CS", CMS_TSP.encode(), encoding))
        parts.append(encode_element(CERTIFIED_TIMESTAMP, b"OB", timestamp, encoding))
    return b"".join(parts)


def encode_purpose(purpose: int | None, encoding: Encoding) -> bytes:
    """Encode the Digital Signature Purpose Code Sequence (CID 7007), or nothing for None."""
    if purpose is None:
        return b""
    item = b"".join(
        (
            encode_element(CODE_VALUE, b"SH", str(purpose).encode(), encoding),
            encode_element(CODING_SCHEME_DESIGNATOR, b"SH", PURPOSE_SCHEME.encode(), encoding),
            encode_element(CODE_MEANING, b"LO", PURPOSES[purpose].encode(), encoding),
        )
    )
    return encode_sequence(PURPOSE_CODE_SEQUENCE, [item], encoding)


def with_items(old: bytes, items: bytes, encoding: Encoding) -> bytes:
    """Return a sequence element with encoded items added at its end; an undefined length stays undefined."""
    header = 12 if encoding.explicit else 8
    order = "<I" if encoding.little else ">I"
    (length,) = struct.unpack(order, old[header - 4 : header])
    if length == UNDEFINED:
        return old[:-8] + items + old[-8:]
    return old[: header - 4] + struct.pack(order, length + len(items)) + old[header:] + items
