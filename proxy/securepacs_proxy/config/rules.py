"""What must hold between settings: nothing empty that refuses or forwards nobody, nothing claimed twice. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from securepacs.errors import ConfigError
from securepacs.tls import PROFILES
from securepacs_proxy.config.model import (
    AuditDestinationSection,
    CallSection,
    DeviceSection,
    EgressRouteSection,
    EgressSection,
    GatewayConfig,
    ListenerSection,
    MetricsSection,
    PersonSection,
    RouteSection,
)

_EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


def broken_rules(config: GatewayConfig) -> Iterator[ConfigError]:
    """Yield one error for every rule that `config` breaks, in the order of the file."""
    yield from _listeners(config.listeners)
    yield from _routes(config.routes, "route")
    yield from _egress(config.egress, config.listeners)
    for key, call in calls_of(config):
        yield from _call(key, call)
    yield from _devices(config.devices)
    yield from _persons(config.persons)
    if config.metrics is not None:
        yield from _metrics(config.metrics)
    yield from _same_certificate_twice([*_enrolled("device", config.devices), *_enrolled("person", config.persons)])
    for index, issuer in enumerate(config.user_identity.issuers):
        if not issuer.keys:
            key = f"user_identity.issuer[{index}].keys"
            yield ConfigError("no key is named: nobody could vouch", key=key, hint='for example keys = ["issuer.pem"]')
    for index, destination in enumerate(config.audit.destinations):
        yield from destination_rules(f"audit.destination[{index}]", destination)


def destination_rules(key: str, destination: AuditDestinationSection) -> Iterator[ConfigError]:
    """Yield one error for every rule that an audit destination breaks."""
    if destination.transport != "tls":
        yield from _without_tls(key, destination)
        return
    if not destination.trust:
        yield _empty_trust(f"{key}.trust", "no audit repository would be accepted")
    yield from _profile(f"{key}.tls_profile", destination.tls_profile)
    if (destination.certificate is None) != (destination.key is None):
        missing = "key" if destination.key is None else "certificate"
        yield ConfigError(
            "a certificate and its key belong together", key=f"{key}.{missing}", hint=f"name {missing} too, or neither"
        )  # fmt: skip


def _without_tls(key: str, destination: AuditDestinationSection) -> Iterator[ConfigError]:
    """Who names certificates expects protection."""
    for name in ("trust", "certificate", "key"):
        if getattr(destination, name):
            yield ConfigError(
                f"{destination.transport} has no use for it", key=f"{key}.{name}", hint='transport = "tls", or leave it out'
            )


def _metrics(metrics: MetricsSection) -> Iterator[ConfigError]:
    if (metrics.listen is None) == (metrics.socket is None):
        hint = 'listen = "127.0.0.1:9464", or socket = "metrics.sock"'
        yield ConfigError("metrics need one place to be served at", key="metrics.listen", hint=hint)
    if metrics.listen is not None and not is_loopback(metrics.listen.host):
        yield ConfigError(
            f"{metrics.listen.host} is not a loopback address: metrics have no access control",
            key="metrics.listen",
            hint="let a local agent or a reverse proxy fetch them from 127.0.0.1",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _empty_trust(key: str, consequence: str) -> ConfigError:
    return ConfigError(
        f"the list of trusted CA certificates is empty: {consequence}", key=key, hint='name a PEM file: trust = ["ca.pem"]'
    )


def _profile(key: str, name: str) -> Iterator[ConfigError]:
    if name not in PROFILES:
        yield ConfigError(f"there is no TLS profile {name}", key=key, hint=f"one of {', '.join(PROFILES)} (PS3.15 Annex B)")


def _listeners(listeners: Sequence[ListenerSection]) -> Iterator[ConfigError]:
    if not listeners:
        yield ConfigError("there is no listener: nobody could connect", key="listener", hint="add a [[listener]] section")
    seen: list[tuple[str, int]] = []
    for index, listener in enumerate(listeners):
        key = f"listener[{index}]"
        if not listener.trust:
            yield _empty_trust(f"{key}.trust", "no peer would be accepted")
        yield from _profile(f"{key}.tls_profile", listener.tls_profile)
        if any(_overlap((listener.host, listener.port), other) for other in seen):
            message = f"port {listener.port} on {listener.host} is already taken by another listener"
            yield ConfigError(message, key=f"{key}.port", hint="give each listener a port of its own")
        seen.append((listener.host, listener.port))


def _overlap(one: tuple[str, int], other: tuple[str, int]) -> bool:
    same_address = one[0] == other[0] or bool(_EVERY_ADDRESS & {one[0], other[0]})
    return one[1] == other[1] != 0 and same_address


def calls_of(config: GatewayConfig) -> Iterator[tuple[str, CallSection]]:
    """Yield every section about TLS toward a destination, with its dotted key."""
    for index, route in enumerate(config.routes):
        if route.tls is not None:
            yield f"route[{index}].tls", route.tls
    for index, egress in enumerate(config.egress):
        for position, way in enumerate(egress.routes):
            if way.tls is not None:
                yield f"egress[{index}].route[{position}].tls", way.tls


def _call(key: str, call: CallSection) -> Iterator[ConfigError]:
    if not call.trust:
        yield _empty_trust(f"{key}.trust", "no destination would be accepted")
    yield from _profile(f"{key}.tls_profile", call.tls_profile)
    if (call.certificate is None) != (call.key is None):
        missing = "key" if call.key is None else "certificate"
        yield ConfigError(
            "a certificate and its key belong together", key=f"{key}.{missing}", hint=f"name {missing} too, or neither"
        )
    if call.server_name and call.certificate_sha256:
        yield ConfigError(
            "name and fingerprint name the certificate twice", key=f"{key}.certificate_sha256", hint="give one of the two"
        )


def _egress(sections: Sequence[EgressSection], listeners: Sequence[ListenerSection]) -> Iterator[ConfigError]:
    taken = [(listener.host, listener.port) for listener in listeners]
    for index, section in enumerate(sections):
        key = f"egress[{index}]"
        if any(_overlap((section.host, section.port), other) for other in taken):
            message = f"port {section.port} on {section.host} is already taken by another listener"
            yield ConfigError(message, key=f"{key}.port", hint="give each inner port a number of its own")
        taken.append((section.host, section.port))
        if not section.addresses:
            yield ConfigError(
                "no address is named: every call would be refused",
                key=f"{key}.addresses",
                hint='for example addresses = ["10.0.0.7"]',
            )
        if not section.ae_titles:
            yield ConfigError(
                "the archive has no AE title: every call would be refused",
                key=f"{key}.ae_titles",
                hint='for example ae_titles = ["ARCHIVE"]',
            )
        yield from _some_role(key, section.roles)
        yield from _routes(section.routes, f"{key}.route")
        for position, route in enumerate(section.routes):
            if route.reverse:
                yield from _reverse(route, f"{key}.route[{position}]")
            elif (route.tls is not None) == route.unsafe_plain:
                message = "the destination is called both with and without TLS" if route.tls else "it is not said how to call it"
                hint = f"add [egress.route.tls] with trust, or unsafe_plain = true, for {route.called_ae_title}"
                yield ConfigError(message, key=f"{key}.route[{position}].tls", hint=hint)


def _reverse(route: EgressRouteSection, key: str) -> Iterator[ConfigError]:
    if route.destinations or route.tls is not None or route.unsafe_plain:
        message = f"{route.called_ae_title} is delivered in reverse and has a destination too"
        yield ConfigError(message, key=f"{key}.reverse", hint="give only called_ae_title, reverse and roles")
    if not route.roles:
        message = f"nobody may receive for {route.called_ae_title}"
        yield ConfigError(message, key=f"{key}.roles", hint='for example roles = ["radiologist"]')


def _routes(routes: Sequence[RouteSection | EgressRouteSection], section: str) -> Iterator[ConfigError]:
    if not routes:
        header = section.partition("[")[0] + (".route" if "[" in section else "")
        yield ConfigError("there is no route: nothing could be forwarded", key=section, hint=f"add a [[{header}]] section")
    seen: set[str] = set()
    for index, route in enumerate(routes):
        if not route.destinations and not getattr(route, "reverse", False):
            yield ConfigError(
                f"the route {route.called_ae_title} leads nowhere",
                key=f"{section}[{index}].destinations",
                hint='name where it listens: destinations = ["127.0.0.1:11112"]',
            )
        if route.called_ae_title in seen:
            yield ConfigError(
                f"AE title {route.called_ae_title} has a route already",
                key=f"{section}[{index}].called_ae_title",
                hint="list further destinations in the first route, or remove one of the two",
            )
        seen.add(route.called_ae_title)


def _devices(devices: Sequence[DeviceSection]) -> Iterator[ConfigError]:
    owner: dict[str, int] = {}
    for index, device in enumerate(devices):
        key = f"device[{index}]"
        yield from _one_identity(
            key, certificate_common_name=device.certificate_common_name, certificate_sha256=device.certificate_sha256
        )
        if not device.ae_titles:
            yield ConfigError(
                "the device has no AE title: every call would be refused",
                key=f"{key}.ae_titles",
                hint='for example ae_titles = ["CT1"]',
            )
        yield from _some_role(key, device.roles)
        for position, title in enumerate(device.ae_titles):
            if title in owner:
                yield ConfigError(
                    f"AE title {title} belongs to device[{owner[title]}] already",
                    key=f"{key}.ae_titles[{position}]",
                    hint="an AE title names one device, or a record could not tell who acted",
                )
            owner.setdefault(title, index)


def _persons(persons: Sequence[PersonSection]) -> Iterator[ConfigError]:
    for index, person in enumerate(persons):
        key = f"person[{index}]"
        yield from _one_identity(
            key,
            certificate_common_name=person.certificate_common_name,
            certificate_sha256=person.certificate_sha256,
            email=person.email,
        )
        yield from _some_role(key, person.roles)


def _one_identity(key: str, **identities: str) -> Iterator[ConfigError]:
    given = [name for name, value in identities.items() if value]
    if len(given) != 1:
        message = "no certificate is named" if not given else f"{' and '.join(given)} name the certificate twice"
        yield ConfigError(
            message, key=f"{key}.{given[1] if given else next(iter(identities))}", hint=f"give one of {', '.join(identities)}"
        )


def _some_role(key: str, roles: tuple[str, ...]) -> Iterator[ConfigError]:
    if not roles:
        yield ConfigError(
            "there is no role: everything would be refused", key=f"{key}.roles", hint='for example roles = ["modality"]'
        )


def _enrolled(section: str, rows: Iterable[DeviceSection | PersonSection]) -> Iterator[tuple[str, str]]:
    for index, row in enumerate(rows):
        for field in ("certificate_common_name", "certificate_sha256", "email"):
            value = getattr(row, field, "")
            if value:
                yield f"{section}[{index}].{field}", value


def _same_certificate_twice(identities: Iterable[tuple[str, str]]) -> Iterator[ConfigError]:
    first: dict[tuple[str, str], str] = {}
    for key, value in identities:
        identity = (key.rpartition(".")[2], value.casefold())
        if identity in first:
            yield ConfigError(
                f"{value} is enrolled already in {first[identity]}", key=key, hint="merge the two sections, or remove one"
            )
        first.setdefault(identity, key)
