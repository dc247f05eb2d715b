"""Who may do what: subjects read from certificates (ISO 17090 roles), requests, and Cedar policies that decide.

Names are imported on first use: the vocabulary needs the standard library alone, deciding needs cedarpy (extra `gateway`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securepacs.policy.cedar import CedarPolicy
    from securepacs.policy.roles import Enrolment, subject_of
    from securepacs.policy.subject import AccessRequest, Decision, Effect, Policy, Subject, SubjectKind

_HOMES = {
    "AccessRequest": "subject", "Decision": "subject", "Effect": "subject", "Policy": "subject", "Subject": "subject",
    "SubjectKind": "subject", "Enrolment": "roles", "subject_of": "roles", "CedarPolicy": "cedar",
}  # fmt: skip
__all__ = ["AccessRequest", "CedarPolicy", "Decision", "Effect", "Enrolment", "Policy", "Subject", "SubjectKind", "subject_of"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
