"""Everything the command line prints, and the exit codes it ends with.

Results go to stdout, everything else to stderr. Errors read `error: ...` and `hint: ...`. Exit codes (the same for every command):
0 done / all valid; 1 a verdict is negative or undecided; 2 usage or configuration; 3 malformed input; 4 token or PIN; 5 something
outside did not answer. Of several files the highest of 3 > 1 > 5 > 0 counts.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from securepacs.errors import SecurePacsError

P = ParamSpec("P")

_FILE_CODE_ORDER = (3, 1, 5, 0)
_MANY = 20  # from how many steps on a progress bar is worth its place
_PIPE_COLUMNS = 10_000  # in a file or a pipe there is no edge to fold cells at: a value stays on its line

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


def print_error(error: SecurePacsError, *, file: str = "") -> None:
    """Print an error and its hint to stderr, with the file it concerns first."""
    where = f"{file}: " if file else ""
    errors.print(f"[bold red]error:[/] {where}", end="", highlight=False)
    errors.print(str(error), markup=False, highlight=False)
    if error.hint:
        errors.print("[bold]hint:[/] ", end="", highlight=False)
        errors.print(error.hint, markup=False, highlight=False)


def print_json(value: object) -> None:
    """Print one object as one line of JSON (JSON Lines)."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def print_table(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[object]],
    *,
    on_stderr: bool = False,
    styles: Mapping[int, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Print a table; cells are plain text, never markup. `on_stderr`: it is not the result.

    `styles`: for columns by number, how certain cells look on a terminal, by their first line.
    """
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = enumerate(row)
        table.add_row(*(_styled(str(cell), styles.get(number, {})) for number, cell in cells))
    wanted = errors if on_stderr else console
    out = wanted if wanted.is_terminal else Console(width=_PIPE_COLUMNS, stderr=on_stderr)
    out.print(table)


def _styled(cell: str, styles: Mapping[str, str]) -> Text:
    first, line_break, rest = cell.partition("\n")
    return Text.assemble((first, styles.get(first, "")), line_break, rest)


T = TypeVar("T")


def with_progress(steps: Iterable[T], total: int, text: str) -> Iterable[T]:
    """Show a progress bar on stderr when it is a terminal and there is more than a moment's work."""
    if total < _MANY or not errors.is_terminal:
        return steps
    from rich.progress import track

    return track(steps, text, total=total, console=errors, transient=True)


def worst_of_files(codes: Iterable[int]) -> int:
    """Combine the exit codes of several files: the highest of 3 > 1 > 5 > 0; anything else wins over all."""
    seen = set(codes)
    others = seen.difference(_FILE_CODE_ORDER)
    if others:
        return max(others)
    return next((code for code in _FILE_CODE_ORDER if code in seen), 0)


def reports_errors(command: Callable[P, Any]) -> Callable[P, Any]:
    """Decorate a command: a SecurePacsError becomes `error:` / `hint:` lines and the exit code of the error table."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        from securepacs.wiring import exit_code

        try:
            return command(*args, **kwargs)
        except SecurePacsError as error:
            print_error(error)
            raise SystemExit(exit_code(error)) from None

    return run
