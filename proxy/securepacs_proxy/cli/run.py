"""`securepacs-proxy gateway run`: the gateway itself, in the foreground, until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import typer

from securepacs.cli import output
from securepacs_proxy.cli.logs import LogFormat, configure
from securepacs_proxy.cli.options import CONFIG_OPTION


@output.reports_errors
def run(
    config: Path = CONFIG_OPTION,
    drain: float = typer.Option(30.0, "--drain", min=0.0, help="Seconds that live associations have to end after SIGTERM."),
    ready_fd: int | None = typer.Option(None, "--ready-fd", help="Descriptor that gets the ready line too, and is then closed."),
    log_format: LogFormat = typer.Option(LogFormat.TEXT, "--log-format", help="Lines for people, or JSON Lines for programs."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what is not an error, too."),
) -> None:
    """Run the gateway. SIGTERM drains and ends, a second one ends at once; SIGHUP reads the configuration again."""
    from securepacs_proxy.workers import run_gateway

    configure(log_format, verbose=verbose)
    run_gateway(config, drain_seconds=drain, ready_fd=ready_fd)
