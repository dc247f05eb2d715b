"""Bounded reading of association items, and the one exception a peer's protocol error raises (PS3.8 9.3)."""

from __future__ import annotations

import re
from enum import IntEnum

from securepacs.errors import ProtocolError

_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}\Z")


class AbortReason(IntEnum):
    """Reason/Diag of an A-ABORT whose source is the service provider (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


class Violation(ProtocolError):
    """A peer broke PS3.8 or PS3.7: `abort_reason` is for the A-ABORT, the message (never received text) for the audit trail."""

    code = "violation"

    def __init__(self, message: str, abort_reason: AbortReason = AbortReason.INVALID_PDU_PARAMETER_VALUE) -> None:
        super().__init__(message)
        self.abort_reason = abort_reason


class Cursor:
    """Reads big-endian fields from a part of a PDU; every step past the end is a Violation that names the part."""

    __slots__ = ("_data", "_end", "_name", "_pos")

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        self._data = memoryview(data)
        self._pos = 0
        self._end = len(data)
        self._name = name

    def __bool__(self) -> bool:
        return self._pos < self._end

    def take(self, length: int) -> memoryview:
        """Return the next `length` bytes in place."""
        start, stop = self._pos, self._pos + length
        if stop > self._end:
            raise Violation(f"{self._name} ends too early")
        self._pos = stop
        return self._data[start:stop]

    def unsigned(self, width: int) -> int:
        """Return the next big-endian integer of `width` bytes."""
        return int.from_bytes(self.take(width), "big")

    def item(self) -> tuple[int, memoryview]:
        """Return type and value of the next item; its second byte is reserved and not tested."""
        head = self.take(4)
        return head[0], self.take(int.from_bytes(head[2:4], "big"))

    def uid(self, length: int) -> str:
        """Return the next `length` bytes as a UID."""
        return uid(self.take(length), self._name)

    def finish(self) -> None:
        """Refuse bytes that nothing accounts for."""
        if self:
            raise Violation(f"{self._name} has bytes after its last field")


def uid(raw: bytes | memoryview, name: str) -> str:
    """Read a UID (PS3.8 Annex F): 1 to 64 digits and dots. Trailing padding, which some send, is taken off."""
    text = bytes(raw).rstrip(b"\0 ").decode("latin-1")
    if len(text) > 64 or not _UID.match(text):
        raise Violation(f"{name} has a value that is not a UID")
    return text


def ae_title(raw: bytes | memoryview, name: str) -> str:
    """Read an AE title: 16 characters of the default repertoire without backslash and controls, not all spaces (PS3.8 9.3.2)."""
    text = bytes(raw).decode("latin-1")
    if not _AE_TITLE.match(text) or not text.strip():
        raise Violation(f"{name} is not an AE title")
    return text.strip()


def item(kind: int, value: bytes, *, second: int = 0) -> bytes:
    """Encode one item or sub-item."""
    return bytes((kind, second)) + len(value).to_bytes(2, "big") + value


def counted(value: bytes) -> bytes:
    """Encode `value` after its 16-bit length."""
    return len(value).to_bytes(2, "big") + value
