"""Who is at the other end of a relayed connection, and what every connection may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

    from securepacs.policy.subject import Subject


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds and sizes in bytes that hold for every connection. `waiting_bytes` bounds what waits behind a record."""

    handshake_seconds: float = 10.0
    connect_seconds: float = 5.0
    audit_seconds: float = 30.0
    waiting_bytes: int = 256 * 1024
    waiting_commands: int = 512


@dataclass(frozen=True, slots=True)
class AuthenticatedPeer:
    """Who completed a handshake; `chain` is the path above the certificate that OpenSSL verified, nearest first."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    subject: Subject
    host: str = ""
