"""Rows and distinct values of a report, kept in a private temporary file so that memory does not grow with the trail.

SQLite holds the file open without a name: it is gone with the process, however that ends.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from securepacs.audit.reports.model import Row

_CACHE_KIB = 8192


class Spill:
    """Collects rows in their order, and what was seen of each kind: how often, when first, when last."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size=-{_CACHE_KIB}",
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "PRAGMA temp_store=FILE",
            "CREATE TABLE line (id INTEGER PRIMARY KEY, name TEXT NOT NULL, cells TEXT NOT NULL)",
            "CREATE INDEX line_by_name ON line (name, id)",
            "CREATE TABLE seen (kind TEXT, value TEXT, times INTEGER, first TEXT, last TEXT, PRIMARY KEY (kind, value))"
            " WITHOUT ROWID",
        ):
            self._file.execute(statement)

    def add(self, name: str, row: Row) -> None:
        """Append a row to the table `name`."""
        self._file.execute("INSERT INTO line (name, cells) VALUES (?, ?)", (name, json.dumps(list(row))))

    def rows(self, name: str) -> Iterator[Row]:
        """Yield the rows of a table in their order."""
        for (cells,) in self._file.execute("SELECT cells FROM line WHERE name = ? ORDER BY id", (name,)):
            yield json.loads(cells)

    def row_count(self, name: str) -> int:
        """Return how many rows a table has."""
        return int(self._file.execute("SELECT count(*) FROM line WHERE name = ?", (name,)).fetchone()[0])

    def see(self, kind: str, value: str, moment: str) -> None:
        """Count a value of a kind; `moment` sorts as time does."""
        self._file.execute(
            "INSERT INTO seen VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET times = times + 1,"
            " first = min(first, excluded.first), last = max(last, excluded.last)",
            (kind, value, moment, moment),
        )

    def seen(self, kind: str) -> Iterator[tuple[str, int, str, str]]:
        """Yield (value, times, first moment, last moment) of a kind, by value."""
        yield from self._file.execute("SELECT value, times, first, last FROM seen WHERE kind = ? ORDER BY value", (kind,))

    def most_seen(self, kind: str, most: int) -> list[tuple[str, int]]:
        """Return the most frequent values of a kind."""
        query = "SELECT value, times FROM seen WHERE kind = ? ORDER BY times DESC, value LIMIT ?"
        return [(str(value), int(times)) for value, times in self._file.execute(query, (kind, most))]

    def distinct(self, kind: str) -> int:
        """Return how many different values of a kind there are."""
        return int(self._file.execute("SELECT count(*) FROM seen WHERE kind = ?", (kind,)).fetchone()[0])

    def close(self) -> None:
        """Let go of everything."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
