"""How many patients somebody reaches within an hour: an obligation of a policy, first an alarm, then, where it says so, a refusal.

    @obligation_patients_per_hour("alarm 100")   @obligation_patients_per_hour("alarm 20, refuse 60")

A patient counts when data about it is asked for or delivered by a request whose permit carries the obligation: a query or a C-GET
that names a Patient ID; a C-MOVE by its Patient ID, or by its study where it names none; an instance that the archive sends (for a
C-GET, or out for somebody who moved) by its Patient ID. The same patient counts once within the hour.
"""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Protocol

PATIENTS_PER_HOUR = "patients_per_hour"
WINDOW = timedelta(hours=1)
MAX_ENTRIES = 8192  # of one process: subject and patient
_LIMITS = re.compile(r"(?:alarm (?P<alarm>[1-9]\d{0,6}))?(?:, )?(?:refuse (?P<refuse>[1-9]\d{0,6}))?")


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of patients; None: no such limit."""

    alarm: int | None
    refuse: int | None


@functools.lru_cache(maxsize=64)
def read_limits(text: str) -> Limits | None:
    """Read the value of the obligation; of several, joined by "; ", the smallest number counts. None when it cannot be read."""
    alarms, refusals = [], []
    for part in text.split(";"):
        match = _LIMITS.fullmatch(part.strip())
        if match is None or not match[0]:
            return None
        alarms += [int(match["alarm"])] if match["alarm"] else []
        refusals += [int(match["refuse"])] if match["refuse"] else []
    return Limits(min(alarms, default=None), min(refusals, default=None))


class Visits(Protocol):
    """Who reached whom; one implementation for one process, one for all workers."""

    def visit(self, user_id: str, patient: str, at: datetime) -> None:
        """Note that somebody reached a patient."""
        ...

    def count(self, user_id: str, at: datetime) -> int:
        """Return how many different patients somebody reached within the last hour."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a visit leads to: a reason to refuse, or words for an alarm; usually neither."""

    refusal: str = ""
    alarm: str = ""


def spend(visits: Visits, limits: Limits, user_id: str, patient: str, at: datetime) -> Outcome:
    """Count a visit to `patient` (empty: to nobody), unless somebody has reached too many already."""
    before = visits.count(user_id, at)
    if limits.refuse is not None and before >= limits.refuse:
        return Outcome(refusal=f"{before} patients within an hour, {limits.refuse} are permitted")
    if not patient:
        return Outcome()
    visits.visit(user_id, patient, at)
    after = visits.count(user_id, at)
    if limits.alarm is not None and before <= limits.alarm < after:
        return Outcome(alarm=f"{user_id} reached {after} patients within an hour, the alarm is set at {limits.alarm}")
    return Outcome()


class Ledger:
    """Keyed digests of subject and patient with the last moment; no name is kept."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        self._seen: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()  # oldest first
        self._patients: dict[bytes, int] = {}

    def digest(self, text: str) -> bytes:
        """Return what stands for a name."""
        return blake2b(text.encode(), digest_size=8, key=self._key).digest()

    def note(self, user: bytes, patient: bytes, moment: float) -> bool:
        """Note a visit by digests; return whether it is the first within the hour."""
        known = self._seen.pop((user, patient), None)
        if known is None:
            self._patients[user] = self._patients.get(user, 0) + 1
        self._seen[user, patient] = max(moment, known or moment)
        while len(self._seen) > MAX_ENTRIES:
            self._forget(next(iter(self._seen)))
        return known is None or moment - known > WINDOW.total_seconds() / 2  # so that other processes keep it as well

    def expire(self, moment: float) -> None:
        """Forget what is older than the hour."""
        while self._seen:
            oldest = next(iter(self._seen))
            if moment - self._seen[oldest] < WINDOW.total_seconds():
                return
            self._forget(oldest)

    def visit(self, user_id: str, patient: str, at: datetime) -> None:
        """Note that somebody reached a patient."""
        self.expire(at.timestamp())
        self.note(self.digest(user_id), self.digest(patient), at.timestamp())

    def count(self, user_id: str, at: datetime) -> int:
        """Return how many different patients somebody reached within the last hour."""
        self.expire(at.timestamp())
        return self._patients.get(self.digest(user_id), 0)

    def __len__(self) -> int:
        return len(self._seen)

    def _forget(self, entry: tuple[bytes, bytes]) -> None:
        del self._seen[entry]
        left = self._patients[entry[0]] - 1
        if left:
            self._patients[entry[0]] = left
        else:
            del self._patients[entry[0]]
