"""Options and small steps that several commands share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from securepacs.cli import output
from securepacs.errors import ConfigError, UsageError
from securepacs.wiring import exit_code

if TYPE_CHECKING:
    from securepacs_proxy.config import GatewayConfig

DEFAULT_CONFIG = Path("gateway.toml")
CONFIG_OPTION = typer.Option(DEFAULT_CONFIG, "-c", "--config", help="Configuration of the gateway.", show_default=True)
JSON_OPTION = typer.Option(False, "--json", help="Print JSON Lines for programs.")


def load_or_exit(path: Path) -> GatewayConfig:
    """Return the configuration; when it is wrong print every problem with its key and exit as the error table says."""
    from securepacs_proxy.config import examine

    config, problems = examine(path)
    if config is not None and not problems:
        return config
    for problem in problems:
        print_config_error(problem, path)
    raise SystemExit(exit_code(problems[0]))


def print_config_error(problem: ConfigError, path: Path) -> None:
    """Print one problem as `error: FILE: KEY: what`, followed by its hint."""
    output.print_error(problem, file=f"{path}: {problem.key}" if problem.key else str(path))


def moment(text: str) -> datetime:
    """Read RFC 3339 date and time with its offset; empty is now. Raises UsageError."""
    if not text:
        return datetime.now(UTC)
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = datetime.min
    if value.tzinfo is None:
        raise UsageError("the time is not RFC 3339 with an offset", hint="for example 2026-03-01T12:00:00Z")
    return value.astimezone(UTC)
