"""Files named on the command line: folders opened, outputs placed, moments read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from securepacs.errors import ConfigError, UsageError


def files_in(paths: Iterable[Path]) -> list[Path]:
    """Return the files that the arguments name, in their order; a folder stands for all files below it, sorted.

    Evidence that stands beside a signed file goes with that file and is none to work on, unless it is named itself.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += _below(path)
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"there is no file {path}")
    if not found:
        raise UsageError("there are no files to work on")
    return found


def _below(folder: Path) -> list[Path]:
    """Return the regular files below a folder, evidence left out: a pipe or a device could be waited for without end."""
    from securepacs.signatures.evidence import SUFFIX

    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        wanted = (Path(parent, name) for name in sorted(names) if not name.endswith(SUFFIX))
        files += [path for path in wanted if path.is_file()]
    return files


def outputs_for(arguments: Iterable[Path], output: Path | None, *, in_place: bool) -> list[tuple[Path, Path]]:
    """Return (source, destination) for every file; UsageError when a destination is unclear, doubled, or its own source.

    `output` is a file when one file is given and no folder of that name exists, else a folder. Files below a folder argument keep
    their relative paths.
    """
    if in_place == (output is not None):
        raise UsageError("say where the result goes: -o FILE-OR-FOLDER, or --in-place")
    arguments = list(arguments)
    if output is None:
        return [(source, source) for source in files_in(arguments)]
    pairs: list[tuple[Path, Path]] = []
    as_folder = len(arguments) > 1 or arguments[0].is_dir() or output.is_dir() or str(output).endswith(os.sep)
    for argument in arguments:
        for source in files_in([argument]):
            relative = source.relative_to(argument) if argument.is_dir() else Path(source.name)
            pairs.append((source, output / relative if as_folder else output))
    seen: set[Path] = set()
    sources = {source.resolve() for source, _ in pairs}
    for _, destination in pairs:
        place = destination.resolve()
        if place in sources:
            raise UsageError(f"{destination} is also an input", hint="use --in-place to replace files by their signed form")
        if place in seen:
            raise UsageError(f"two inputs would be written to {destination}")
        seen.add(place)
    return pairs


def cache_folder() -> Path | None:
    """Return where fetched revocation data is kept between runs (XDG base directories), None where nothing can be kept."""
    from securepacs.trust.cache import DiskCache

    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (base if base.is_absolute() else Path.home() / ".cache") / "securepacs" / "revocation"
        return DiskCache(folder).folder
    except (ConfigError, RuntimeError):  # no home, a read-only one, or somebody else's
        return None


def parse_moment(text: str) -> datetime:
    """Read an RFC 3339 moment; the UTC offset is required."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(f"{text!r} is no moment with UTC offset", hint="write 2027-01-31T08:00:00Z", standard="RFC 3339")
    return moment


def readable(path: object) -> str:
    """Return a path as text that fits into JSON and UTF-8; bytes that are none become replacement characters."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def printable(text: object) -> str:
    """Return text that is safe for a terminal and for UTF-8: control characters and broken bytes become question marks."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
