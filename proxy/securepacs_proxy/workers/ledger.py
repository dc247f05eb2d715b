"""Putting a version on record: first in the history, then, change by change, in the audit trail (PS3.15 A.5.3.14)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from securepacs import __version__
from securepacs_proxy.history import FOLDER, ChangeKind, History, Version
from securepacs_proxy.reload import Snapshot
from securepacs_proxy.workers.auditor import Notes

MAX_DIFF = 8000  # characters of a diff in one record; the history holds all of it
_KINDS = {
    ChangeKind.POLICY: "security",
    ChangeKind.CONFIGURATION: "security",
    ChangeKind.ROLES: "roles",
    ChangeKind.ENROLMENT: "rights",
}


def put_on_record(snapshot: Snapshot, notes: Notes, *, at: datetime, by: str = "", reason: str) -> Version | None:
    """Make a snapshot the version in force, and note what it changes; None when it is in force already. Raises ConfigError.

    `by` asked for it, as the operating system knows the user; empty: who owns the files that changed, for they wrote them.
    """
    config = snapshot.config
    history = History(config.audit.spool / FOLDER, limit=config.policy.history_versions)
    changed = _changed_files(history.newest(), snapshot)
    by = by or _owners(changed)
    version = history.add(snapshot.contents, at=at, by=by, reason=reason, product=__version__)
    if version is None:
        return None
    for change in version.changes:
        text = f"{change.kind.value} changed, version {snapshot.version[:12]}, by {by} ({reason}), history {version.digest[:16]}:\n"
        notes.add(_KINDS[change.kind], at=at, text=text + _bounded(change.lines, snapshot.version[:12]), by=by)
    return version


def _bounded(lines: tuple[str, ...], version: str) -> str:
    text = "\n".join(lines)
    if len(text) <= MAX_DIFF:
        return text
    shown = text[:MAX_DIFF].rpartition("\n")[0] or text[:MAX_DIFF]
    return f"{shown}\n... and more: gateway history --show {version}"


def _changed_files(last: Version | None, snapshot: Snapshot) -> list[Path]:
    """Return the files that are not as the last version knew them; all files, of the first one."""
    new = snapshot.contents
    if last is None:
        return [Path(new.path)]
    changed = [] if last.settings == new.settings else [new.path]
    changed += [path for path, digest in new.digests.items() if last.digests.get(path) != digest]
    if snapshot.config.policy.folder is not None:
        changed += [str(snapshot.config.policy.folder / name) for name in new.policies]
    return [Path(path) for path in changed] or [Path(new.path)]


def _owners(files: Iterable[Path]) -> str:
    owners = set()
    for file in files:
        try:
            owners.add(_name_of(file.stat().st_uid))
        except OSError:  # it is gone, or a policy that settings make
            continue
    return ", ".join(sorted(owners)) or _name_of(os.geteuid())


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
