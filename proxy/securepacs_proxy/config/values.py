"""The kinds of values that settings have: what is accepted, how it is read, and what is said when it is wrong.

A wrong value raises a PydanticCustomError whose context holds the message and the cure; `loading.py` turns it into a ConfigError.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo
from pydantic_core import PydanticCustomError

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9]+)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HostPort(NamedTuple):
    """Where something listens; IPv6 addresses are without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _wrong(message: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{message}", {"message": message, "hint": hint})


def as_tuple(value: Any) -> Any:
    """TOML arrays are lists; strict models hold tuples."""
    return tuple(value) if isinstance(value, list) else value


def _path(value: Any, info: ValidationInfo) -> Any:
    """Make a path absolute, relative to the folder of the configuration file."""
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise _wrong("an empty path names no file", "give the path of a file, relative to the configuration file")
    base: Path = (info.context or {}).get("base", Path())
    return (base / value).absolute()


def _ae_title(value: Any) -> Any:
    """PS3.5 6.2 VR AE: at most 16 characters of the default repertoire, no backslash, spaces at the ends not significant."""
    if not isinstance(value, str):
        return value
    if not 1 <= len(value) <= 16:
        raise _wrong(f"an AE title has 1 to 16 characters, not {len(value)}", "shorten the AE title (PS3.5 6.2)")
    if value != value.strip() or "\\" in value or not value.isascii() or not value.isprintable():
        raise _wrong(
            "an AE title holds printable ASCII without backslash and without spaces at its ends", "correct the AE title (PS3.5 6.2)"
        )
    return value


def _host(value: Any) -> Any:
    if isinstance(value, str) and not _HOST.fullmatch(value):
        raise _wrong(
            f"{value!r} is neither a host name nor an IP address", 'write a name such as "pacs.hospital.example" or "10.0.0.7"'
        )
    return value


def _host_port(value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong("the value must be text in quotes", 'write "host:port", for example "127.0.0.1:11112"')
    host, _, port = value.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not _HOST.fullmatch(host) or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise _wrong(f"{value!r} is not host:port", 'write "host:port", for example "127.0.0.1:11112"')
    return HostPort(host, int(port))


def _database_url(value: Any) -> Any:
    """Accept no password and no options: a secret stands in a file, and TLS is not for an address to switch off."""
    if not isinstance(value, str):
        return value
    url = urlsplit(value)
    if url.scheme != "postgresql" or not url.username or not url.hostname or url.path in ("", "/") or url.query or url.fragment:
        raise _wrong("the value is no address of a PostgreSQL database", 'write "postgresql://USER@HOST:PORT/DATABASE"')
    if url.password is not None:
        raise _wrong("the address holds a password", "write it into a file and name that in `password_file`")
    return value


def _fingerprint(value: Any) -> Any:
    """Accept the spellings of `openssl x509 -fingerprint -sha256` and of sha256sum."""
    if not isinstance(value, str) or not value:
        return value
    plain = value.replace(":", "").lower()
    if not _SHA256.fullmatch(plain):
        raise _wrong(
            "a SHA-256 fingerprint has 64 hexadecimal digits", "openssl x509 -in CERT -noout -fingerprint -sha256 prints it"
        )
    return plain


def _network(value: Any) -> Any:
    """Accept an IP address or a network of them; the host bits of a network must be zero."""
    if not isinstance(value, str):
        return value
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise _wrong(
            f"{value!r} is neither an IP address nor a network", 'write an address such as "10.0.0.7" or a network "10.0.0.0/28"'
        ) from None
    return value


FilePath = Annotated[Path, BeforeValidator(_path), PlainSerializer(str)]
FilePaths = Annotated[tuple[FilePath, ...], BeforeValidator(as_tuple)]
AETitle = Annotated[str, BeforeValidator(_ae_title)]
AETitles = Annotated[tuple[AETitle, ...], BeforeValidator(as_tuple)]
Host = Annotated[str, BeforeValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
Endpoint = Annotated[HostPort, BeforeValidator(_host_port), PlainSerializer(str)]
Endpoints = Annotated[tuple[Endpoint, ...], BeforeValidator(as_tuple)]
DatabaseUrl = Annotated[str, BeforeValidator(_database_url)]
Network = Annotated[str, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(as_tuple)]
Fingerprint = Annotated[str, BeforeValidator(_fingerprint)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
UserNames = Annotated[tuple[Name, ...], BeforeValidator(as_tuple)]
Patterns = Annotated[tuple[Name, ...], BeforeValidator(as_tuple)]
Oid = Annotated[str, Field(pattern=r"^[0-2](\.(0|[1-9][0-9]*)){1,30}$")]
Oids = Annotated[tuple[Oid, ...], BeforeValidator(as_tuple)]
Assurance = Literal["", "hardware", "software", "network"]
Roles = Annotated[tuple[Name, ...], BeforeValidator(as_tuple)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
