"""The table of `securepacs verify`: the verdict in words, who signed, when, and what is not protected."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from securepacs.cli import output
from securepacs.cli.paths import printable
from securepacs.cli.verdicts import facts, file_verdict, open_elements, purpose, reason, remarks, signer, when
from securepacs.cli.verify_work import Outcome

_MOST_ROWS = 200  # more files than this, and those that are valid are counted instead of shown
_COLUMNS = ("File", "Verdict", "Signed by", "When", "Not protected")
_STYLES = {"VALID": "bold green", "NOT VALID": "bold red", "DAMAGED": "bold red", "MISSING": "bold red"} | dict.fromkeys(
    ("UNDECIDED", "NOT SIGNED", "ERROR"), "bold yellow"
)


def print_verdicts(outcomes: Sequence[Outcome], at: datetime) -> None:
    """Print the table, what holds for many files, and the sum."""
    valid = sum(outcome.code == 0 for outcome in outcomes)
    shown = outcomes if len(outcomes) <= _MOST_ROWS else [outcome for outcome in outcomes if outcome.code]
    folder = _common_folder(shown) if output.console.is_terminal else ""
    if folder:
        _say(f"in {folder}")
    if shown:
        rows = (row for outcome in shown for row in _rows(outcome, folder))
        output.print_table("", _COLUMNS, rows, styles={1: _STYLES})
    counted = Counter(text for outcome in outcomes for text in remarks(outcome))
    for text, count in counted.most_common():
        _say(f"{count} {'files' if count > 1 else 'file'}: {text}")
    left_out = f" {len(outcomes) - len(shown)} valid files are not listed." if len(shown) < len(outcomes) else ""
    _say(f"{valid} of {len(outcomes)} files valid, as of {at:%Y-%m-%d %H:%M %Z}.{left_out}")


def _common_folder(outcomes: Sequence[Outcome]) -> str:
    """Return the folder that all names begin with, empty when it is not worth a line of its own."""
    try:
        return os.path.commonpath([os.path.dirname(outcome.file) for outcome in outcomes]) if len(outcomes) > 1 else ""  # noqa: PTH120
    except ValueError:
        return ""


def _rows(outcome: Outcome, folder: str) -> Iterator[tuple[str, ...]]:
    report = outcome.report
    name = os.path.relpath(outcome.file, folder) if folder else outcome.file
    verdict, further = file_verdict(outcome), list(facts(outcome))
    if report is None or not report.signatures:
        yield _cells(name, [verdict, *further], "", "", "" if report is None else "everything")
        return
    for number, result in enumerate(report.signatures):
        who = [signer(result), *([purpose(result)] if result.purpose else [])]
        where = [f"inside {result.location}"] if result.location else []
        lines = [reason(result), *where, *(further if number == 0 else ())]
        opened = open_elements(report) if number == 0 else ""
        yield _cells(name if number == 0 else "", [verdict, *lines] if number == 0 else lines, who, when(result), opened)


def _cells(*cells: str | list[str]) -> tuple[str, ...]:
    """Return cells that are safe for a terminal; lists become lines."""
    return tuple("\n".join(map(printable, cell)) if isinstance(cell, list) else printable(cell) for cell in cells)


def _say(text: str) -> None:
    output.console.print(printable(text), markup=False, highlight=False)
