"""The memory that TLS works in: one set for all connections of a process, and the readers that move bytes through it."""

from __future__ import annotations

from typing import Final, Protocol

from OpenSSL import SSL

from securepacs_proxy.tls_bio.reasons import reason_of

BUFFER_SIZE: Final = 512 * 1024  # measured: an eighth less CPU per GB than 256 KiB, and no more with 1 MiB
_CIPHER_ROOM: Final = 64 * 1024  # records add 22-40 bytes to each 16 KiB
_PLAIN_ROOM: Final = 16  # a sixteenth of the size: 32 KiB


class Buffers:
    """The memory all connections of one process share, which works because every byte is consumed before the next read.

    `arrived` takes what a socket received, `plain` what TLS decrypted, `cipher` what TLS encrypted. A view into any of them is
    valid only until control returns to the event loop.
    """

    def __init__(self, size: int = BUFFER_SIZE) -> None:
        self.arrived = bytearray(size)
        # A record that began in the read before ends in this one. With room for it, what a read completes leaves in one piece, not
        # in a large one and a crumb that costs a system call and wakes the receiver once more.
        self.plain = bytearray(size + size // _PLAIN_ROOM)
        self.cipher = bytearray(size + _CIPHER_ROOM)
        self.arrived_view = memoryview(self.arrived)
        self.plain_view = memoryview(self.plain)
        self.cipher_view = memoryview(self.cipher)


class Reader(Protocol):
    """Moves bytes between one pyOpenSSL connection and the shared buffers."""

    def feed(self, data: memoryview | bytes, *, lend: bool) -> None:
        """Take bytes from the network; with `lend` they may be used where they lie until `settle`."""
        ...

    def settle(self) -> None:
        """What was lent is about to be overwritten: copy what has not been read yet."""
        ...

    def read(self) -> tuple[int, str | None]:
        """Fill `Buffers.plain`; return its length and None while open, "" after close_notify, else what broke the stream."""
        ...

    def pull(self) -> memoryview | bytes:
        """Return bytes for the network, empty when there are none."""
        ...


class PublicReader:
    """The documented interface of pyOpenSSL: correct everywhere, one allocation and two copies more."""

    def __init__(self, connection: SSL.Connection, buffers: Buffers) -> None:
        self._connection = connection
        self._buffers = buffers

    def feed(self, data: memoryview | bytes, *, lend: bool) -> None:
        while len(data):
            data = data[self._connection.bio_write(data) :]

    def settle(self) -> None:
        """Nothing is lent here."""

    def read(self) -> tuple[int, str | None]:
        view = self._buffers.plain_view
        filled = 0
        try:
            while filled < len(view):
                filled += self._connection.recv_into(view[filled:])
        except SSL.WantReadError:
            return filled, None
        except SSL.ZeroReturnError:
            return filled, ""
        except SSL.Error as error:
            return filled, reason_of(error) or "TLS stream broken"
        return filled, None

    def pull(self) -> memoryview | bytes:
        try:
            return self._connection.bio_read(len(self._buffers.cipher))
        except SSL.WantReadError:
            return b""
