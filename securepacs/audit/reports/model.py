"""What a report is before anybody writes it: figures, charts and tables whose rows are streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """Counts by label. `upright`: columns side by side, for days; else bars below each other."""

    title: str
    values: tuple[tuple[str, int], ...]
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `rows` may be called again and again; a page shows the first `most` of `count`."""

    title: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterable[Row]]
    count: int
    most: int = 1000


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a checklist: what was looked at, what was found, and whether somebody has to act."""

    question: str
    finding: str
    clear: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A report in one language. `data` is what its CSV holds, whole."""

    kind: str
    language: str
    title: str
    subject: str
    made: datetime
    zone: tzinfo
    figures: tuple[tuple[str, str], ...]
    data: Table
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    checks: tuple[Check, ...] = ()
    closing: tuple[tuple[str, str], ...] = ()


def local(at: datetime, zone: tzinfo) -> str:
    """Return a moment as people of a zone write it, with the offset."""
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %z}"
