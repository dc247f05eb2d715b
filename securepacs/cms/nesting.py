"""What lies inside a decrypted EnvelopedData: writers nest a bare structure, a ContentInfo, or no structure at all (PS3.15 D.1)."""

from __future__ import annotations

from typing import Literal

from asn1crypto import core

from securepacs.cms import ber
from securepacs.cms.stream import INTEGER, OBJECT_IDENTIFIER, SEQUENCE, SET, Reader
from securepacs.codes import ID_AUTH_ENVELOPED_DATA, ID_DIGESTED_DATA, ID_ENVELOPED_DATA, ID_SIGNED_DATA
from securepacs.errors import MalformedError

Layer = Literal["signed", "digested", "enveloped", "auth-enveloped"]

_BY_OID: dict[str, Layer] = {
    ID_SIGNED_DATA: "signed",
    ID_DIGESTED_DATA: "digested",
    ID_ENVELOPED_DATA: "enveloped",
    ID_AUTH_ENVELOPED_DATA: "auth-enveloped",
}
_BARE_VERSIONS = range(6)
_CONTENT = 0xA0


def enter(reader: Reader) -> tuple[Layer, int]:
    """Step into a CMS structure, past its version, and tell which it is and how many containers were entered.

    Bare structures are known by their own form, whatever type was declared for them: after its version a SignedData has a SET that
    begins with an algorithm, an EnvelopedData a SET of recipients or originator information, a DigestedData an algorithm
    (RFC 5652 5.1, 6.1, 7). MalformedError for anything else.
    """
    reader.enter(SEQUENCE, "CMS structure")
    layer, entered = None, 1
    if reader.peek() == OBJECT_IDENTIFIER:
        oid = content_type(reader)
        layer = _BY_OID.get(oid)
        if layer is None:
            raise MalformedError(f"the content type {oid} is not one of this product", standard="RFC 5652 3")
        reader.enter(_CONTENT, "content")
        reader.enter(SEQUENCE, "CMS structure")
        entered = 3
    start = reader.offset
    version = reader.value(limit=16)
    if version[0] != INTEGER or len(version) != 3 or version[2] not in _BARE_VERSIONS:
        raise MalformedError("there is no CMS version where one belongs", offset=start, standard="RFC 5652 10.2.5")
    return layer or _form(reader), entered


def content_type(reader: Reader) -> str:
    """Read an object identifier and return it in dotted form."""
    start = reader.offset
    value = reader.value(limit=64)
    if value[0] != OBJECT_IDENTIFIER:
        raise MalformedError("there is no content type where one belongs", offset=start, standard="RFC 5652 3")
    with ber.asn1_errors("the content type"):
        return str(core.ObjectIdentifier.load(value, strict=True).dotted)


def _form(reader: Reader) -> Layer:
    following = reader.peek()
    if following == SEQUENCE:
        return "digested"
    if following == _CONTENT:
        return "enveloped"
    if following != SET:
        raise MalformedError("this is not a CMS structure that can be read", offset=reader.offset, standard="RFC 5652 3")
    return "signed" if _begins_with_algorithm(reader.ahead(32)) else "enveloped"


def _begins_with_algorithm(head: bytes) -> bool:
    """Tell whether a SET holds AlgorithmIdentifiers: SEQUENCE, then an OID. RecipientInfos begin with a version."""
    try:
        _, _, first = ber.header(head, 0, len(head))
        if head[first : first + 1] == b"\0" or first == len(head):
            return True  # an empty SET: certificates only
        _, _, second = ber.header(head, first, len(head))
    except MalformedError:
        return False
    return head[second : second + 1] == bytes((OBJECT_IDENTIFIER,))
