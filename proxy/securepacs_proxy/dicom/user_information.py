"""The User Information item and its sub-items, by table; what the table does not know is refused (PS3.7 D.3.3, PS3.8 D).

51H maximum length          54H role selection               57H common extended negotiation
52H implementation class    55H implementation version name  58H user identity (request only)
53H asynchronous window     56H extended negotiation         59H user identity (response only)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from securepacs_proxy.dicom.wire import AbortReason, Cursor, Violation, counted, item

MAX_SUB_ITEMS = 1024


class SubItem(IntEnum):
    """Sub-item types of the User Information item."""

    MAXIMUM_LENGTH = 0x51
    IMPLEMENTATION_CLASS_UID = 0x52
    ASYNCHRONOUS_OPERATIONS_WINDOW = 0x53
    ROLE_SELECTION = 0x54
    IMPLEMENTATION_VERSION_NAME = 0x55
    SOP_CLASS_EXTENDED_NEGOTIATION = 0x56
    SOP_CLASS_COMMON_EXTENDED_NEGOTIATION = 0x57
    USER_IDENTITY_RQ = 0x58
    USER_IDENTITY_AC = 0x59


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """SCP/SCU Role Selection for one SOP Class (PS3.7 D.3.3.4), the roles of the association requestor."""

    SOPClassUID: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class AsynchronousOperationsWindow:
    """How many operations may be outstanding, 0 for any number (PS3.7 D.3.3.3)."""

    invoked: int
    performed: int


@dataclass(frozen=True, slots=True)
class SOPClassExtendedNegotiation:
    """Service-class application information of one SOP Class, not interpreted (PS3.7 D.3.3.5)."""

    SOPClassUID: str
    application_information: bytes


@dataclass(frozen=True, slots=True)
class SOPClassCommonExtendedNegotiation:
    """Service class and related general SOP Classes of one SOP Class (PS3.7 D.3.3.6)."""

    SOPClassUID: str
    service_class_uid: str
    related_general_sop_classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class UserIdentity:
    """A claimed identity (PS3.7 D.3.3.7). Has no repr: the fields may hold a passcode, a ticket or a token."""

    type: int
    positive_response_requested: bool
    primary: bytes
    secondary: bytes


@dataclass(frozen=True, slots=True)
class UserInformation:
    """All sub-items. A maximum length of 0 is no limit; a missing sub-item is None or empty."""

    maximum_length: int = 0
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    asynchronous_operations_window: AsynchronousOperationsWindow | None = None
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[SOPClassExtendedNegotiation, ...] = ()
    common_extended: tuple[SOPClassCommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None
    user_identity_response: bytes | None = field(default=None, repr=False)


def _flag(value: int) -> bool:
    if value > 1:
        raise Violation("a role or response flag is neither 0 nor 1")
    return value == 1


def _maximum_length(cursor: Cursor) -> int:
    return cursor.unsigned(4)


def _class_uid(cursor: Cursor, length: int) -> str:
    return cursor.uid(length)


def _window(cursor: Cursor) -> AsynchronousOperationsWindow:
    return AsynchronousOperationsWindow(cursor.unsigned(2), cursor.unsigned(2))


def _role(cursor: Cursor) -> RoleSelection:
    return RoleSelection(cursor.uid(cursor.unsigned(2)), _flag(cursor.unsigned(1)), _flag(cursor.unsigned(1)))


def _version_name(cursor: Cursor, length: int) -> str:
    text = bytes(cursor.take(length)).decode("latin-1").strip(" \0")
    if len(text) > 16 or not text.isprintable() or not text.isascii():
        raise Violation("implementation version name is longer than 16 characters or not printable")
    return text


def _extended(cursor: Cursor, length: int) -> SOPClassExtendedNegotiation:
    uid_length = cursor.unsigned(2)
    sop_class = cursor.uid(uid_length)
    return SOPClassExtendedNegotiation(sop_class, bytes(cursor.take(length - 2 - uid_length)))


def _common(cursor: Cursor) -> SOPClassCommonExtendedNegotiation:
    sop_class = cursor.uid(cursor.unsigned(2))
    service = cursor.uid(cursor.unsigned(2))
    related = Cursor(cursor.take(cursor.unsigned(2)), "related general SOP classes")
    uids = []
    while related:
        uids.append(related.uid(related.unsigned(2)))
    return SOPClassCommonExtendedNegotiation(sop_class, service, tuple(uids))


def _identity(cursor: Cursor) -> UserIdentity:
    kind, response = cursor.unsigned(1), _flag(cursor.unsigned(1))
    if not 1 <= kind <= 5:
        raise Violation("user identity is of an unknown type")
    primary = bytes(cursor.take(cursor.unsigned(2)))
    secondary = bytes(cursor.take(cursor.unsigned(2)))
    if secondary and kind != 2:
        raise Violation("user identity has a passcode where its type has none")
    return UserIdentity(kind, response, primary, secondary)


def _server_response(cursor: Cursor) -> bytes:
    return bytes(cursor.take(cursor.unsigned(2)))


def _whole(read: Callable[[Cursor], Any]) -> Callable[[Cursor, int], Any]:
    return lambda cursor, length: read(cursor)


# sub-item -> (field of UserInformation, reader, may repeat)
_TABLE: dict[int, tuple[str, Callable[[Cursor, int], Any], bool]] = {
    SubItem.MAXIMUM_LENGTH: ("maximum_length", _whole(_maximum_length), False),
    SubItem.IMPLEMENTATION_CLASS_UID: ("implementation_class_uid", _class_uid, False),
    SubItem.ASYNCHRONOUS_OPERATIONS_WINDOW: ("asynchronous_operations_window", _whole(_window), False),
    SubItem.ROLE_SELECTION: ("roles", _whole(_role), True),
    SubItem.IMPLEMENTATION_VERSION_NAME: ("implementation_version_name", _version_name, False),
    SubItem.SOP_CLASS_EXTENDED_NEGOTIATION: ("extended", _extended, True),
    SubItem.SOP_CLASS_COMMON_EXTENDED_NEGOTIATION: ("common_extended", _whole(_common), True),
    SubItem.USER_IDENTITY_RQ: ("user_identity", _whole(_identity), False),
    SubItem.USER_IDENTITY_AC: ("user_identity_response", _whole(_server_response), False),
}
_NOT_IN_REQUEST = frozenset((SubItem.USER_IDENTITY_AC,))
_NOT_IN_ACCEPTANCE = frozenset((SubItem.USER_IDENTITY_RQ, SubItem.SOP_CLASS_COMMON_EXTENDED_NEGOTIATION))


def decode(value: bytes | memoryview, *, request: bool) -> UserInformation:
    """Read the value of a User Information item. Raises Violation for unknown, misplaced, repeated or damaged sub-items."""
    fields: dict[str, Any] = {}
    cursor, count = Cursor(value, "user information"), 0
    forbidden = _NOT_IN_REQUEST if request else _NOT_IN_ACCEPTANCE
    while cursor:
        kind, content = cursor.item()
        count += 1
        if count > MAX_SUB_ITEMS:
            raise Violation("user information has too many sub-items")
        row = _TABLE.get(kind)
        if row is None or kind in forbidden:
            raise Violation(f"user information has an unexpected sub-item {kind:02X}H", AbortReason.UNRECOGNIZED_PDU_PARAMETER)
        name, read, repeats = row
        part = Cursor(content, f"sub-item {kind:02X}H")
        entry = read(part, len(content))
        part.finish()
        if repeats:
            fields.setdefault(name, []).append(entry)
        elif name in fields:
            raise Violation(f"sub-item {kind:02X}H is repeated", AbortReason.UNEXPECTED_PDU_PARAMETER)
        else:
            fields[name] = entry
    for name in ("roles", "extended", "common_extended"):
        entries = tuple(fields.get(name, ()))
        if len({each.SOPClassUID for each in entries}) != len(entries):
            raise Violation(f"negotiation of {name} names a SOP Class twice", AbortReason.UNEXPECTED_PDU_PARAMETER)
        fields[name] = entries
    return UserInformation(**fields)


def encode(information: UserInformation) -> bytes:
    """Return the User Information item (50H) with the sub-items that have a value."""
    parts = [item(SubItem.MAXIMUM_LENGTH, information.maximum_length.to_bytes(4, "big"))]
    if information.implementation_class_uid:
        parts.append(item(SubItem.IMPLEMENTATION_CLASS_UID, information.implementation_class_uid.encode("ascii")))
    if (window := information.asynchronous_operations_window) is not None:
        value = window.invoked.to_bytes(2, "big") + window.performed.to_bytes(2, "big")
        parts.append(item(SubItem.ASYNCHRONOUS_OPERATIONS_WINDOW, value))
    parts += [
        item(SubItem.ROLE_SELECTION, counted(role.SOPClassUID.encode("ascii")) + bytes((role.scu, role.scp)))
        for role in information.roles
    ]
    if information.implementation_version_name:
        parts.append(item(SubItem.IMPLEMENTATION_VERSION_NAME, information.implementation_version_name.encode("ascii")))
    parts += [
        item(SubItem.SOP_CLASS_EXTENDED_NEGOTIATION, counted(each.SOPClassUID.encode("ascii")) + each.application_information)
        for each in information.extended
    ]
    parts += [item(SubItem.SOP_CLASS_COMMON_EXTENDED_NEGOTIATION, _encode_common(each)) for each in information.common_extended]
    if (identity := information.user_identity) is not None:
        head = bytes((identity.type, identity.positive_response_requested))
        parts.append(item(SubItem.USER_IDENTITY_RQ, head + counted(identity.primary) + counted(identity.secondary)))
    if information.user_identity_response is not None:
        parts.append(item(SubItem.USER_IDENTITY_AC, counted(information.user_identity_response)))
    return item(0x50, b"".join(parts))


def _encode_common(each: SOPClassCommonExtendedNegotiation) -> bytes:
    related = b"".join(counted(uid.encode("ascii")) for uid in each.related_general_sop_classes)
    return counted(each.SOPClassUID.encode("ascii")) + counted(each.service_class_uid.encode("ascii")) + counted(related)


__all__ = [
    "MAX_SUB_ITEMS", "AsynchronousOperationsWindow", "RoleSelection", "SOPClassCommonExtendedNegotiation",
    "SOPClassExtendedNegotiation", "SubItem", "UserIdentity", "UserInformation", "decode", "encode",
]  # fmt: skip
