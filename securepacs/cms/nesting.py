"""What lies inside a decrypted EnvelopedData: writers nest a bare structure, a ContentInfo, or no structure at all (PS3.15 D.1)."""

from __future__ import annotations

from typing import Literal

from asn1crypto import core

from securepacs.cms import ber
from securepacs.codes import ID_DIGESTED_DATA, ID_SIGNED_DATA

Layer = Literal["signed", "digested", "other"]

_BY_OID: dict[str, Layer] = {ID_SIGNED_DATA: "signed", ID_DIGESTED_DATA: "digested"}
_INTEGER, _OBJECT_IDENTIFIER, _SEQUENCE, _SET = 0x02, 0x06, 0x30, 0x31

_BY_SECOND: dict[int, Layer] = {_SET: "signed", _SEQUENCE: "digested"}


def layer_of(data: bytes) -> Layer:
    """Tell what `data` is by its own form, whatever type was declared for it; MalformedError when it is not one BER value.

    A bare SignedData has a SET of digest algorithms after its version, a bare DigestedData a SEQUENCE (RFC 5652 5.1, 7).
    """
    ber.check(data)
    if data[0] != _SEQUENCE:
        return "other"
    _, _, first = ber.header(data, 0, len(data))
    if first == len(data):
        return "other"
    _, length, start = ber.header(data, first, len(data))
    second = start + (length or 0)
    if data[first] == _OBJECT_IDENTIFIER:
        with ber.asn1_errors("the content type"):
            return _BY_OID.get(core.ObjectIdentifier.load(data[first:second]).dotted, "other")
    if data[first] != _INTEGER or second >= len(data):
        return "other"
    return _BY_SECOND.get(data[second], "other")
