"""What changed between two versions of a configuration, in lines an auditor reads. Pure.

Settings are compared by their dotted names, so that another order or layout of the file is no change; sections that repeat are
known by what they are about (`device[ct1]`), not by their place. Policies are compared as text, other files by digest.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from securepacs_proxy.config import GatewayConfig

_NAMED_BY = {
    "device": ("certificate_common_name", "certificate_sha256"),
    "person": ("email", "certificate_common_name", "certificate_sha256"),
    "route": ("called_ae_title",),
    "egress": ("name",),
    "anchor": ("certificate",),
    "issuer": ("name",),
}
_ENROLMENTS = ("device[", "person[")


class ChangeKind(StrEnum):
    """What a change is about."""

    POLICY = "policy"
    ROLES = "role mapping"
    ENROLMENT = "enrolment"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True)
class Change:
    """All changes of one kind, one a line: `+ new`, `- gone`, `~ key: old -> new`, or the lines of a unified diff."""

    kind: ChangeKind
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """What of a version is compared: settings by dotted name, policies by file name, digests (SHA-256) of other files by path."""

    settings: Mapping[str, str]
    policies: Mapping[str, str]
    digests: Mapping[str, str]


NOTHING = Compared({}, {}, {})


def settings_of(config: GatewayConfig) -> dict[str, str]:
    """Return every setting by its dotted name, as text; what is not set is left out."""
    return dict(_flat("", config.model_dump(mode="json", by_alias=True)))


def differences(old: Compared, new: Compared) -> tuple[Change, ...]:
    """Return what changed, by kind in the order of `ChangeKind`; kinds without a change are left out."""
    found: dict[ChangeKind, list[str]] = {kind: [] for kind in ChangeKind}
    for name in sorted({*old.policies, *new.policies}):
        found[ChangeKind.POLICY] += _policy_lines(name, old.policies.get(name), new.policies.get(name), first=old is NOTHING)
    for key in sorted({*old.settings, *new.settings}):
        before, after = old.settings.get(key), new.settings.get(key)
        if before != after:
            found[_kind_of(key, new=before is None, gone=after is None)].append(_line(key, before, after))
    for path in sorted({*old.digests, *new.digests}):
        before, after = old.digests.get(path), new.digests.get(path)
        if before != after:
            found[ChangeKind.CONFIGURATION].append(_line(f"file {path}, SHA-256", before, after))
    return tuple(Change(kind, tuple(lines)) for kind, lines in found.items() if lines)


def _kind_of(key: str, *, new: bool, gone: bool) -> ChangeKind:
    """Roles of who stays enrolled, and what anchors may say, are role mapping; who comes or goes is enrolment, roles included."""
    if key.startswith("policy."):
        return ChangeKind.POLICY
    if key.startswith("anchor["):
        return ChangeKind.ROLES
    if key.startswith((*_ENROLMENTS, "egress[")) and key.endswith("].roles") and not new and not gone:
        return ChangeKind.ROLES
    return ChangeKind.ENROLMENT if key.startswith(_ENROLMENTS) else ChangeKind.CONFIGURATION


def _line(key: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"+ {key} = {after}"
    return f"- {key} = {before}" if after is None else f"~ {key}: {before} -> {after}"


def _policy_lines(name: str, before: str | None, after: str | None, *, first: bool) -> list[str]:
    """Return the unified diff of a policy; of the first version only the names, because all of it would be new."""
    if before == after:
        return []
    if first:
        return [f"+ policy {name}"]
    old, new = (before or "").splitlines(), (after or "").splitlines()
    title = f"policy {name}"
    return list(difflib.unified_diff(old, new, title if before else "none", title if after else "none", n=1, lineterm=""))


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list) and any(isinstance(row, Mapping) for row in value):
        names: dict[str, int] = {}
        for index, row in enumerate(value):
            name = _name_of(key.rpartition(".")[2], row, index)
            names[name] = names.get(name, 0) + 1
            yield from _flat(f"{key}[{name if names[name] == 1 else f'{name}#{names[name]}'}]", row)
    elif isinstance(value, list):
        if value or key.rpartition(".")[2] not in _NAMED_BY:  # no device at all is nothing; a device without roles is something
            yield key, ", ".join(str(one) for one in value) or "none"
    elif value not in (None, ""):
        yield key, str(value).lower() if isinstance(value, bool) else str(value)


def _name_of(section: str, row: Mapping[str, Any], index: int) -> str:
    return next((str(row[key]) for key in _NAMED_BY.get(section, ()) if row.get(key)), str(index))
