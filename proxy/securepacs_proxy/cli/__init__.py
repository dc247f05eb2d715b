"""The `securepacs-proxy` command: one module per command, registered here with one line each.

Command modules import only Typer, `securepacs.cli.output` and `securepacs.errors` at their top; everything heavy is imported inside
the command, so that `--help` answers at once.
"""

from __future__ import annotations

import typer

from securepacs import __version__
from securepacs.cli import output
from securepacs_proxy.cli import agent, block, check, demo, explain, history, run, status

_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="securepacs-proxy",
    help="A TLS gateway in front of any PACS: who calls, who may do what, recorded, forwarded unchanged.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)
gateway = typer.Typer(help="The gateway and its configuration.", no_args_is_help=True, context_settings=_HELP)
app.add_typer(gateway, name="gateway")
app.add_typer(agent.app, name="agent")

app.command("demo")(demo.demo)
gateway.command("run")(run.run)
gateway.command("check")(check.check)
gateway.command("explain")(explain.explain)
gateway.command("status")(status.status)
gateway.command("end")(status.end)
gateway.command("reload")(history.reload)
gateway.command("history")(history.history)
gateway.command("block")(block.block)
gateway.command("unblock")(block.unblock)
gateway.command("blocks")(block.blocks)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.console.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Options before the command."""


def main() -> None:
    """Entry point of the console script."""
    app()
