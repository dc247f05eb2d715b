"""DICOM files: preamble, file meta information, transfer syntax, and where the data set begins (PS3.10 7.1, PS3.5 Annex A)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeVar

from securepacs import codes
from securepacs.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Buffer,
    Element,
    Encoding,
    Part,
    Token,
    tokens,
    walk,
)
from securepacs.dicom.files import hold
from securepacs.dicom.layout import Layout, Layouts
from securepacs.errors import MalformedError

PREAMBLE_SIZE = 128
MAX_INFLATED = 2**31  # bytes; a deflated data set that grows beyond this is refused
_INFLATE_STEP = 1 << 20
_DEFLATED_STEP = 1 << 16
_KEPT_TOKENS = 50_000  # about 12 MB; a data set with more structure is read anew each time

TRANSFER_SYNTAX_UID = 0x00020010
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003

_LAYOUTS = Layouts()

T = TypeVar("T")

_JPIP_DEFLATE = ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")


@dataclass(frozen=True, slots=True)
class Part10:
    """The head of a DICOM file. `meta` maps tags of group 0002 to raw values; `dataset_offset` is where the data set begins."""

    transfer_syntax: str
    dataset_offset: int
    meta: Mapping[int, bytes]

    @property
    def encoding(self) -> Encoding:
        """How the data set's headers are written (after inflating, when `deflated`)."""
        return encoding_of(self.transfer_syntax)

    @property
    def deflated(self) -> bool:
        """Whether the data set is compressed as a whole (PS3.5 A.5)."""
        return is_deflated(self.transfer_syntax)


@dataclass(frozen=True, slots=True)
class EncodedDataSet:
    """A data set in its encoded form: `view[start:end]`. For a deflated file `view` is the inflated data set alone.

    A large one that was deflated is in an unnamed temporary file, of which `view` is a mapping (docs/adr/0033).
    """

    view: memoryview
    start: int
    end: int
    transfer_syntax: str
    _kept: list[Layout] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def encoding(self) -> Encoding:
        """How the headers are written."""
        return encoding_of(self.transfer_syntax)

    def tokens(self) -> Iterable[Token]:
        """Return the structure in file order; that of an ordinary data set is read once and remembered."""
        if self._kept:
            return self._kept[0].tokens
        place = (self.view, self.start, self.end, self.encoding)
        layout = _LAYOUTS.recall(*place)
        if layout is None:
            found = tokens(self.view, self.start, encoding=self.encoding, end=self.end)
            first = list(islice(found, _KEPT_TOKENS + 1))
            if len(first) > _KEPT_TOKENS:
                return chain(first, found)
            layout = _LAYOUTS.learn(first, *place)
        self._kept[:] = [layout]  # not append: another thread may have been here
        return layout.tokens

    def derive(self, compute: Callable[..., T], *arguments: Hashable) -> T:
        """Return compute(self.tokens(), *arguments), remembered with the structure.

        `compute` is a function of a module, and depends on nothing but its arguments.
        """
        found = self.tokens()
        return self._kept[0].derive(compute, *arguments) if self._kept else compute(found, *arguments)

    def elements(self) -> Iterator[Element]:
        """Yield the top-level elements in file order."""
        explicit, little = self.encoding
        return walk(self.view, self.start, explicit=explicit, little=little, end=self.end)

    def value(self, element: Element | Token) -> memoryview:
        """Return the raw value of a leaf element, without copying."""
        return self.view[element.value_offset : element.value_offset + element.length]


def encoding_of(transfer_syntax: str) -> Encoding:
    """Return the element encoding of a transfer syntax; every syntax not named in PS3.5 A.1 or A.3 is explicit VR little endian."""
    if transfer_syntax == codes.IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT_LITTLE
    return EXPLICIT_BIG if transfer_syntax == codes.EXPLICIT_VR_BIG_ENDIAN else EXPLICIT_LITTLE


def is_deflated(transfer_syntax: str) -> bool:
    """Return whether the whole data set is deflated in this transfer syntax (PS3.5 A.5)."""
    return transfer_syntax == codes.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN or transfer_syntax in _JPIP_DEFLATE


def compression_of(transfer_syntax: str) -> str:
    """Return the transfer syntax when its pixel data are encapsulated (PS3.5 A.4), an empty string when they are native."""
    native = transfer_syntax in (
        codes.IMPLICIT_VR_LITTLE_ENDIAN,
        codes.EXPLICIT_VR_LITTLE_ENDIAN,
        codes.EXPLICIT_VR_BIG_ENDIAN,
    )
    return "" if native or is_deflated(transfer_syntax) else transfer_syntax


def read_part10(data: Buffer) -> Part10:
    """Read the head of a DICOM file (PS3.10 7.1). MalformedError when it is none or names no transfer syntax."""
    if bytes(data[PREAMBLE_SIZE : PREAMBLE_SIZE + 4]) != b"DICM":
        raise MalformedError("this is not a DICOM file", offset=min(len(data), PREAMBLE_SIZE), standard="PS3.10 7.1")
    offset = PREAMBLE_SIZE + 4
    meta: dict[int, bytes] = {}
    # the group is read to where it really ends: group lengths in the field are often wrong
    found = tokens(data, offset)
    while data[offset : offset + 2] == b"\x02\x00":
        token = next(found)
        if token.part is not Part.ELEMENT:
            raise MalformedError("the file meta information holds a sequence", offset=offset, standard="PS3.10 7.1")
        end = token.value_offset + token.length
        meta[token.tag] = bytes(data[token.value_offset : end])
        offset = end
    syntax = meta.get(TRANSFER_SYNTAX_UID, b"").decode("latin-1").rstrip("\0 ")
    if not syntax:
        raise MalformedError("the file names no transfer syntax", offset=offset, standard="PS3.10 7.1")
    return Part10(syntax, offset, meta)


def open_dataset(data: Buffer) -> EncodedDataSet:
    """Return the data set of a DICOM file given as bytes or mmap, inflated when its syntax says so (PS3.5 A.5)."""
    head = read_part10(data)
    view = memoryview(data)
    if not head.deflated:
        return EncodedDataSet(view, head.dataset_offset, len(view), head.transfer_syntax)
    plain = hold(inflate_pieces(view[head.dataset_offset :], offset=head.dataset_offset))
    return EncodedDataSet(plain, 0, len(plain), head.transfer_syntax)


def inflate(data: Buffer, *, limit: int = MAX_INFLATED, offset: int = 0) -> bytes:
    """Return all of `inflate_pieces` at once."""
    return b"".join(inflate_pieces(data, limit=limit, offset=offset))


def inflate_pieces(data: Buffer, *, limit: int = MAX_INFLATED, offset: int = 0) -> Iterator[bytes]:
    """Inflate a raw deflate stream (RFC 1951) piece by piece, up to `limit` bytes; `offset` is added to the position in errors."""
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    view = memoryview(data)
    size = position = 0
    while not stream.eof:
        pending = stream.unconsumed_tail
        if not pending:
            pending = bytes(view[position : position + _DEFLATED_STEP])
            position += len(pending)
        try:
            part = stream.decompress(pending, _INFLATE_STEP)
        except zlib.error:
            raise MalformedError("the deflated data set is damaged", offset=offset, standard="PS3.5 A.5") from None
        size += len(part)
        if size > limit:
            raise MalformedError(f"the deflated data set grows beyond {limit} bytes", offset=offset)
        if not part and not pending and not stream.eof:
            raise MalformedError("the deflated data set is cut off", offset=offset + len(view), standard="PS3.5 A.5")
        yield part


def deflate_pieces(pieces: Iterable[Buffer]) -> Iterator[bytes]:
    """Deflate a data set given in pieces, and pad it to even length (PS3.5 A.5)."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    size = 0
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _INFLATE_STEP):
            packed = stream.compress(view[start : start + _INFLATE_STEP])
            size += len(packed)
            yield packed
    packed = stream.flush()
    yield packed + b"\0" * ((size + len(packed)) % 2)


def deflate(data: Buffer) -> bytes:
    """Return all of `deflate_pieces` at once."""
    return b"".join(deflate_pieces([data]))
