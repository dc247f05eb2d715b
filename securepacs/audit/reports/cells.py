"""Making text of a sender harmless: for a spreadsheet, a terminal and a page. Shared by `audit search` and the reports."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from securepacs.audit.reports.model import Table

# also their full-width forms, which spreadsheets of East Asian locales take for the same
_FORMULA = ("=", "+", "-", "@", "|", "%", "＝", "＋", "－", "＠")
_BOM = "\ufeff"


def visible(text: str) -> str:
    """Return text on one line, control, direction and other invisible characters replaced."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " if each in "\t\r\n" else "\N{REPLACEMENT CHARACTER}" for each in text)


def neutral(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula and no terminal for a command."""
    shown = visible(text)
    return "'" + shown if text[:1] in ("\t", "\r", "\n") or shown.lstrip().startswith(_FORMULA) else shown


def csv_lines(table: Table) -> Iterator[bytes]:
    """Yield a table as CSV (RFC 4180) in UTF-8, with the byte order mark without which Excel garbles Korean."""
    yield _BOM.encode() + _line(table.columns)
    for row in table.rows():
        yield _line(row)


def _line(cells: Iterable[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow([neutral(cell) for cell in cells])
    return out.getvalue().encode("utf-8", errors="replace")
