"""Who is at the other end of a loopback connection: SO_PEERCRED does not work for TCP, the kernel's socket table does.

A connection of another process shows up in /proc/net/tcp or tcp6 as a socket whose local address is our peer and whose remote
address is ours, with the user id of its owner. A socket that nobody holds any more is listed with user id 0: only an ESTABLISHED
one counts.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
Address = tuple[str, int]


def uid_of_peer(connection: socket.socket) -> int | None:
    """Return the user id that owns the other end of a loopback TCP connection; None when it cannot be told."""
    peer, own = _plain(connection.getpeername()), _plain(connection.getsockname())
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # no IPv6
            continue
        uid = uid_in(lines, peer, own)
        if uid is not None:
            return uid
    return None


def uid_in(lines: Iterable[str], local: Address, remote: Address) -> int | None:
    """Return the user id of the established socket with these addresses in lines of /proc/net/tcp or tcp6."""
    for line in lines:
        fields = line.split()
        if len(fields) > 7 and fields[3] == _ESTABLISHED and (_address(fields[1]), _address(fields[2])) == (local, remote):
            return int(fields[7])
    return None


def _plain(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    return _unmapped(ipaddress.ip_address(name[0].partition("%")[0])), name[1]


def _address(field: str) -> Address:
    """Read `0100007F:2B67`: words of four bytes in the byte order of the machine, the port as a number."""
    host, _, port = field.partition(":")
    words = bytes.fromhex(host)
    swapped = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4)) if _LITTLE else words
    return _unmapped(ipaddress.ip_address(swapped)), int(port, 16)


def _unmapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = getattr(address, "ipv4_mapped", None)  # a client may reach 127.0.0.1 through an IPv6 socket
    return str(mapped or address)


_LITTLE = socket.htons(1) != 1
