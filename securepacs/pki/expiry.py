"""Which certificates end soon: those a CA issued and has not revoked, its own, and those in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from securepacs.pki.storage import REGISTER, load_register
from securepacs.trust.files import load_certificate, load_certificates

ALERT_DAYS = (90, 60, 30, 14, 7, 1)


@dataclass(frozen=True, slots=True)
class Expiring:
    """One certificate; `source` is the CA folder or the file it was found in."""

    source: str
    subject: str
    serial_number: int
    not_after: datetime

    def alert(self, now: datetime) -> int | None:
        """Return the smallest of ALERT_DAYS that has been reached; None when none has."""
        left = (self.not_after - now) / timedelta(days=1)
        return min((days for days in ALERT_DAYS if left <= days), default=None)


def expiring(paths: Iterable[Path], *, before: datetime | None) -> list[Expiring]:
    """Return what ends before `before` (None: everything), the most urgent first. ConfigError for paths without certificates.

    Left out are certificates of a CA folder that have a successor: the same subject and profile, valid longer, not revoked.
    """
    found = [entry for path in paths for entry in _entries(path) if before is None or entry.not_after < before]
    return sorted(found, key=lambda entry: (entry.not_after, entry.subject))


def _entries(path: Path) -> Iterator[Expiring]:
    if not (path / REGISTER).is_file():
        yield from (_of(certificate, path) for certificate in load_certificates([path], key="path"))
        return
    for name in ("root.pem", "issuing.pem"):
        yield _of(load_certificate(path / name, key="path"), path)
    register = load_register(path)
    living = [issued for issued in register.issued.values() if issued.serial_number not in register.revoked]
    latest: dict[tuple[str, str], datetime] = {}
    for issued in living:
        identity = (issued.subject, issued.profile)
        latest[identity] = max(issued.not_after, latest.get(identity, issued.not_after))
    for issued in living:
        if issued.not_after == latest[issued.subject, issued.profile]:
            yield Expiring(str(path), issued.subject, issued.serial_number, issued.not_after)


def prometheus(entries: Iterable[Expiring]) -> str:
    """Return the entries as a metric in Prometheus' text format: the Unix time at which each certificate ends."""
    lines = [
        "# HELP securepacs_certificate_not_after_seconds Unix time at which a certificate ends.",
        "# TYPE securepacs_certificate_not_after_seconds gauge",
    ]
    for entry in entries:
        labels = {"subject": entry.subject, "serial_number": f"{entry.serial_number:x}", "source": entry.source}
        text = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
        lines.append(f"securepacs_certificate_not_after_seconds{{{text}}} {entry.not_after.timestamp():.0f}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _of(certificate: x509.Certificate, source: Path) -> Expiring:
    return Expiring(str(source), certificate.subject.rfc4514_string(), certificate.serial_number, certificate.not_valid_after_utc)
