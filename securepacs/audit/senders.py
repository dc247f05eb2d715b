"""The transports a destination of audit records can have, by the names settings use."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from enum import StrEnum

from securepacs.audit.forwarder import SyslogSender
from securepacs.audit.syslog_tcp import SyslogTcpSender
from securepacs.audit.syslog_tls import SyslogTlsSender
from securepacs.audit.syslog_udp import SyslogUdpSender


class Transport(StrEnum):
    """How records get to a destination; what is unsafe protects them from nobody."""

    TLS = "tls"
    UNSAFE_TCP = "unsafe-tcp"
    UNSAFE_UDP = "unsafe-udp"


def make_sender(transport: Transport, host: str, port: int, *, context: Callable[[], ssl.SSLContext]) -> SyslogSender:
    """Return a sender; `context()` makes what TLS connects with and is called for TLS only."""
    if transport is Transport.TLS:
        return SyslogTlsSender(host, port, context())
    if transport is Transport.UNSAFE_TCP:
        return SyslogTcpSender(host, port)
    return SyslogUdpSender(host, port)


def destination_name(transport: Transport, host: str, port: int) -> str:
    """Return the stable name of a destination, good for a file name; the same for every release."""
    suffix = "" if transport is Transport.TLS else f"_{transport.value.removeprefix('unsafe-')}"
    return "".join(each if each.isascii() and (each.isalnum() or each in ".-") else "_" for each in f"{host}_{port}") + suffix
