"""Texts in memory that all workers of a gateway share. Each worker writes slots of its own; all read all.

A slot holds its length, a checksum and the text; one that is read while it is written fails its checksum and is read again.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator

_HEAD = struct.Struct("=II")  # length of the text, CRC-32 over it
_READS = 8
_EMPTY = bytes(_HEAD.size)


class SharedSlots:
    """The memory, made before workers are forked: `each` slots of `size` bytes for every worker."""

    def __init__(self, workers: int, each: int, size: int) -> None:
        self._memory = mmap.mmap(-1, workers * each * size)
        self._workers = workers
        self._each = each
        self._size = size
        self.text_limit = size - _HEAD.size

    def of(self, worker: int) -> range:
        """Return the slots of one worker, emptied: a worker that was replaced leaves nothing behind."""
        slots = range(worker * self._each, (worker + 1) * self._each)
        for slot in slots:
            self.write(slot, b"")
        return slots

    def owner(self, slot: int) -> int:
        """Return the worker whose slot it is."""
        return slot // self._each

    def write(self, slot: int, text: bytes) -> None:
        """Fill a slot; empty text frees it."""
        at = slot * self._size
        head = _HEAD.pack(len(text), zlib.crc32(text)) if text else _EMPTY
        self._memory[at : at + _HEAD.size + len(text)] = head + text

    def read(self, slot: int) -> bytes:
        """Return the text of a slot, b"" when it is free or changes all the time."""
        at = slot * self._size
        for _ in range(_READS):
            length, checksum = _HEAD.unpack_from(self._memory, at)
            if not length:
                return b""
            text = self._memory[at + _HEAD.size : at + min(_HEAD.size + length, self._size)]
            if len(text) == length and zlib.crc32(text) == checksum:
                return text
        return b""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for slot in range(self._workers * self._each):
            text = self.read(slot)
            if text:
                yield slot, text
