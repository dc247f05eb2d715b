"""Which certificates end soon: those a CA issued and has not revoked, its own, and those in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from securepacs.pki.storage import REGISTER, load_register
from securepacs.trust.files import load_certificate, load_certificates


@dataclass(frozen=True, slots=True)
class Expiring:
    """One certificate; `source` is the CA folder or the file it was found in."""

    source: str
    subject: str
    serial_number: int
    not_after: datetime


def expiring(paths: Iterable[Path], *, before: datetime) -> list[Expiring]:
    """Return what ends before `before`, the most urgent first. ConfigError for paths that hold no certificates."""
    found = [entry for path in paths for entry in _entries(path) if entry.not_after < before]
    return sorted(found, key=lambda entry: (entry.not_after, entry.subject))


def _entries(path: Path) -> Iterator[Expiring]:
    if not (path / REGISTER).is_file():
        yield from (_of(certificate, path) for certificate in load_certificates([path], key="path"))
        return
    for name in ("root.pem", "issuing.pem"):
        yield _of(load_certificate(path / name, key="path"), path)
    register = load_register(path)
    for issued in register.issued.values():
        if issued.serial_number not in register.revoked:
            yield Expiring(str(path), issued.subject, issued.serial_number, issued.not_after)


def _of(certificate: x509.Certificate, source: Path) -> Expiring:
    return Expiring(str(source), certificate.subject.rfc4514_string(), certificate.serial_number, certificate.not_valid_after_utc)
