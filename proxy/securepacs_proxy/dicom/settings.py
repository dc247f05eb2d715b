"""What a relay must know of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from securepacs.audit.message import AuditSourceIdentification
from securepacs_proxy.commands import Destination
from securepacs_proxy.dicom.budget import Ledger, Visits
from securepacs_proxy.dicom.moves import MoveBook, Moves
from securepacs_proxy.dicom.user_identity import Certified, IdentityRules

INGRESS, EGRESS = "ingress", "egress"


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What a relay must know. `routes` maps called AE titles to archives; times in seconds, sizes in bytes.

    `direction` is INGRESS when peers call the archive, EGRESS when the archive calls out; `moves` joins the two (`moves`).
    `handshake_seconds` of None leaves the time limit of the TLS handshake to the shell.
    """

    gateway: str
    ae_title: str
    source: AuditSourceIdentification
    routes: Mapping[str, tuple[Destination, ...]]
    max_pdu_length: int = 131_072
    command_bytes: int = 65_536
    head_bytes: int = 65_536
    identifier_bytes: int = 1_048_576
    association_seconds: float = 30.0
    idle_seconds: float = 600.0
    handshake_seconds: float | None = None
    direction: str = INGRESS
    moves: MoveBook = field(default_factory=Moves)
    visits: Visits = field(default_factory=Ledger)
    identity_rules: IdentityRules = field(default_factory=Certified)
