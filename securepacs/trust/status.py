"""What one piece of revocation data says about one certificate. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

from cryptography import x509

RevocationData: TypeAlias = "x509.CertificateRevocationList | bytes"


class Outcome(Enum):
    """NOT_CONCERNED: the data is about other certificates; UNUSABLE: about this one, but stale, unsigned or unreadable."""

    GOOD = "good"
    REVOKED = "revoked"
    UNUSABLE = "unusable"
    NOT_CONCERNED = "not-concerned"


@dataclass(frozen=True, slots=True)
class RevocationStatus:
    """One answer. `stale_by` is set when only age makes a GOOD answer UNUSABLE; `reason` is the name of RFC 5280 5.3.1.

    `valid_until`: when the next answer is due, if the data say so. `data`: the CRLs or the OCSP response (DER) that say it.
    """

    outcome: Outcome
    detail: str = ""
    revocation_time: datetime | None = None
    reason: str = ""
    stale_by: timedelta | None = None
    valid_until: datetime | None = None
    data: tuple[RevocationData, ...] = ()


NOT_CONCERNED = RevocationStatus(Outcome.NOT_CONCERNED)


def aged(good: RevocationStatus, *, next_update: datetime, at: datetime, what: str) -> RevocationStatus:
    """Return `good`, or UNUSABLE when `next_update` has passed at the moment `at`."""
    if at <= next_update:
        return replace(good, valid_until=next_update)
    return RevocationStatus(Outcome.UNUSABLE, f"the {what} expired at {next_update:%Y-%m-%d %H:%M:%S}Z", stale_by=at - next_update)
