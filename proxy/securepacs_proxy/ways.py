"""Where called AE titles lead, in both directions, from the configuration: destinations, and how each is called with TLS."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from securepacs.errors import AccessDenied
from securepacs.policy.subject import Subject, SubjectKind
from securepacs.tls import client_context
from securepacs_proxy.commands import Destination
from securepacs_proxy.config import CallSection, EgressSection, GatewayConfig, HostPort
from securepacs_proxy.config.rules import calls_of

Routes = Mapping[str, tuple[Destination, ...]]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How to call with TLS: the context, the name the certificate must carry (empty: the host), or its fingerprint."""

    context: ssl.SSLContext
    server_name: str = ""
    certificate_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Egress:
    """One inner port: who calls there, from where, and where to."""

    host: str
    port: int
    subject: Subject
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    routes: Routes

    def identify(self, host: str) -> Subject:
        """Return who calls from `host`. Raises AccessDenied when the address is not one of the archive's."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise AccessDenied("the caller has no address", hint="the connection was gone before it could be looked at") from None
        mapped = getattr(address, "ipv4_mapped", None)
        address = address if mapped is None else mapped
        if not any(address in network for network in self.networks):
            raise AccessDenied(f"{address} is not an address of {self.subject.user_id}", hint="add it to egress.addresses")
        return self.subject


def ingress_routes(config: GatewayConfig) -> Routes:
    """Return where the AE titles lead that peers call."""
    rows = enumerate(config.routes)
    return {row.called_ae_title: _destinations(row.destinations, row.tls, f"route[{index}].tls") for index, row in rows}


def egress_of(config: GatewayConfig) -> tuple[Egress, ...]:
    """Return every inner port."""
    return tuple(_egress(section, index) for index, section in enumerate(config.egress))


def reception_refusal(config: GatewayConfig, subject: Subject, ae_title: str) -> str:
    """Return why a subject may not wait for what an archive sends to an AE title, "" when it may.

    A machine must also be bound to the AE title; a person is found by the C-MOVE that asked.
    """
    rows = [row for section in config.egress for row in section.routes if row.reverse and row.called_ae_title == ae_title]
    if not rows:
        return f"no egress.route delivers to {ae_title} in reverse"
    if not any(subject.roles & set(row.roles) for row in rows):
        return f"none of its roles may receive for {ae_title}"
    if subject.kind is SubjectKind.DEVICE and ae_title not in subject.ae_titles:
        return f"the device is not bound to {ae_title}"
    return ""


def client_tls(config: GatewayConfig) -> dict[str, ClientTls]:
    """Read what is needed to call with TLS, by the names in `Destination.tls`. Raises ConfigError."""
    return {_tls_name(key, call): _client_tls(call) for key, call in calls_of(config)}


def _egress(section: EgressSection, index: int) -> Egress:
    subject = Subject(
        SubjectKind.DEVICE,
        user_id=section.name,
        name=section.name,
        roles=frozenset(section.roles),
        ae_titles=frozenset(section.ae_titles),
        assurance="network",
    )
    routes = {
        row.called_ae_title: (Destination("", 0, reverse=row.called_ae_title),)
        if row.reverse
        else _destinations(row.destinations, row.tls, f"egress[{index}].route[{position}].tls")
        for position, row in enumerate(section.routes)
    }
    networks = tuple(map(ipaddress.ip_network, section.addresses))
    return Egress(section.host, section.port, subject, networks, routes)


def _destinations(places: Iterable[HostPort], call: CallSection | None, key: str) -> tuple[Destination, ...]:
    name = _tls_name(key, call) if call is not None else ""
    return tuple(Destination(place.host, place.port, name) for place in places)


def _tls_name(key: str, call: CallSection) -> str:
    """Name TLS settings so that a reload, which may renumber sections, never gives a destination those of another."""
    return f"{key}#{hashlib.blake2b(call.model_dump_json().encode(), digest_size=8).hexdigest()}"


def _client_tls(call: CallSection) -> ClientTls:
    context = client_context(
        call.tls_profile,
        trust=call.trust,
        certificate=call.certificate,
        key=call.key,
        crls=call.crls,
        check_hostname=not call.certificate_sha256,
    )
    return ClientTls(context, call.server_name, call.certificate_sha256)
