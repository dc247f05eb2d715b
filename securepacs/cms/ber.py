"""Bounded check of BER before anything else looks at it (X.690 8.1), and the one place where ASN.1 errors become ours.

The check walks tags and lengths with its own stack, so that depth and element count are limited however the data is built. What
passes is one complete value with nothing after it; what lies inside primitive values is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509

from securepacs.errors import MalformedError

MAX_DEPTH = 64
MAX_ELEMENTS = 2_000_000

_CONSTRUCTED = 0x20
_HIGH_TAG = 0x1F
_MAX_TAG_BYTES = 4
_MAX_LENGTH_BYTES = 8


@contextmanager
def asn1_errors(what: str) -> Iterator[None]:
    """Turn the ways in which ASN.1 decoders report bad input into MalformedError; `what` names the structure."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, x509.InvalidVersion):
        raise MalformedError(f"{what} does not follow its ASN.1 structure") from None


def check(data: bytes, *, max_depth: int = MAX_DEPTH, max_elements: int = MAX_ELEMENTS) -> None:
    """Raise MalformedError, with the offset, unless `data` is exactly one well-formed BER value within the limits."""
    size = len(data)
    position = 0
    open_values: list[tuple[int, bool]] = []  # (end that contents may reach, indefinite length)
    for _ in range(max_elements):
        limit, indefinite = open_values[-1] if open_values else (size, False)
        start = position
        constructed, length, position = header(data, position, limit)
        if indefinite and data[start] == 0:
            if position != start + 2 or length:
                raise MalformedError("an end-of-contents mark has contents", offset=start, standard="X.690 8.1.5")
            open_values.pop()
        elif length is None:
            if not constructed:
                raise MalformedError("a primitive value has indefinite length", offset=start, standard="X.690 8.1.3")
            open_values.append((limit, True))
        elif length > limit - position:
            raise MalformedError("a value is longer than what holds it", offset=start, standard="X.690 8.1.3")
        elif constructed:
            open_values.append((position + length, False))
        else:
            position += length
        if len(open_values) > max_depth:
            raise MalformedError(f"values are nested more than {max_depth} deep", offset=start)
        while open_values and open_values[-1] == (position, False):
            open_values.pop()
        if not open_values:
            break
    else:
        raise MalformedError(f"there are more than {max_elements} values", offset=position)
    if position != size:
        raise MalformedError("data follows the value", offset=position)


def header(data: bytes | memoryview, position: int, limit: int) -> tuple[bool, int | None, int]:
    """Read identifier and length octets at `position`: (constructed, length or None when indefinite, offset of the contents)."""
    start = position
    if position >= limit:
        raise MalformedError("data ends before its value does", offset=start, standard="X.690 8.1")
    constructed = bool(data[position] & _CONSTRUCTED)
    high_tag = data[position] & _HIGH_TAG == _HIGH_TAG
    position += 1
    if high_tag:
        end = min(limit, position + _MAX_TAG_BYTES)
        while position < end and data[position] & 0x80:
            position += 1
        if position == end < limit:
            raise MalformedError("a tag is too long", offset=start, standard="X.690 8.1.2")
        position += 1
    if position >= limit:
        raise MalformedError("data ends inside a header", offset=start, standard="X.690 8.1")
    first = data[position]
    position += 1
    if first < 0x80:
        return constructed, first, position
    if first == 0x80:
        return constructed, None, position
    count = first & 0x7F
    if count > _MAX_LENGTH_BYTES or count > limit - position:
        raise MalformedError("a length is cut off or too long", offset=start, standard="X.690 8.1.3")
    return constructed, int.from_bytes(data[position : position + count], "big"), position + count
