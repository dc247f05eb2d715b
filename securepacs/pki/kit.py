"""A kit per device: key and certificate in the formats that devices take, the chain, and a page for whoever sets the device up.

All rows of the list are checked before anything is issued, and everything is made before anything is written.
"""

from __future__ import annotations

import csv
import html
import io
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from securepacs.errors import ConfigError, MalformedError, SecurePacsError, UsageError
from securepacs.pki.authority import CertificateAuthority
from securepacs.pki.keys import KeyKind, generate_key
from securepacs.pki.profiles import PROFILES, CertificateProfile, Naming, profile_named
from securepacs.pki.storage import private_pem, write_atomically, write_private
from securepacs.tokens.credential import SigningKey

REQUIRED = ("name", "gateway", "ae_titles")
OPTIONAL = ("profile", "dns", "ip", "email", "organization", "called_ae_title")
_SAFE_NAME = re.compile(r"[\w][\w.-]{0,63}")
_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")  # PS3.5 6.2, no backslash
_HOST_PORT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?:\d{1,5}")
_TYPEABLE = "abcdefghjkmnpqrstuvwxyz23456789"  # typed by hand from paper: nothing that looks like something else
_PASSWORD_LENGTH = 20
_SIZE_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Device:
    """One row of the list."""

    name: str
    profile: CertificateProfile
    host: str
    port: int
    ae_titles: tuple[str, ...]
    called_ae_title: str = ""
    dns: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    email: str = ""
    organization: str = ""


def read_devices(path: Path, *, profile: str = "") -> list[Device]:
    """Read a list of devices (CSV with a header; several values in a cell are separated by `;`).

    Columns: name, gateway (host:port), ae_titles; optional: profile, dns, ip, email, organization, called_ae_title. `profile` is
    for rows that name none. MalformedError names the line.
    """
    try:
        raw = path.read_bytes()[: _SIZE_LIMIT + 1]
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", key="kit") from None
    except UnicodeDecodeError:
        raise MalformedError(f"{path} is not UTF-8 text") from None
    if len(raw) > _SIZE_LIMIT:
        raise MalformedError(f"{path} is too long for a list of devices")
    reader = csv.DictReader(io.StringIO(text), strict=True)
    columns = tuple(reader.fieldnames or ())
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown:
        what = f"lacks the column {missing[0]}" if missing else f"has an unknown column {unknown[0]!r}"
        raise MalformedError(f"{path} {what}", hint=f"columns: {', '.join((*REQUIRED, *OPTIONAL))}")
    devices: list[Device] = []
    try:
        devices.extend(_device(row, profile, f"{path} line {reader.line_num}") for row in reader)
    except csv.Error as error:
        raise MalformedError(f"{path} line {reader.line_num}: {error}") from None
    names = [device.name for device in devices]
    if not devices or len(set(names)) != len(names):
        raise MalformedError(f"{path} names no device" if not devices else f"{path} names a device twice")
    return devices


def _device(row: Mapping[str, str | None], profile: str, where: str) -> Device:
    def cell(name: str) -> str:
        return (row.get(name) or "").strip()

    def cells(name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in cell(name).split(";") if part.strip())

    if None in row:
        raise MalformedError(f"{where} has more cells than columns", hint="several values in a cell are separated by ;")
    if not _SAFE_NAME.fullmatch(cell("name")):
        raise MalformedError(f"{where}: the name is not letters, digits, dots and hyphens")
    if not _HOST_PORT.fullmatch(cell("gateway")) or not 1 <= int(cell("gateway").rpartition(":")[2]) <= 65535:
        raise MalformedError(f"{where}: the gateway is not host:port")
    titles, called = cells("ae_titles"), cell("called_ae_title")
    if not titles or not all(_AE_TITLE.fullmatch(title) for title in (*titles, *([called] if called else []))):
        raise MalformedError(f"{where}: an AE title is missing or wrong", standard="PS3.5 6.2")
    try:
        wanted = profile_named(cell("profile") or profile)
    except SecurePacsError as error:
        raise MalformedError(f"{where}: {error.message}", hint=error.hint) from None
    if PROFILES[wanted].naming is Naming.HOST and not (cells("dns") or cells("ip")):
        raise MalformedError(f"{where}: the profile {wanted} needs a DNS name or an IP address")
    host, _, port = cell("gateway").rpartition(":")
    return Device(
        cell("name"),
        wanted,
        host,
        int(port),
        titles,
        called,
        cells("dns"),
        cells("ip"),
        cell("email"),
        cell("organization"),
    )


@dataclass(frozen=True, slots=True)
class Kit:
    """What was issued for one device."""

    device: Device
    certificate: x509.Certificate
    key: SigningKey
    password: str


def issue_kits(
    authority: CertificateAuthority,
    devices: Sequence[Device],
    *,
    at: datetime,
    key_kind: KeyKind,
    lifetime: timedelta | None = None,
) -> list[Kit]:
    """Issue a certificate and key for each device. An earlier certificate stays valid: the two overlap until it ends."""
    kits = []
    for device in devices:
        key = generate_key(key_kind)
        certificate = authority.issue(
            device.profile,
            common_name=device.name,
            public_key=key.public_key(),
            at=at,
            lifetime=lifetime,
            dns=device.dns,
            ip=device.ip,
            email=device.email,
            organization=device.organization,
        )
        password = "".join(secrets.choice(_TYPEABLE) for _ in range(_PASSWORD_LENGTH))
        kits.append(Kit(device, certificate, key, password))
    return kits


def refuse_existing(folder: Path, devices: Sequence[Device]) -> None:
    """Raise UsageError when a kit's folder exists already: nothing is overwritten."""
    for device in devices:
        if (folder / device.name).exists():
            raise UsageError(f"{folder / device.name} exists already", hint="choose another folder with -o, or move it away")


def write_kit(folder: Path, kit: Kit, authority: CertificateAuthority) -> Path:
    """Write one kit into a folder of its own (mode 0700) and return it.

    NAME.p12 with its password in NAME.password, NAME.pem with chain and NAME.key, chain.pem, root.pem, and NAME.html to print.
    Files with secrets have mode 0600; the password of the PKCS #12 file is not on the page.
    """
    name, target = kit.device.name, folder / kit.device.name
    target.mkdir(parents=True, mode=0o700)
    pem = [link.public_bytes(Encoding.PEM) for link in (kit.certificate, *authority.chain)]
    bundle = pkcs12.serialize_key_and_certificates(
        name.encode(), kit.key, kit.certificate, list(authority.chain), BestAvailableEncryption(kit.password.encode())
    )
    write_private(target / f"{name}.p12", bundle)
    write_private(target / f"{name}.password", f"{kit.password}\n".encode())
    write_private(target / f"{name}.key", private_pem(kit.key))
    write_atomically(target / f"{name}.pem", b"".join(pem))
    write_atomically(target / "chain.pem", b"".join(pem[1:]))
    write_atomically(target / "root.pem", authority.root.public_bytes(Encoding.PEM))
    write_atomically(target / f"{name}.html", _page(kit).encode())
    return target


def _page(kit: Kit) -> str:
    device, certificate = kit.device, kit.certificate
    rows = [
        ("Device", device.name),
        ("Connect to", f"{device.host} port {device.port}, DICOM over TLS (PS3.15 B.12), with client certificate"),
        ("Own AE title", ", ".join(device.ae_titles)),
        ("Called AE title", device.called_ae_title or "as before"),
        ("Certificate valid until", f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"),
        ("Serial number", f"{certificate.serial_number:x}"),
        ("Issuer", certificate.issuer.rfc4514_string()),
    ]
    name, called = device.name, device.called_ae_title or "CALLED_AE_TITLE"
    test = (
        f"echoscu +tls {name}.key {name}.pem +cf root.pem +cf chain.pem "
        f'-aet "{device.ae_titles[0]}" -aec "{called}" {device.host} {device.port}'
    )
    file = html.escape(name)
    cells = "\n".join(f"<tr><th>{html.escape(head)}</th><td>{html.escape(value)}</td></tr>" for head, value in rows)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{file}</title>
<style>body{{font:12pt sans-serif;margin:2cm}}th{{text-align:left;padding-right:1em}}code{{font-size:10pt}}</style>
<h1>{file}</h1>
<table>
{cells}
</table>
<h2>Set up</h2>
<p>Import <code>{file}.p12</code>, whose password is in <code>{file}.password</code> and is handed over another way; or
<code>{file}.pem</code> with <code>{file}.key</code>. Trust <code>root.pem</code>. Then delete this folder.</p>
<h2>Test</h2>
<p><code>{html.escape(test)}</code></p>
</html>
"""
