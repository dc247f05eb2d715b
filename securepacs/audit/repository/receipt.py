"""What the repository knows of a record before it reads it: its octets, when and how they came, and from whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from securepacs.audit.framing import Frame


@dataclass(frozen=True, slots=True)
class Receipt:
    """A record as it arrived. `length` and `sha256` are those of the whole frame; `raw` is its head when `truncated`.

    `peer_subject` is an RFC 4514 name and `peer_sha256` the hex digest of the certificate the sender authenticated with.
    """

    raw: bytes
    received: datetime
    transport: str
    length: int
    sha256: str
    truncated: bool = False
    peer_address: str = ""
    peer_subject: str = ""
    peer_sha256: str = ""

    @classmethod
    def of(cls, raw: bytes, *, received: datetime, transport: str) -> Receipt:
        """Return the receipt of a record that is complete and came from no network peer."""
        return cls(raw, received, transport, len(raw), sha256(raw).hexdigest())

    @classmethod
    def of_frame(
        cls, frame: Frame, *, received: datetime, transport: str, peer_address: str, peer_subject: str, peer_sha256: str
    ) -> Receipt:
        """Return the receipt of a frame from a network peer."""
        digest = frame.sha256.hex()
        return cls(
            frame.data, received, transport, frame.length, digest, frame.truncated, peer_address, peer_subject, peer_sha256
        )  # fmt: skip
