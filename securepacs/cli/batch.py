"""One kind of work on one file or on every file of a tree: what commands with `SRC -o DST` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from securepacs.cli import output
from securepacs.errors import SecurePacsError, UsageError

SourceArgument = Annotated[Path, typer.Argument(metavar="SRC", help="The file to read, or a folder: all files below it.")]
DestinationOption = Annotated[Path, typer.Option("-o", "--output", metavar="DST", help="The file to write, or the folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")]
Work: TypeAlias = Callable[[Path, Path], dict[str, Any]]


def file_pairs(source: Path, destination: Path) -> list[tuple[Path, Path]]:
    """Return what to read and where to write it; UsageError when the output would become input."""
    from securepacs.cli.paths import outputs_for

    if source.is_dir() and destination.resolve().is_relative_to(source.resolve()):
        raise UsageError("the output would lie inside the input")
    return outputs_for([source], destination, in_place=False)


def each_file(pairs: list[tuple[Path, Path]], work: Work, *, as_json: bool) -> tuple[list[dict[str, Any]], int]:
    """Do the work for every file; return results and exit code. The failure of one of several does not stop the others."""
    from securepacs.wiring import exit_code

    results: list[dict[str, Any]] = []
    codes: list[int] = []
    for file, result in pairs:
        try:
            if len(pairs) > 1:
                result.parent.mkdir(parents=True, exist_ok=True)
            results.append(work(file, result))
            if as_json:
                output.print_json(results[-1])
        except SecurePacsError as error:
            if len(pairs) == 1:
                raise
            output.print_error(error, file=str(file))
            codes.append(exit_code(error))
    return results, output.worst_of_files(codes) if codes else 0
