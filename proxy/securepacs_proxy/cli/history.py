"""`securepacs-proxy gateway reload` and `gateway history`: put new settings in force, and see who changed what and when."""

from __future__ import annotations

from pathlib import Path

import typer

from securepacs.cli import output
from securepacs_proxy.cli.options import CONFIG_OPTION, JSON_OPTION, load_or_exit


@output.reports_errors
def reload(
    config: Path = CONFIG_OPTION,
    reason: str = typer.Option(..., "--reason", help="Why; it is written into history and audit trail, with your user name."),
) -> None:
    """Put configuration, policies and certificates in force anew. Exit 2 when they are refused: the old ones stay."""
    from securepacs_proxy.status import order

    version = str(order(load_or_exit(config).audit.spool, {"type": "reload", "reason": reason})["version"])
    output.console.print(f"in force: version {version[:12]}", highlight=False)


@output.reports_errors
def history(
    config: Path = CONFIG_OPTION,
    show: str = typer.Option("", "--show", help="Print what one version changed, by the digits it begins with."),
    json: bool = JSON_OPTION,
) -> None:
    """List every version of policy and configuration: since when, by whom, why, and what it changed."""
    from securepacs_proxy.history import FOLDER, History

    settings = load_or_exit(config)
    book = History(settings.audit.spool / FOLDER, limit=settings.policy.history_versions)
    found = [book.find(show)] if show else book.versions()
    if json:
        for one in found:
            changes = [{"kind": change.kind.value, "lines": list(change.lines)} for change in one.changes]
            since = one.since.isoformat(timespec="microseconds")
            row = {"version": one.version, "since": since, "by": one.by, "reason": one.reason, "product": one.product}
            output.print_json({**row, "digest": one.digest, "previous": one.previous, "changes": changes})
        return
    if show:
        for change in found[0].changes:
            output.console.print(f"{change.kind.value}:", *change.lines, sep="\n", markup=False, highlight=False, soft_wrap=True)
        return
    rows = []
    for one in found:
        kinds = ", ".join(f"{change.kind.value} ({len(change.lines)})" for change in one.changes) or "other files"
        rows.append((one.since.isoformat(timespec="seconds"), one.version[:12], one.by, one.reason, kinds))
    output.print_table(f"{len(rows)} versions", ("since", "version", "by", "reason", "changed (lines)"), rows)
