"""Aggregating what strangers can cause: refusals of peers that never authenticated, per peer and minute, under a quota.

The first refusal of a peer in a minute is told at once, all others of that minute are counted and told once when it has passed. At
most `quota` peers are told apart in a minute; the refusals of all others are counted together. So a flood costs a bounded number of
records, and no refusal goes uncounted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

DEFAULT_QUOTA = 100
OTHERS = "others"
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Refusals:
    """What is to be recorded: `count` refusals of `peer` (OTHERS: of peers beyond the quota) that began at `since`."""

    peer: str
    count: int
    reason: str
    since: datetime


class FailureAggregator:
    """Counts refusals; `at` never goes back by more than is harmless: a minute then only lasts longer. Not locked: one user."""

    def __init__(self, *, quota: int = DEFAULT_QUOTA) -> None:
        self._quota = quota
        self._began: datetime | None = None
        self._counts: dict[str, int] = {}  # beyond the first, which was told
        self._reasons: dict[str, str] = {}

    def refused(self, peer: str, reason: str, *, at: datetime) -> list[Refusals]:
        """Take a refusal and return what is to be recorded now, the sums of a minute that has passed first."""
        told = self.due(at=at)
        if self._began is None:
            self._began = at
        if peer in self._counts:
            self._counts[peer] += 1
        elif len(self._counts.keys() - {OTHERS}) < self._quota:
            self._counts[peer] = 0
            told.append(Refusals(peer, 1, reason, at))
        else:
            peer = OTHERS
            self._counts[peer] = self._counts.get(peer, 0) + 1
        self._reasons[peer] = reason
        return told

    def due(self, *, at: datetime) -> list[Refusals]:
        """Return the sums of a minute that has passed; call it now and then, and with the last moment at the end."""
        if self._began is None or at < self._began + _MINUTE:
            return []
        return self.end()

    def end(self) -> list[Refusals]:
        """Return what was counted and not told yet."""
        began, counts, reasons = self._began, self._counts, self._reasons
        self._began, self._counts, self._reasons = None, {}, {}
        if began is None:
            return []
        return [Refusals(peer, count, reasons[peer], began) for peer, count in counts.items() if count]
