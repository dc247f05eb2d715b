"""What every report is made from: the repository, who asks, the period, the language and the time zone it is shown in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from securepacs.audit.message import ActiveParticipant
from securepacs.audit.reports.model import Chart
from securepacs.audit.reports.spill import Spill
from securepacs.audit.reports.words import Words
from securepacs.audit.repository.reading import Reading
from securepacs.audit.repository.repository import Repository
from securepacs.audit.repository.search import Criteria
from securepacs.errors import UsageError

_MOST_DAYS = 62  # a chart of more days is drawn by month
TOP = 12  # bars of a chart


@dataclass(frozen=True, slots=True)
class Scope:
    """The setting of a report. `since` is included, `until` is not; both aware, None is open. `at` is now."""

    repository: Repository
    reader: ActiveParticipant
    at: datetime
    since: datetime | None = None
    until: datetime | None = None
    language: str = "en"
    zone: tzinfo = UTC

    @property
    def words(self) -> Words:
        """The words of the language."""
        return Words(self.language)

    def criteria(self, **wanted: str) -> Criteria:
        """Return criteria within the period, the oldest record first."""
        return Criteria(since=self.since, until=self.until, newest_first=False, **wanted)  # type: ignore[arg-type]

    @contextmanager
    def opened(self, kind: str, **details: str) -> Iterator[tuple[Reading, Spill]]:
        """Yield a look at the repository, after it was recorded that this report was asked for, and a place for its rows."""
        words = self.words  # a wrong language is refused before anything is recorded
        period = {"since": self.since, "until": self.until}
        asked = {"report": kind, "language": words.language, **details}
        asked |= {name: moment.isoformat() for name, moment in period.items() if moment is not None}
        recorded = {name: value.encode("utf-8", errors="replace") for name, value in asked.items() if value}
        with self.repository.reading(reader=self.reader, at=self.at, details=recorded) as reading, Spill() as spill:
            yield reading, spill

    def period(self) -> str:
        """Return the period in words."""
        if self.since is None and self.until is None:
            return self.words("all time")
        named = (("from", self.since), ("until", self.until))
        return ", ".join(self.words(key, f"{at.astimezone(self.zone):%Y-%m-%d %H:%M %z}") for key, at in named if at is not None)

    def by_day(self, minutes: Iterable[tuple[str, int]]) -> Chart:
        """Return a chart of counts by minute (UTC) as days of the zone, or as months where there are many days."""
        days: Counter[str] = Counter()
        for minute, count in minutes:
            days[f"{datetime.fromisoformat(minute + '+00:00').astimezone(self.zone):%Y-%m-%d}"] += count
        if not days:
            return Chart(self.words("by day"), (), upright=True)
        first, last = date.fromisoformat(min(days)), date.fromisoformat(max(days))
        if (last - first).days < _MOST_DAYS:  # days on which nothing was recorded have their place, too
            every = (first + timedelta(days=number) for number in range((last - first).days + 1))
            return Chart(self.words("by day"), tuple((f"{day:%m-%d}", days[day.isoformat()]) for day in every), upright=True)
        months: Counter[str] = Counter()
        for day, count in days.items():
            months[day[:7]] += count
        return Chart(self.words("by month"), tuple(sorted(months.items())), upright=True)


def time_zone(name: str) -> tzinfo:
    """Return a time zone by its IANA name. Raises UsageError for one that is not known."""
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"there is no time zone {name!r}", hint="for example Asia/Seoul or Europe/Berlin") from None
