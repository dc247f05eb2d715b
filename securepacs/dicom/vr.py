"""Value representations: which have the long header, how wide their words are, which one implicit VR data has (PS3.5 6.2, 7.1.2).

The dictionary itself is pydicom's (PS3.6). What PS3.6 leaves open ("US or SS", "OB or OW") is settled by the elements that PS3.5
Annex A and PS3.3 name for it: Pixel Representation, LUT Descriptor; data of unknown kind in implicit VR is OW (PS3.5 A.1).
"""

from __future__ import annotations

import struct

LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})

# bytes per word that big endian stores the other way round; absent: byte strings and text
WORD_SIZE = {
    b"AT": 2, b"OW": 2, b"SS": 2, b"US": 2,
    b"FL": 4, b"OF": 4, b"OL": 4, b"SL": 4, b"UL": 4,
    b"FD": 8, b"OD": 8, b"OV": 8, b"SV": 8, b"UV": 8,
}  # fmt: skip

PADDING = {b"UI": b"\0", b"OB": b"\0", b"UN": b"\0"}  # everything else of odd length is text and takes a space

TEXT = frozenset(
    {b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM", b"UC", b"UI", b"UR", b"UT"}
)

_PIXEL_REPRESENTATION = 0x00280103
_LUT_DESCRIPTOR = 0x00283002
_LUT_DATA = 0x00283006


class ImplicitDictionary:
    """Finds the VR of elements read in implicit VR; one object per data set or item, told of every element in order."""

    __slots__ = ("_creators", "_little", "_one_value_lut", "_signed")

    def __init__(self, little: bool = True, *, signed: bool = False) -> None:
        self._creators: dict[int, str] = {}
        self._little = little
        self._signed = signed
        self._one_value_lut = False

    def nested(self) -> ImplicitDictionary:
        """Return the dictionary of an item: Pixel Representation is inherited, private blocks are not (PS3.5 7.8.1)."""
        return ImplicitDictionary(self._little, signed=self._signed)

    def vr(self, tag: int, value: bytes, *, undefined: bool) -> bytes:
        """Return the VR of the element `tag`; b"UN" for what no dictionary knows. `value` is looked at when it is short."""
        if tag & 0xFFFF == 0:
            return b"UL"
        found = self._private(tag, value) if tag >> 16 & 1 else _standard(tag)
        vr = self._settle(tag, found)
        if tag == _PIXEL_REPRESENTATION and len(value) == 2:
            self._signed = struct.unpack("<H" if self._little else ">H", value)[0] == 1
        elif tag == _LUT_DESCRIPTOR and len(value) == 6:
            self._one_value_lut = struct.unpack("<H" if self._little else ">H", value[:2])[0] == 1
        if undefined and vr not in (b"SQ", b"OB", b"OW"):
            return b"UN"  # only a sequence can have no length here, but which one is unknown
        return vr

    def _private(self, tag: int, value: bytes) -> str:
        from pydicom.datadict import private_dictionary_VR

        block, number = tag >> 8 & 0xFF, tag & 0xFFFF
        if 0x10 <= number <= 0xFF:
            self._creators[tag & 0xFFFF0000 | number] = value.decode("latin-1").strip(" \0")
            return "LO"
        creator = self._creators.get(tag & 0xFFFF0000 | block)
        if not creator:
            return "UN"
        try:
            return private_dictionary_VR(tag, creator)
        except KeyError:
            return "UN"

    def _settle(self, tag: int, vr: str) -> bytes:
        if len(vr) == 2:
            return vr.encode("ascii")
        if vr.startswith("OB"):
            return b"OW"
        if tag == _LUT_DATA:
            return b"US" if self._one_value_lut else b"OW"
        return b"SS" if self._signed else b"US"


def _standard(tag: int) -> str:
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"
