"""Where content comes from: octets in memory, or a file that is read in pieces and may be larger than memory."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from securepacs.cms.stream import Buffer
from securepacs.errors import UsageError

CHUNK_SIZE = 1 << 20
_LARGE = 4 << 20
HEAD_SIZE = 1 << 18  # octets within which the file meta information of a DICOM file must end


class Source:
    """A context manager around `bytes` or a path. `size` is None for what is not a regular file (a pipe)."""

    def __init__(self, src: bytes | Path) -> None:
        self._name = "the content" if isinstance(src, bytes) else str(src)
        self._file: io.RawIOBase
        try:
            self._file = io.BytesIO(src) if isinstance(src, bytes) else src.open("rb", buffering=0)  # type: ignore[assignment]
            self.size = len(src) if isinstance(src, bytes) else _size_of(self._file)
        except OSError as error:
            raise UsageError(f"cannot read {src!s}: {error.strerror}") from None
        self._head = b""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def head(self) -> bytes:
        """Return the first HEAD_SIZE octets; `chunks` still begins with them."""
        while not self._head or len(self._head) < HEAD_SIZE:
            piece = self._read(HEAD_SIZE - len(self._head))
            if not piece:
                break
            self._head += piece
        return self._head

    def chunks(self) -> Iterator[Buffer]:
        """Yield the content from its beginning; a piece is valid only until the next one is asked for."""
        if self._file.seekable():
            self._file.seek(0)
        elif self._head:
            yield self._head
        buffer = bytearray(CHUNK_SIZE)
        view = memoryview(buffer)
        while True:
            try:
                count = self._file.readinto(buffer)
            except OSError as error:
                raise UsageError(f"cannot read {self._name}: {error.strerror}") from None
            if not count:
                return
            yield view[:count]

    @property
    def large(self) -> bool:
        """Whether threads are worth their start."""
        return self.size is None or self.size > _LARGE

    def total(self) -> int:
        """Return the size; for a pipe, of what has been its head."""
        return self.size if self.size is not None else len(self._head)

    def _read(self, count: int) -> bytes:
        try:
            return self._file.read(count) or b""
        except OSError as error:
            raise UsageError(f"cannot read {self._name}: {error.strerror}") from None


def _size_of(file: io.RawIOBase) -> int | None:
    state = os.fstat(file.fileno())
    return state.st_size if stat.S_ISREG(state.st_mode) else None
