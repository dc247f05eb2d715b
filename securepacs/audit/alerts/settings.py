"""alerts.toml: which rules, with which thresholds, and where alerts go. Secrets only as names of files."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from securepacs.audit.alerts.rules import RULES, Rule
from securepacs.audit.senders import Transport
from securepacs.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class WatchSection:
    """What concerns all alerts. `state`: folder (mode 0700) for positions and the queue."""

    state: Path
    again_seconds: float = 3600
    poll_seconds: float = 2
    quota_mb: int = 16


@dataclass(frozen=True)
class MailChannel:
    """E-mail through a server (RFC 5321), with TLS from the beginning (`tls`), by STARTTLS, or `unsafe-plain`."""

    server: str
    sender: str
    to: list[str]
    port: int = 587
    security: str = "starttls"
    trust: list[Path] = field(default_factory=list)
    user: str = ""
    password_file: Path | None = None


@dataclass(frozen=True)
class WebhookChannel:
    """An HTTPS address that takes a POST with JSON. With `secret_file` the body is signed (HMAC-SHA256)."""

    url: str
    trust: list[Path] = field(default_factory=list)
    secret_file: Path | None = None
    unsafe_plain: bool = False


@dataclass(frozen=True)
class SyslogChannel:
    """A syslog receiver, as a SIEM is: one record with one line of JSON for each alert."""

    host: str
    port: int = 6514
    transport: str = "tls"
    trust: list[Path] = field(default_factory=list)
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class AlertSettings:
    """Everything `audit watch` needs to know."""

    watch: WatchSection
    rules: tuple[Rule, ...]
    mail: tuple[MailChannel, ...] = ()
    webhook: tuple[WebhookChannel, ...] = ()
    syslog: tuple[SyslogChannel, ...] = ()


def load_settings(path: Path) -> AlertSettings:
    """Read alerts.toml; paths are relative to it. Raises ConfigError that names the key. NOT checked: that anybody answers."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name the settings with -c alerts.toml") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise ConfigError(f"{path} is not TOML", hint="text values stand in quotes, sections in [brackets]") from None
    base = path.absolute().parent
    for key in raw.keys() - {"watch", "rule", "mail", "webhook", "syslog"}:
        raise ConfigError("there is no such section", key=str(key), hint="watch, rule, mail, webhook or syslog")
    settings = AlertSettings(
        _section(WatchSection, raw.get("watch", {}), "watch", base),
        tuple(_rules(raw.get("rule", {}), base)),
        *(tuple(_each(raw.get(name, []), kind, name, base)) for name, kind in _CHANNELS.items()),
    )
    _check(settings)
    return settings


_CHANNELS: dict[str, type[Any]] = {"mail": MailChannel, "webhook": WebhookChannel, "syslog": SyslogChannel}


def _rules(raw: Any, base: Path) -> list[Rule]:
    table = _table(raw, "rule")
    for name in table.keys() - RULES.keys():
        raise ConfigError("there is no such rule", key=f"rule.{name}", hint=", ".join(RULES))
    rules: list[Rule] = []
    for name, kind in RULES.items():
        given = dict(_table(table.get(name, {}), f"rule.{name}"))
        enabled = given.pop("enabled", True)
        if not isinstance(enabled, bool):
            raise ConfigError("true or false is needed", key=f"rule.{name}.enabled")
        if enabled:
            rules.append(_section(kind, given, f"rule.{name}", base))
    return rules


def _each(raw: Any, kind: type[T], key: str, base: Path) -> list[T]:
    if not isinstance(raw, list):
        raise ConfigError("a section of several is written in double brackets", key=key, hint=f"[[{key}]]")
    return [_section(kind, row, f"{key}[{index}]", base) for index, row in enumerate(raw)]


def _table(raw: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError("a section is needed", key=key, hint=f"[{key}]")
    return raw


def _section(kind: type[T], raw: Any, key: str, base: Path) -> T:
    """Make a dataclass of a section: unknown keys, wrong types and missing values are refused."""
    table, hints = _table(raw, key), get_type_hints(kind)
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    for name in table.keys() - known.keys():
        raise ConfigError("there is no such setting", key=f"{key}.{name}", hint=", ".join(known) or "this section has none")
    for name, one in known.items():
        if name not in table and one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError("a value is needed", key=f"{key}.{name}")
    values = {name: _value(value, hints[name], f"{key}.{name}", base) for name, value in table.items()}
    try:
        return kind(**values)
    except (ValueError, KeyError):  # a time or a zone that is none
        raise ConfigError("a time is written 22:00, a zone Asia/Seoul", key=key) from None


def _value(value: Any, wanted: Any, key: str, base: Path) -> Any:
    if isinstance(wanted, types.UnionType):  # optional
        wanted = next(one for one in get_args(wanted) if one is not type(None))
    origin = get_origin(wanted)
    if origin is list and isinstance(value, list):
        return [_value(each, get_args(wanted)[0], key, base) for each in value]
    if origin is dict and isinstance(value, dict):
        return {name: _value(each, get_args(wanted)[1], f"{key}.{name}", base) for name, each in value.items()}
    if wanted is Path and isinstance(value, str) and value:
        return base / value
    if wanted is float and type(value) in (int, float) and value > 0:
        return float(value)
    if wanted is int and type(value) is int and value > 0:
        return value
    if wanted in (str, bool) and type(value) is wanted:
        return value
    name = getattr(wanted, "__name__", str(wanted)) if origin is None else origin.__name__
    raise ConfigError(f"a value of type {name} is needed", key=key)


def _check(settings: AlertSettings) -> None:
    for index, mail in enumerate(settings.mail):
        if mail.security not in ("tls", "starttls", "unsafe-plain"):
            raise ConfigError("tls, starttls or unsafe-plain is needed", key=f"mail[{index}].security")
        if not mail.to or bool(mail.user) != (mail.password_file is not None):
            raise ConfigError("receivers are needed, and a user only with a password_file", key=f"mail[{index}]")
    for index, hook in enumerate(settings.webhook):
        scheme = urlsplit(hook.url).scheme
        if scheme != "https" and not (scheme == "http" and hook.unsafe_plain):
            raise ConfigError("an https address is needed", key=f"webhook[{index}].url", hint="or unsafe_plain = true with http")
    for index, receiver in enumerate(settings.syslog):
        if receiver.transport not in {each.value for each in Transport}:
            names = ", ".join(each.value for each in Transport)
            raise ConfigError("there is no such transport", key=f"syslog[{index}].transport", hint=names)
        if receiver.transport == Transport.TLS and not receiver.trust:
            raise ConfigError("TLS needs trust", key=f"syslog[{index}].trust")
