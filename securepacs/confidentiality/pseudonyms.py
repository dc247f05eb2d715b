"""New names, UIDs and dates for old ones: the same for the same secret, and with no way back without it (PS3.15 E.1, E.3.6)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import uuid
from datetime import date, timedelta

from securepacs.errors import UsageError

MINIMUM_SECRET = 16  # octets
_STANDARD_ROOT = "1.2.840.10008."
_MAX_DAYS = 3650


class Pseudonyms:
    """One mapping from old to new values. Use one object, or the same `secret`, for instances that belong together.

    `secret`: at least 16 octets that nobody else knows; random when None. Who has it can tell whether a value that he guesses
    belongs to a pseudonym, so it is as confidential as the original data.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        if secret is not None and len(secret) < MINIMUM_SECRET:
            raise UsageError(f"the secret of the pseudonyms has fewer than {MINIMUM_SECRET} octets", hint="openssl rand 32")
        self._secret = secrets.token_bytes(32) if secret is None else secret

    def __repr__(self) -> str:
        return "Pseudonyms()"

    def _derived(self, purpose: str, *values: str) -> bytes:
        message = b"\0".join(value.encode("utf-8", "surrogateescape") for value in (purpose, *values))
        return hmac.new(self._secret, message, hashlib.sha256).digest()

    def uid(self, old: str) -> str:
        """Return the new UID of an instance, study or other entity (PS3.5 B.2); UIDs that the standard defines stay."""
        if not old or old.startswith(_STANDARD_ROOT):
            return old
        return f"2.25.{uuid.UUID(bytes=self._derived('uid', old)[:16], version=4).int}"

    def patient(self, patient_id: str, issuer: str) -> str:
        """Return the pseudonym of a patient: 16 letters and digits, fit for Patient ID and Patient's Name."""
        return "P" + base64.b32encode(self._derived("patient", patient_id, issuer)).decode("ascii")[:15]

    def shifted(self, value: str, vr: bytes, patient: str) -> str | None:
        """Return a DA or DT value some days earlier, 1 to 3650 for each patient; TM stays. None when it is not a date.

        Several values are separated by a backslash. Distances between the dates of one patient are kept.
        """
        if vr == b"TM":
            return value
        days = int.from_bytes(self._derived("days", patient)[:8], "big") % _MAX_DAYS + 1
        moved = [_earlier(each.strip(" \0"), days) for each in value.split("\\")]
        return None if None in moved else "\\".join(each for each in moved if each is not None)


def _earlier(value: str, days: int) -> str | None:
    if not value:
        return ""
    if len(value) == 10 and value[4] == value[7] == ".":  # ACR-NEMA (PS3.5 6.2 note)
        value = value.replace(".", "")
    if not (len(value) >= 8 and value[:8].isascii() and value[:8].isdigit()):
        return None
    try:
        moved = date(int(value[:4]), int(value[4:6]), int(value[6:8])) - timedelta(days)
    except (ValueError, OverflowError):
        return None
    return f"{moved:%Y%m%d}".rjust(8, "0") + value[8:]
