"""`securepacs-proxy agent`: beside a viewer, plain DICOM in on loopback, mutual TLS with the person's card out."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import typer

from securepacs.cli import output
from securepacs.errors import UsageError

app = typer.Typer(help="The agent beside a viewer: plain DICOM in, smart-card TLS out.", no_args_is_help=True)

_CONFIG = typer.Option(Path("agent.toml"), "-c", "--config", help="Configuration of the agent.", show_default=True)


@app.command()
@output.reports_errors
def run(
    config: Path = _CONFIG,
    pin_fd: int | None = typer.Option(None, "--pin-fd", help="Take each PIN as a line from this descriptor instead of asking."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what is not an error, too."),
) -> None:
    """Run the agent until SIGTERM. It asks for the PIN at the start, when a card was put back, and after idle time."""
    from securepacs_proxy.agent import prompt
    from securepacs_proxy.agent.config import load_agent
    from securepacs_proxy.agent.server import run_agent

    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_agent(config)
    if pin_fd is not None:
        ask = prompt.from_descriptor(pin_fd)
    else:
        ask = prompt.pinentry() if settings.token.prompt == "pinentry" else prompt.terminal()

    def ready(port: int) -> None:
        print(f"securepacs-proxy: agent ready on {settings.agent.host}:{port}", file=sys.stderr, flush=True)  # noqa: T201

    run_agent(settings, ask, ready=ready)


@app.command()
@output.reports_errors
def status(config: Path = _CONFIG, as_json: bool = typer.Option(False, "--json", help="Print JSON for programs.")) -> None:
    """Show whether the running agent is logged in, as whom, and what is wrong if not."""
    from securepacs_proxy.agent.config import load_agent
    from securepacs_proxy.agent.server import read_status

    found = read_status(load_agent(config).agent.state)
    if as_json:
        output.print_json(found)
    else:
        output.print_table("agent", found.keys(), [found.values()])


@app.command()
@output.reports_errors
def export(
    config: Path = _CONFIG,
    stunnel: bool = typer.Option(False, "--stunnel", help="Write a stunnel configuration (PKCS #11) to standard output."),
    capi: bool = typer.Option(False, "--capi", help="With --stunnel: for the certificate store of Windows (not tested)."),
) -> None:
    """Write a configuration for places where the agent does not run."""
    from securepacs_proxy.agent.config import load_agent
    from securepacs_proxy.agent.export import stunnel as stunnel_configuration

    if not stunnel:
        raise UsageError("say what to write", hint="--stunnel")
    sys.stdout.write(stunnel_configuration(load_agent(config), capi=capi))
