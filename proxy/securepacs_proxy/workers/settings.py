"""What a worker makes of the settings: a TLS context for each listener, limits for the shell, settings for the relays."""

from __future__ import annotations

from collections.abc import Sequence

from OpenSSL import SSL

from securepacs_proxy.connection import Limits
from securepacs_proxy.dicom.budget import Visits
from securepacs_proxy.dicom.moves import MoveBook
from securepacs_proxy.dicom.relay import RelaySettings
from securepacs_proxy.reload import Listener, Snapshot
from securepacs_proxy.reverse import ReverseSettings
from securepacs_proxy.tls_bio import server_context
from securepacs_proxy.ways import ingress_routes


def contexts_of(listeners: Sequence[Listener]) -> list[SSL.Context]:
    """Build a TLS context for every listener. Raises ConfigError."""
    return [
        server_context(
            listener.profile,
            credential=listener.credential,
            trust=listener.trust,
            crls=listener.crls,
            revocation_elsewhere=listener.revocation_elsewhere,
        )
        for listener in listeners
    ]


def limits_of(snapshot: Snapshot) -> Limits:
    """Return what every connection may take."""
    return Limits(handshake_seconds=snapshot.config.limits.handshake_seconds)


def reverse_settings(snapshot: Snapshot, process: str) -> ReverseSettings:
    """Return what the relays of agents that wait for deliveries need to know."""
    config = snapshot.config
    seconds = config.limits.association_seconds
    return ReverseSettings(config.gateway.name, config.gateway.ae_title, snapshot.source(process), seconds)


def relay_settings(snapshot: Snapshot, process: str, moves: MoveBook, visits: Visits) -> RelaySettings:
    """Return what the relays of a worker need to know of the configuration, for what peers ask of the archive."""
    config, limits = snapshot.config, snapshot.config.limits
    return RelaySettings(
        gateway=config.gateway.name,
        ae_title=config.gateway.ae_title,
        source=snapshot.source(process),
        routes=ingress_routes(config),
        max_pdu_length=limits.max_pdu_length,
        command_bytes=limits.command_bytes,
        head_bytes=limits.head_bytes,
        association_seconds=limits.association_seconds,
        idle_seconds=limits.idle_seconds,
        moves=moves,
        visits=visits,
        identity_rules=snapshot.identity_rules,
    )
