"""Authorized originals: PS3.15 A.1, Online Electronic Storage Secure Use Profile.

`states` is the table of transitions, `registry` the record of who holds what, `stamp` the attributes in the files; `create`,
`authorize`, `copy_of` and `incoming` are what an AE does with them. `SqlRegistry` needs the extra `audit`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from securepacs.originals.instances import copy_of, create, incoming, stamped
from securepacs.originals.registry import Evidence, HistoryEntry, Holding, InstanceFacts, OriginalRegistry
from securepacs.originals.stamp import content_digest, facts_of, read_stamp, stamp
from securepacs.originals.states import Rule, SOPInstanceStatus, check_transition

if TYPE_CHECKING:
    from securepacs.originals.authorization import Authorization, authorize
    from securepacs.originals.key_object import build_key_object, read_key_object, sign_key_object
    from securepacs.originals.sql_registry import SqlRegistry

_ON_FIRST_USE = {  # these need pydicom, signatures, trust or SQLAlchemy
    "Authorization": "authorization",
    "authorize": "authorization",
    "build_key_object": "key_object",
    "read_key_object": "key_object",
    "sign_key_object": "key_object",
    "SqlRegistry": "sql_registry",
}

__all__ = [
    "Authorization",
    "Evidence",
    "HistoryEntry",
    "Holding",
    "InstanceFacts",
    "OriginalRegistry",
    "Rule",
    "SOPInstanceStatus",
    "SqlRegistry",
    "authorize",
    "build_key_object",
    "check_transition",
    "content_digest",
    "copy_of",
    "create",
    "facts_of",
    "incoming",
    "read_key_object",
    "read_stamp",
    "sign_key_object",
    "stamp",
    "stamped",
]


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(import_module(f"securepacs.originals.{_ON_FIRST_USE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
