"""`securepacs-proxy gateway status` and `gateway end`: who is connected to a running gateway, and ending one of them."""

from __future__ import annotations

from pathlib import Path

import typer

from securepacs.cli import output
from securepacs_proxy.cli.options import CONFIG_OPTION, JSON_OPTION, load_or_exit

_COLUMNS = ("session", "worker", "peer", "user", "roles", "since", "state", "archive", "received", "sent")


@output.reports_errors
def status(config: Path = CONFIG_OPTION, json: bool = JSON_OPTION) -> None:
    """Show who is connected: session, peer, user, roles, since when, state, archive, bytes. Exit 5 when no gateway answers."""
    from securepacs_proxy.status import sessions

    rows = sessions(load_or_exit(config).audit.spool)
    if json:
        for row in rows:
            output.print_json(row)
        return
    names = ("id", "worker", "peer", "user", "roles", "since", "state", "archive", "received", "sent")
    cells = ([", ".join(row[name]) if isinstance(row[name], list) else row[name] for name in names] for row in rows)
    output.print_table(f"{len(rows)} connected", _COLUMNS, cells)


@output.reports_errors
def end(
    session: str = typer.Argument(help="The session as `gateway status` names it."),
    config: Path = CONFIG_OPTION,
    reason: str = typer.Option("ended by an administrator", "--reason", help="Why; it is written into the audit trail."),
) -> None:
    """End one live session now. Exit 1 when there is no such session."""
    from securepacs_proxy.status import end_session

    if not end_session(load_or_exit(config).audit.spool, session, reason=reason):
        output.errors.print(f"no session {session}", markup=False, highlight=False)
        raise SystemExit(1)
