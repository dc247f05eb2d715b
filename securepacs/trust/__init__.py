"""Whom to believe: certification paths (RFC 5280), revocation (RFC 5280, 6960), time stamps (RFC 3161), roles in certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securepacs.trust.hcrole import actors_of, hcrole_extension, roles_of
from securepacs.trust.path import validate
from securepacs.trust.policy import Indication, PathResult, Purpose, SubIndication, TrustPolicy

if TYPE_CHECKING:
    from securepacs.trust.timestamp import TimestampResult, request_timestamp, verify_timestamp

__all__ = [
    "Indication",
    "PathResult",
    "Purpose",
    "SubIndication",
    "TimestampResult",
    "TrustPolicy",
    "actors_of",
    "hcrole_extension",
    "request_timestamp",
    "roles_of",
    "validate",
    "verify_timestamp",
]

_LAZY = ("TimestampResult", "request_timestamp", "verify_timestamp")  # they load the CMS room, which most callers do not need


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from securepacs.trust import timestamp

        return getattr(timestamp, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
