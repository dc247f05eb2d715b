"""Answers of revocation services on disk, shared by the processes of one user.

An entry is one file, named by the SHA-256 of its request, written beside its place and moved there, so that a reader sees it whole
or not at all; no lock is taken. An entry carries its own digest; one that is damaged, misplaced, out of date or from the future is
as good as none. What stands here is trusted no more than what comes over the network: its signature is checked at every use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from securepacs.errors import ConfigError

MAX_FOLDER_BYTES = 512 * 1024 * 1024
MAX_ENTRIES = 4096
MAX_SECONDS = 7 * 86_400.0  # a CRL that promises nothing new for ten years is asked for again all the same

_MAGIC = b"securepacs-answer-1\n"
_MAX_HEADER = 4096
_CLOCK_TOLERANCE = 300.0
_SUFFIX = ".answer"
_PRUNE_EVERY = 64  # writes between two looks at the size of the folder


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer, or with `problem` the reason why there was none."""

    body: bytes = b""
    problem: str = ""


class DiskCache:
    """A folder of answers, made with mode 0700. Safe to share between threads and processes.

    Raises ConfigError when the folder cannot be made or belongs to somebody else. A full or failing disk later on is no error: the
    answer is then fetched again.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_FOLDER_BYTES, max_entries: int = MAX_ENTRIES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self._writes = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise ConfigError(f"{folder}: not a folder of this user", key="cache_folder")
            if stat.S_IMODE(found.st_mode) != 0o700:
                folder.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be used as a cache: {error.strerror}", key="cache_folder") from error

    def get(self, url: str, request: bytes = b"") -> Entry | None:
        """Return what is known about a request now, or None."""
        path = self._path(url, request)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                raw = file.read(self.max_bytes + 1)
        except OSError:
            return None
        return _read(raw, path.name) if len(raw) <= self.max_bytes else None

    def put(self, url: str, request: bytes, entry: Entry, *, until: float) -> None:
        """Keep an answer until a moment (seconds since 1970), at most MAX_SECONDS from now."""
        path, now = self._path(url, request), time.time()
        header = {"fetched": now, "until": min(until, now + MAX_SECONDS), "problem": entry.problem[:1024]}
        payload = json.dumps(header).encode() + b"\n" + entry.body
        raw = _MAGIC + _digest(path.name, payload) + b"\n" + payload
        if until <= now or len(raw) > self.max_bytes:
            return
        self._writes += 1
        with contextlib.suppress(OSError):
            _write_atomically(path, raw)
            if self._writes % _PRUNE_EVERY == 1:
                self.prune()

    def prune(self) -> None:
        """Remove the oldest entries until the folder is within its bounds, and what a broken-off write left behind."""
        kept: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process was faster
                found = path.lstat()
                if path.suffix == _SUFFIX:
                    kept.append((found.st_mtime, found.st_size, path))
                elif found.st_mtime < time.time() - 3600:
                    path.unlink()
        kept.sort(reverse=True)
        total = 0
        for position, (_, size, path) in enumerate(kept):
            total += size
            if total > self.max_bytes or position >= self.max_entries:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, url: str, request: bytes) -> Path:
        return self.folder / (hashlib.sha256(url.encode() + b"\0" + request).hexdigest() + _SUFFIX)


def _digest(name: str, payload: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + payload).hexdigest().encode()


def _read(raw: bytes, name: str) -> Entry | None:
    head, _, rest = raw.partition(b"\n")
    digest, _, payload = rest.partition(b"\n")
    if head + b"\n" != _MAGIC or digest != _digest(name, payload):
        return None
    header, _, body = payload.partition(b"\n")
    try:
        fields = json.loads(header[:_MAX_HEADER])
        fetched, until, problem = float(fields["fetched"]), float(fields["until"]), str(fields["problem"])
    except (ValueError, TypeError, KeyError):
        return None
    now = time.time()
    if not fetched - _CLOCK_TOLERANCE <= now < until:
        return None
    return Entry(body, problem)


def _write_atomically(path: Path, raw: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
