"""A repository with a signed log, exported: what the verifier and those who attack it start from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securepacs.audit.checkpoint import Checkpoint, LogKey
from securepacs.audit.repository import Receipt, Repository
from securepacs.audit.repository.signer import LogSigner
from securepacs.audit.syslog import to_syslog
from securepacs.audit.verifier import AuditReport, verify_export
from tests.support.audit import LEE, numbered

ORIGIN = "hospital.example/audit"
BEGIN = datetime(2027, 2, 1, tzinfo=UTC)


def make_log_key(path: Path) -> Path:
    """Write an Ed25519 key as openssl genpkey does."""
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def receipts(count: int, *, first: int = 0, raw: Callable[[int], bytes] | None = None) -> list[Receipt]:
    """Return records that came one second after another."""
    make = raw or (lambda number: to_syslog(numbered(number), hostname="h", app_name="a", procid="1"))
    return [
        Receipt.of(make(number), received=BEGIN + timedelta(seconds=number), transport="test")
        for number in range(first, first + count)
    ]


class SignedLog:
    """A repository of `count` records with a checkpoint after every `every` of them."""

    def __init__(self, folder: Path, count: int, *, every: int, key: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key_file = key or make_log_key(folder / "log.key")
        self.signer = LogSigner.load(self.key_file, origin=ORIGIN, state=folder / "last")
        self.key = LogKey.load(self.key_file.read_bytes(), origin=ORIGIN)
        self.repository = Repository(f"sqlite:///{folder}/audit.db")
        self.notes: list[str] = []
        for first in range(0, count, every):
            self.repository.store(receipts(min(every, count - first), first=first))
            self.sign(BEGIN + timedelta(seconds=first + every))

    def sign(self, at: datetime) -> Checkpoint | None:
        """Make a checkpoint."""
        checkpoint = self.repository.checkpoint(self.signer, at=at)
        if checkpoint is not None:
            self.notes.append(checkpoint.note)
        return checkpoint

    def export(self, name: str = "export") -> Path:
        """Export everything that is signed into a new folder."""
        target = self.folder / name
        self.repository.export(target, reader=LEE, at=BEGIN + timedelta(days=1))
        return target

    def copy(self, source: Path, name: str) -> Path:
        """Return a copy of an export, to be spoilt."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        return target

    def verify(self, export: Path, *previous: str) -> AuditReport:
        """Verify with this log's key and the checkpoints somebody kept."""
        return verify_export(export, self.key.public, previous=previous)


def codes(report: AuditReport) -> set[str]:
    """Return the codes of all problems."""
    return {each.code for each in report.problems}
