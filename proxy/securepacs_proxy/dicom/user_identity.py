"""User identity negotiation (PS3.7 D.3.3.7): the certificate says who it is, the item of the request may only agree.

1. Types 1 and 2: the user name must be one of the subject's. The passcode is neither looked at nor kept nor passed on
   (PS3.15 B.4): the certificate has proved more than a passcode could.
2. Types 4 and 5: the assertion or token must be signed by a configured issuer and name the subject; without one it is refused.
3. Type 3 (Kerberos) is refused: there is no service key to open a ticket with.
4. A response (59H) goes out when it was asked for and the item was accepted; it is empty.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from securepacs.policy.subject import Subject
from securepacs_proxy.dicom.user_information import UserIdentity

USERNAME, USERNAME_AND_PASSCODE, KERBEROS, SAML, JWT = 1, 2, 3, 4, 5
_MAX_NAME = 256


class IdentityRules(Protocol):
    """Judges an item; pure, no clock."""

    def refusal(self, identity: UserIdentity, subject: Subject, at: datetime) -> str:
        """Return why the item is refused, "" when it is accepted; never a word of the item itself."""
        ...


class Certified:
    """The rules without any issuer."""

    def refusal(self, identity: UserIdentity, subject: Subject, at: datetime) -> str:
        """Accept only a user name of the subject."""
        if identity.type in (USERNAME, USERNAME_AND_PASSCODE):
            return name_refusal(identity.primary, subject)
        return f"no issuer is configured for user identities of type {identity.type}"


class Ignored:
    """No item is looked at."""

    def refusal(self, identity: UserIdentity, subject: Subject, at: datetime) -> str:
        """Accept everything."""
        return ""


def name_refusal(raw: bytes, subject: Subject) -> str:
    """Return why a user name (UTF-8) is not the subject's."""
    try:
        name = raw.decode("utf-8").strip(" \0")
    except UnicodeDecodeError:
        return "the user name is not UTF-8"
    if not name or len(name) > _MAX_NAME:
        return "the user name is empty or too long"
    return "" if is_name_of(name, subject) else "the user name is not that of the certificate"


def is_name_of(name: str, subject: Subject) -> bool:
    """Return whether `name` is the user id, the common name or a configured user name of the subject, in any case of letters."""
    return name.casefold() in {known.casefold() for known in (subject.user_id, subject.name, *subject.user_names)}
