"""What must hold between settings: nothing empty that refuses or forwards nobody, nothing claimed twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from securepacs.errors import ConfigError
from securepacs.tls import PROFILES
from securepacs_proxy.config.model import DeviceSection, GatewayConfig, ListenerSection, PersonSection, RouteSection

_EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


def broken_rules(config: GatewayConfig) -> Iterator[ConfigError]:
    """Yield one error for every rule that `config` breaks, in the order of the file."""
    yield from _listeners(config.listeners)
    yield from _routes(config.routes)
    yield from _devices(config.devices)
    yield from _persons(config.persons)
    yield from _same_certificate_twice([*_enrolled("device", config.devices), *_enrolled("person", config.persons)])
    for index, destination in enumerate(config.audit.destinations):
        key = f"audit.destination[{index}]"
        if not destination.trust:
            yield _empty_trust(f"{key}.trust", "no audit repository would be accepted")
        yield from _profile(f"{key}.tls_profile", destination.tls_profile)
        if (destination.certificate is None) != (destination.key is None):
            missing = "key" if destination.key is None else "certificate"
            yield ConfigError(
                "a certificate and its key belong together", key=f"{key}.{missing}", hint=f"name {missing} too, or neither"
            )


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


def _routes(routes: Sequence[RouteSection]) -> Iterator[ConfigError]:
    if not routes:
        yield ConfigError("there is no route: nothing could be forwarded", key="route", hint="add a [[route]] section")
    seen: set[str] = set()
    for index, route in enumerate(routes):
        if not route.destinations:
            yield ConfigError(
                f"the route {route.called_ae_title} leads nowhere",
                key=f"route[{index}].destinations",
                hint='name where the archive listens: destinations = ["127.0.0.1:11112"]',
            )
        if route.called_ae_title in seen:
            yield ConfigError(
                f"AE title {route.called_ae_title} has a route already",
                key=f"route[{index}].called_ae_title",
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
