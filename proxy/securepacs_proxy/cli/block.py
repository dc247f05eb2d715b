"""`securepacs-proxy gateway block`, `unblock` and `blocks`: keep somebody out now, without the CA."""

from __future__ import annotations

from pathlib import Path

import typer

from securepacs.cli import output
from securepacs.errors import UsageError
from securepacs_proxy.cli.options import CONFIG_OPTION, JSON_OPTION, load_or_exit

_SERIAL = typer.Option("", "--serial", help="Serial number of a certificate, hexadecimal.")
_SUBJECT = typer.Option("", "--subject", help="User ID, common name or e-mail address, as `gateway status` shows it.")
_AE = typer.Option("", "--ae", help="Calling AE title.")
_PEER = typer.Option("", "--peer", help="IP address, or network such as 10.1.0.0/16.")


@output.reports_errors
def block(
    config: Path = CONFIG_OPTION,
    serial: str = _SERIAL,
    subject: str = _SUBJECT,
    ae: str = _AE,
    peer: str = _PEER,
    reason: str = typer.Option(..., "--reason", help="Why; it is written into the audit trail."),
) -> None:
    """Keep somebody out: live associations end within a second in all workers, new ones are refused, also after a restart."""
    answers = _change("block", config, reason, serial=serial, subject=subject, ae=ae, peer=peer)
    output.console.print(f"blocked; {answers} live associations were ended", highlight=False)


@output.reports_errors
def unblock(
    config: Path = CONFIG_OPTION,
    serial: str = _SERIAL,
    subject: str = _SUBJECT,
    ae: str = _AE,
    peer: str = _PEER,
    reason: str = typer.Option(..., "--reason", help="Why; it is written into the audit trail."),
) -> None:
    """Let somebody in again. Exit 2 when there is no such block."""
    _change("unblock", config, reason, serial=serial, subject=subject, ae=ae, peer=peer)
    output.console.print("no longer blocked", highlight=False)


@output.reports_errors
def blocks(config: Path = CONFIG_OPTION, json: bool = JSON_OPTION) -> None:
    """List who is kept out by hand: what, value, reason, by whom, since when."""
    from securepacs_proxy.status import order

    rows = order(load_or_exit(config).audit.spool, {"type": "blocks"})["blocks"]
    if json:
        for row in rows:
            output.print_json(row)
        return
    names = ("kind", "value", "reason", "by", "since")
    output.print_table(f"{len(rows)} blocked", names, [[row[name] for name in names] for row in rows])


def _change(kind: str, config: Path, reason: str, **values: str) -> int:
    """Ask the running gateway; return how many live associations were ended."""
    from securepacs_proxy.status import SUPERVISOR, ask

    given = {name: value for name, value in values.items() if value}
    if len(given) != 1:
        raise UsageError("name exactly one of --serial, --subject, --ae, --peer")
    ((name, value),) = given.items()
    answers = ask(load_or_exit(config).audit.spool, {"type": kind, "kind": name, "value": value, "reason": reason})
    own = answers.pop(SUPERVISOR)
    if own.get("error"):
        raise UsageError(str(own["error"]), hint=str(own.get("hint", "")))
    return sum(int(answer["count"]) for answer in answers.values())
