"""The history on disk: one small file a version, and every text once under its digest. Durable, for its owner only, bounded.

    history/20260301T080000.000000Z-4f1c2a90b3d7.json     a version: since when, by whom, why, what changed, which texts
    history/objects/<SHA-256>                             a configuration, a policy, the schema, certificates

A version names the digest of the one before it, and its audit records name its own: what was altered or taken out does not fit.
Private keys are never kept, nor their digests. A version is in force when it is on disk, and only then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securepacs.errors import ConfigError, UsageError
from securepacs_proxy.history.changes import NOTHING, Change, ChangeKind, Compared, differences

FOLDER = "history"
_OBJECTS = "objects"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{12}\.json")


@dataclass(frozen=True, slots=True)
class Version:
    """One version. `policies` and `certificates` map names to digests of texts in the history; `digests` are of files not kept.

    `digest` is that of the version's own file.
    """

    version: str
    since: datetime
    by: str
    reason: str
    product: str
    path: str
    configuration: str
    schema: str
    policies: Mapping[str, str]
    certificates: Mapping[str, str]
    digests: Mapping[str, str]
    settings: Mapping[str, str]
    changes: tuple[Change, ...] = ()
    previous: str = ""
    digest: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a gateway works by: the texts to keep, and the digests (SHA-256) of the other files, private keys excepted."""

    version: str
    path: str
    configuration: bytes
    schema: str
    policies: Mapping[str, str]
    certificates: Mapping[str, bytes]
    digests: Mapping[str, str]
    settings: Mapping[str, str]


class History:
    """The versions in a folder, at most `limit` of them: the oldest leave first."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def versions(self) -> list[Version]:
        """Return all versions, the oldest first. Raises ConfigError for a damaged one."""
        return [self._read_version(path) for path in self._files()]

    def newest(self) -> Version | None:
        """Return the version in force, or that was when the gateway stopped; None when there is none."""
        files = self._files()
        return self._read_version(files[-1]) if files else None

    def at(self, moment: datetime) -> Version | None:
        """Return the version in force at a moment; None without a history. Raises UsageError for a moment before the first one."""
        wanted, files = f"{_stamp(moment)}~", self._files()
        before = [path for path in files if path.name <= wanted]
        if files and not before:
            first = self._read_version(files[0])
            raise UsageError(
                f"the history of policies begins at {first.since.isoformat(timespec='seconds')}",
                hint="ask about a later moment; the audit trail may hold older changes",
            )
        return self._read_version(before[-1]) if before else None

    def find(self, version: str) -> Version:
        """Return the newest version that begins with the given digits. Raises UsageError when there is none."""
        found = [one for one in self.versions() if version and one.version.startswith(version)]
        if not found:
            raise UsageError(f"there is no version {version}", hint="`gateway history` lists them")
        return found[-1]

    def text(self, digest: str) -> bytes:
        """Return a text that a version names. Raises ConfigError when it is gone or altered."""
        content = self._read(self._folder / _OBJECTS / digest)
        if hashlib.sha256(content).hexdigest() != digest:
            raise self._damaged(f"{_OBJECTS}/{digest[:12]}")
        return content

    def add(self, new: Contents, *, at: datetime, by: str, reason: str, product: str) -> Version | None:
        """Make `new` the version in force from `at` on; None when it is already. Raises ConfigError, nothing added."""
        last = self.newest()
        texts = {"configuration": new.configuration, "schema": new.schema.encode()}
        policies = {name: text.encode() for name, text in new.policies.items()}
        if last is not None and (last.version, last.product) == (new.version, product):
            digests = {name: _digest(content) for name, content in policies.items()}
            if (last.policies, last.schema) == (digests, _digest(texts["schema"])):  # shipped policies are no file of the operator
                return None
        changes = differences(self._compared(last), _compared(new))
        try:
            for folder in (self._folder, self._folder / _OBJECTS):
                folder.mkdir(mode=0o700, exist_ok=True)
            for content in (*texts.values(), *policies.values(), *new.certificates.values()):
                if not (self._folder / _OBJECTS / _digest(content)).exists():
                    _write(self._folder / _OBJECTS / _digest(content), content)
            version = Version(
                version=new.version,
                # recorded time never runs backwards, whatever the clock does
                since=at if last is None else max(at, last.since + timedelta(microseconds=1)),
                by=by,
                reason=reason,
                product=product,
                path=new.path,
                configuration=_digest(texts["configuration"]),
                schema=_digest(texts["schema"]),
                policies={name: _digest(content) for name, content in policies.items()},
                certificates={name: _digest(content) for name, content in new.certificates.items()},
                digests=dict(new.digests),
                settings=dict(new.settings),
                changes=changes,
                previous=last.digest if last is not None else "",
            )
            path = self._folder / f"{_stamp(version.since)}-{version.version[:12]}.json"
            _write(path, _encode(version))
            self._forget()
        except OSError as error:
            raise ConfigError(
                f"the history of policies in {self._folder} cannot be written: {error.strerror}",
                key="audit.spool",
                hint="nothing is put in force that the history does not hold: make room, or give the gateway its folder",
            ) from None
        return self._read_version(path)

    def _compared(self, version: Version | None) -> Compared:
        if version is None:
            return NOTHING
        policies = {name: self.text(digest).decode() for name, digest in version.policies.items()}
        return Compared(version.settings, policies, {**version.digests, **version.certificates})

    def _forget(self) -> None:
        """Remove the oldest versions beyond the limit, and texts that no version names any more."""
        files = self._files()
        gone, kept = files[: -self._limit], files[-self._limit :]
        if not gone:
            return
        for path in gone:
            path.unlink()
        named: set[str] = set()
        for path in kept:
            one = self._read_version(path)
            named |= {one.configuration, one.schema, *one.policies.values(), *one.certificates.values()}
        for path in (self._folder / _OBJECTS).iterdir():
            if path.name not in named:
                path.unlink()

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot be read: {error.strerror}", key="audit.spool") from None

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise self._damaged(f"{path.name}: {error.strerror}") from None

    def _read_version(self, path: Path) -> Version:
        content = self._read(path)
        try:
            return _decode(content)
        except (ValueError, KeyError, TypeError):
            raise self._damaged(path.name) from None

    def _damaged(self, what: str) -> ConfigError:
        hint = "restore the folder from a backup, or move it away: the history then begins anew"
        return ConfigError(f"the history of policies in {self._folder} is damaged: {what}", key="audit.spool", hint=hint)


def _compared(new: Contents) -> Compared:
    certificates = {name: _digest(content) for name, content in new.certificates.items()}
    return Compared(new.settings, new.policies, {**new.digests, **certificates})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%S.%fZ")


def _encode(version: Version) -> bytes:
    row: dict[str, Any] = {**asdict(version), "since": version.since.isoformat(timespec="microseconds")}
    del row["digest"]
    return json.dumps(row, indent=1, ensure_ascii=False).encode()


def _decode(content: bytes) -> Version:
    row: dict[str, Any] = json.loads(content)
    row["since"] = datetime.fromisoformat(row["since"])
    row["changes"] = tuple(Change(ChangeKind(one["kind"]), tuple(one["lines"])) for one in row["changes"])
    return Version(**row, digest=_digest(content))


def _write(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 durably, or leave nothing. Raises OSError."""
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise
