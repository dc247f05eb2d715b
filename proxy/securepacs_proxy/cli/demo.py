"""`securepacs-proxy demo`: everything on loopback, with a told story."""

from __future__ import annotations

from typing import Annotated

import typer

from securepacs.cli.output import reports_errors


@reports_errors
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the story; exit 0 only if every step held.")] = False,
    pacs: Annotated[str, typer.Option(help="The archive behind the gateway: qrscp or orthanc.")] = "qrscp",
) -> None:
    """Show the whole system on this machine: a modality, a gateway, an archive, a doctor's card and an auditor."""
    from securepacs_proxy.demo import run_demo

    raise typer.Exit(run_demo(once=once, pacs=pacs))
